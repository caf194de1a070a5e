import { parseCidr } from '../cidr-text.ts';
import { ALLOWED_CIDRS_MAX } from '../domain/api-key.ts';
import type { Cidr } from '../domain/cidr.ts';
import { isAllowedFrom } from '../projections/key-addresses.ts';
import { invalid } from './input.ts';
import { z } from './zod.ts';

/** An address in full with a zone of no length, and a prefix: nothing longer is one. */
const TEXT_LENGTH_MAX = 64;

const CidrText = z
  .string()
  .max(TEXT_LENGTH_MAX)
  .transform((text, context): Cidr => {
    const { cidr, issue } = parseCidr(text);
    if (cidr !== null) return cidr;
    context.issues.push({ code: 'custom', message: issue, input: text });
    return z.NEVER;
  })
  .openapi({ type: 'string' });

/** A list of blocks as a caller may write it; comes out in canonical form, each block once. */
export const AllowedCidrList = z
  .array(CidrText)
  .min(1, 'must name a block: a key that nobody can use is revoked instead (null: from anywhere)')
  .max(ALLOWED_CIDRS_MAX)
  .transform((cidrs) => [...new Map(cidrs.map((cidr) => [cidr.text, cidr])).values()])
  .openapi({
    description:
      `Up to ${ALLOWED_CIDRS_MAX} addresses and blocks that the key may be used from; null: anywhere. ` +
      'From elsewhere it is answered 401, as an unknown key is, and its rate limit is not touched. ' +
      'The address is the one that trusted proxies tell. IPv4 in IPv6 is IPv4; host bits must be 0.',
    example: ['192.0.2.0/24', '2001:db8::/32'],
  });

/** Refuses a list by which callers would lock out the very key that they call with. */
export function requireOwnAddress(
  allowedCidrs: readonly Cidr[] | null,
  address: string | null,
): void {
  if (isAllowedFrom({ allowedCidrs }, address ?? '')) return;
  const message = 'does not hold the address that you call from, and this is your own key';
  throw invalid([{ path: 'allowed_cidrs', message }]);
}
