import { createHash, randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';

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

/** Standard Webhooks 1.0.0: a symmetric secret has between 24 and 64 random bytes. */
const WEBHOOK_SECRET_BYTES_MIN = 24;
const WEBHOOK_SECRET_BYTES_MAX = 64;
const WEBHOOK_SECRET_BYTES = 32;
const WEBHOOK_SECRET_PREFIX = 'whsec_';
const FINGERPRINT_DIGITS = 8;

/** A new secret in its written form: `whsec_` and 32 random bytes in base64. */
export function issueWebhookSecret(random: (bytes: number) => Buffer = randomBytes): string {
  return WEBHOOK_SECRET_PREFIX + random(WEBHOOK_SECRET_BYTES).toString('base64');
}

/**
 * The bytes of a written secret (`whsec_` and 24 to 64 bytes in padded standard base64), which are
 * the HMAC key; null for anything else.
 */
export function parseWebhookSecret(text: string): Buffer | null {
  if (!text.startsWith(WEBHOOK_SECRET_PREFIX)) return null;
  const written = text.slice(WEBHOOK_SECRET_PREFIX.length);
  const secret = Buffer.from(written, 'base64');
  // Node skips what is no base64; a receiver's library may not, and would then have another key.
  if (secret.toString('base64') !== written) return null;
  return secret.length >= WEBHOOK_SECRET_BYTES_MIN && secret.length <= WEBHOOK_SECRET_BYTES_MAX
    ? secret
    : null;
}

/** Eight hex digits by which people tell secrets apart; from 24 random bytes they give away none. */
export function secretFingerprint(secret: Buffer): string {
  return createHash('sha256').update(secret).digest('hex').slice(0, FINGERPRINT_DIGITS);
}

const KEY_IN_TEXT = /nmg_[0-9a-f]{16,}/gi;
const SECRET_IN_TEXT = /nmg_[0-9a-f]{17,}/i;

/** True when a text holds an API key, or so much of one that it should be nowhere; its prefix is erased with it. */
export const holdsApiKey = (text: string): boolean => text.search(KEY_IN_TEXT) !== -1;
/** True when a text holds more of an API key than its prefix, by which keys are listed and may be looked for. */
export const holdsSecretOfKey = (text: string): boolean => SECRET_IN_TEXT.test(text);
/** A text of somebody else's making, without the keys that stand in it. */
export const withoutApiKeys = (text: string): string => text.replace(KEY_IN_TEXT, 'nmg_[redacted]');

export const keyPrefixOf = (key: string): string => key.slice(0, KEY_PREFIX_LENGTH);
