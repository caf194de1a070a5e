import { createHash, createHmac, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto';
import { crc32 } from 'node:zlib';

/** Every key of this installation, derived from the one master key (HKDF-SHA-256, RFC 5869). */
export type Secrets = Readonly<{
  /** Number of the pepper that new verifiers are made with. */
  pepperId: number;
  verifierOf: (pepperId: number, secret: string) => Buffer;
  cursorKey: Buffer;
  streamNameKey: Buffer;
  /** For fingerprints of request bodies. */
  fingerprintKey: Buffer;
  /** Tells whether a database belongs to this master key, without giving it away. */
  fingerprint: Buffer;
}>;

const KEY_BYTES = 32;
const PEPPER_ID = 1;

export function deriveSecrets(masterKey: Buffer): Secrets {
  const derive = (purpose: string) =>
    Buffer.from(hkdfSync('sha256', masterKey, '', `mailguard/${purpose}`, KEY_BYTES));
  const peppers = new Map<number, Buffer>([[PEPPER_ID, derive(`api-key-pepper/${PEPPER_ID}`)]]);
  return {
    pepperId: PEPPER_ID,
    verifierOf(pepperId, secret) {
      const pepper = peppers.get(pepperId);
      // A verifier of a pepper that is gone can match nothing.
      if (pepper === undefined) return randomBytes(KEY_BYTES);
      return createHmac('sha256', pepper).update(secret).digest();
    },
    cursorKey: derive('cursor'),
    streamNameKey: derive('stream-name'),
    fingerprintKey: derive('request-fingerprint'),
    fingerprint: createHash('sha256').update(derive('fingerprint')).digest(),
  };
}

export const API_KEY_PATTERN = /^nmg_[0-9a-f]{64}$/;
/** `nmg_` and 16 hex digits: what is shown and looked up; 160 secret bits remain behind it. */
export const KEY_PREFIX_LENGTH = 20;
const RANDOM_HEX_LENGTH = 56;

/**
 * A new API key: `nmg_`, 28 random bytes in hex, and the CRC-32 of all that stands before it, by which
 * a secret scanner can tell a key from noise offline. Requests are never judged by the checksum.
 */
export function issueApiKey(random: (bytes: number) => Buffer = randomBytes): string {
  const body = `nmg_${random(RANDOM_HEX_LENGTH / 2).toString('hex')}`;
  return body + crc32(body).toString(16).padStart(8, '0');
}

const KEY_IN_TEXT = /nmg_[0-9a-f]{16,}/gi;

/** True when a text holds an API key, or so much of one that it should be nowhere. */
export const holdsApiKey = (text: string): boolean => text.search(KEY_IN_TEXT) !== -1;
/** A text of somebody else's making, without the keys that stand in it. */
export const withoutApiKeys = (text: string): string => text.replace(KEY_IN_TEXT, 'nmg_[redacted]');

export const keyPrefixOf = (key: string): string => key.slice(0, KEY_PREFIX_LENGTH);

/** Compares without telling by its time where two verifiers differ. */
export const isSameVerifier = (a: Buffer, b: Buffer): boolean =>
  a.length === b.length && timingSafeEqual(a, b);
