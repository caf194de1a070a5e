import { createHash } from 'node:crypto';

const LEAF_PREFIX = Buffer.from([0x00]);

/**
 * The Merkle leaf hash of one committed line (RFC 6962 section 2.1): SHA-256 over a zero byte and
 * the line's UTF-8 bytes exactly as stored.
 */
export function leafHash(line: string | Buffer): Buffer {
  return createHash('sha256').update(LEAF_PREFIX).update(line).digest();
}
