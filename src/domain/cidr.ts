/**
 * A block of addresses in its one form (RFC 4632, RFC 4291 section 2.3): `text` is canonical,
 * `bytes` are the network's 4 (IPv4) or 16 (IPv6), of which the first `bits` bits count. A single address
 * is a block of all its bits.
 */
export type Cidr = Readonly<{ text: string; bytes: readonly number[]; bits: number }>;

/** What a key may be used from: null for anywhere, an empty list for nowhere. */
export type AllowedCidrs = readonly Cidr[] | null;

/** True when every address of `inner` is one of `outer`; a family never holds the other's. */
export function holds(outer: Cidr, inner: Cidr): boolean {
  if (outer.bytes.length !== inner.bytes.length || outer.bits > inner.bits) return false;
  const whole = outer.bits >> 3;
  for (let index = 0; index < whole; index += 1) {
    if (outer.bytes[index] !== inner.bytes[index]) return false;
  }
  const rest = 8 - (outer.bits & 7);
  return (outer.bytes[whole] ?? 0) >> rest === (inner.bytes[whole] ?? 0) >> rest;
}

/** True when every address of `inner` is allowed. */
export const allows = (allowed: AllowedCidrs, inner: Cidr): boolean =>
  allowed === null || allowed.some((outer) => holds(outer, inner));

/**
 * True when `inner` reaches no further than `outer`: each of its blocks lies in one block of the
 * other. Blocks are not joined, so two halves do not stand for their whole.
 */
export const isWithin = (inner: AllowedCidrs, outer: AllowedCidrs): boolean =>
  outer === null || (inner?.every((cidr) => allows(outer, cidr)) ?? false);
