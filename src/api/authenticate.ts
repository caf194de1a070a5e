import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { isAllowedFrom } from '../projections/key-addresses.ts';
import type { LiveKey, LiveKeys, Refusal } from '../projections/live-keys.ts';
import { API_KEY_PATTERN, holdsSecretOfKey } from '../secret-text.ts';

export type Authenticated =
  | Readonly<{ key: LiveKey; refusal: null }>
  | Readonly<{ key: LiveKey | null; refusal: Refusal | 'missing' | 'address' }>;

type Verified = Readonly<{ text: string; key: LiveKey }>;
const VERIFIED = Symbol('the key that this connection verified last');

/** When a request came, and from where: the client's address as trusted proxies tell it. */
type Arrival = Readonly<{ nowMs: number; address: string }>;

/**
 * Tells whose request this is from `X-API-Key`, and whether that key may be used from where it came. Of a
 * connection through a proxy the address is another for each request.
 */
export function authenticate(
  request: IncomingMessage,
  liveKeys: LiveKeys,
  { nowMs, address }: Arrival,
): Authenticated {
  const verdict = verify(request, liveKeys, nowMs);
  if (verdict.refusal !== null || isAllowedFrom(verdict.key.principal, address)) return verdict;
  return { key: verdict.key, refusal: 'address' };
}

/**
 * The key that a request carries. A connection remembers the key that it verified last:
 * the HMAC is spared while that very entry is still the one in memory, and the entry is replaced by
 * any change of the key, so a revocation is seen by the next request.
 */
function verify(request: IncomingMessage, liveKeys: LiveKeys, nowMs: number): Authenticated {
  const text = request.headers['x-api-key'];
  if (text === undefined) return { key: null, refusal: 'missing' };
  // Node joins repeated headers with a comma, which the pattern refuses.
  if (typeof text !== 'string' || !API_KEY_PATTERN.test(text)) {
    return { key: null, refusal: 'malformed' };
  }
  const socket = request.socket as Socket & { [VERIFIED]?: Verified | null };
  const verified = socket[VERIFIED];
  if (verified?.text === text) {
    if (liveKeys.stillValid(verified.key, nowMs) === null) {
      return { key: verified.key, refusal: null };
    }
    socket[VERIFIED] = null;
  }
  const verdict = liveKeys.verify(text, nowMs);
  if (verdict.refusal === null) socket[VERIFIED] = { text, key: verdict.key };
  return verdict;
}

/**
 * Whether a request carries the ingest password (HTTP Basic, RFC 7617, user `ingest`). With a key it is not
 * looked at; without a password set, none is right.
 */
export function checkIngestPassword(
  { headers }: IncomingMessage,
  password: string | null,
): 'right' | 'wrong' | 'absent' {
  const given = /^basic ([a-z0-9+/=]+)$/i.exec(headers.authorization ?? '')?.[1];
  if (given === undefined || headers['x-api-key'] !== undefined) return 'absent';
  if (password === null) return 'wrong';
  const sent = Buffer.from(given, 'base64');
  // Digests are of one length, which is what the comparison in constant time needs.
  const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest();
  const isRight = timingSafeEqual(digest(sent), digest(Buffer.from(`ingest:${password}`)));
  return isRight ? 'right' : 'wrong';
}

/** A key in a URL ends up in logs and histories, so it is refused and its owner should know. */
export function hasKeyInUrl(url: string): boolean {
  if (holdsSecretOfKey(url)) return true;
  // Percent-encoding hides it from us, not from whoever reads the logs.
  return url.includes('%') && holdsSecretOfKey(url.replace(/%([0-9a-f]{2})/gi, decodeByte));
}

const decodeByte = (_: string, hex: string): string =>
  String.fromCharCode(Number.parseInt(hex, 16));
