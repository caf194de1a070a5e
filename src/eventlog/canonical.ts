import canonicalize from 'canonicalize';
import type { Json } from '../domain/decider.ts';

/**
 * Canonical JSON (RFC 8785). Throws on what has no canonical form: a number that is not finite, a
 * lone surrogate, a value that is not JSON.
 */
export function canonicalJson(value: Json): string {
  const text = canonicalize(value);
  if (text === undefined) throw new TypeError('not a JSON value');
  return text;
}
