import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  hkdfSync,
  randomBytes,
  timingSafeEqual,
} from 'node:crypto';

/** Every key of this installation, derived from the one master key (HKDF-SHA-256, RFC 5869). */
export type Secrets = Readonly<{
  /** Number of the pepper that new verifiers are made with. */
  pepperId: number;
  verifierOf: (pepperId: number, secret: string) => Buffer;
  cursorKey: Buffer;
  streamNameKey: Buffer;
  /** For fingerprints of request bodies. */
  fingerprintKey: Buffer;
  /** Encrypts what must be known to be used; it opens only for the purpose it was sealed for. */
  seal: (secret: Buffer, purpose: string) => Buffer;
  /** Throws on what was sealed under another key or for another purpose. */
  unseal: (sealed: Buffer, purpose: string) => Buffer;
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
    ...sealer(derive(`credential-encryption/${SEALING_KEY_ID}`)),
    fingerprint: createHash('sha256').update(derive('fingerprint')).digest(),
  };
}

/** The first byte of what is sealed: the number of its key. */
const SEALING_KEY_ID = 1;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** AES-256-GCM (NIST SP 800-38D): key number, nonce, tag, ciphertext. */
function sealer(key: Buffer): Pick<Secrets, 'seal' | 'unseal'> {
  return {
    seal(secret, purpose) {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(purpose));
      const text = Buffer.concat([cipher.update(secret), cipher.final()]);
      return Buffer.concat([Buffer.from([SEALING_KEY_ID]), nonce, cipher.getAuthTag(), text]);
    },
    unseal(sealed, purpose) {
      if (sealed[0] !== SEALING_KEY_ID) throw new Error('sealed under a key that is not here');
      const nonce = sealed.subarray(1, 1 + NONCE_BYTES);
      const tag = sealed.subarray(1 + NONCE_BYTES, 1 + NONCE_BYTES + TAG_BYTES);
      const options = { authTagLength: TAG_BYTES };
      const decipher = createDecipheriv('aes-256-gcm', key, nonce, options)
        .setAAD(Buffer.from(purpose))
        .setAuthTag(tag);
      return Buffer.concat([
        decipher.update(sealed.subarray(1 + NONCE_BYTES + TAG_BYTES)),
        decipher.final(),
      ]);
    },
  };
}

/** What the secret of a subscription is sealed for, so that it opens for no other. */
export const webhookSecretPurpose = (id: number, fingerprint: string): string =>
  `webhook:${id}/${fingerprint}`;

/** Compares without telling by its time where two verifiers differ. */
export const isSameVerifier = (a: Buffer, b: Buffer): boolean =>
  a.length === b.length && timingSafeEqual(a, b);
