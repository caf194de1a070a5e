import type { LookupAddress } from 'node:dns';
import { isIPv4, isIPv6 } from 'node:net';

/** Says of an address, as text without brackets, whether deliveries must keep away from it. */
export type AddressPolicy = Readonly<{ denies: (address: string) => boolean }>;

/** Every address of a host name, or a rejection: what `dns.promises.lookup` does. */
export type LookupAll = (
  host: string,
  options: Readonly<{ all: true }>,
) => Promise<readonly LookupAddress[]>;

/** The addresses whose bits above the lowest `shift` are `prefix`. */
type Range = Readonly<{ prefix: bigint; shift: bigint }>;

const IPV4_BITS = 32n;
const IPV4_MASK = 0xffff_ffffn;
/** An IPv4 address is kept as its mapped form (RFC 4291 2.5.5.2), so both spellings are one. */
const MAPPED = 0xffffn;

/** 2000::/3 is all that IANA has given out as global unicast: what is outside is denied unnamed. */
const GLOBAL = rangesOf('::ffff:0:0/96', '2000::/3');

/** What is inside and yet no public host (IANA's special-purpose registries, RFC 6890). */
const SPECIAL = rangesOf(
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.31.196.0/24',
  '192.52.193.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '192.175.48.0/24',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4',
  '240.0.0.0/4',
  // Teredo, benchmarking, AMT, AS112, ORCHID.
  '2001::/23',
  '2001:db8::/32',
  '2002::/16',
  '2620:4f:8000::/48',
  '3fff::/20',
);

/** Where clouds give credentials to whoever asks from inside; no setting opens these. */
const METADATA = rangesOf(
  '169.254.169.254',
  '169.254.170.2',
  '169.254.170.23',
  '100.100.100.200',
  '192.0.0.192',
  // Azure's, a public address that only its own guests can reach.
  '168.63.129.16',
  'fd00:ec2::23',
  'fd00:ec2::254',
  'fd20:ce::254',
);

const lowest = (value: bigint) => value & IPV4_MASK;

/** IPv6 ranges whose packets some gateway may turn into packets for an IPv4 address inside them. */
const CARRIERS = [
  // IPv4-compatible (RFC 4291 2.5.5.1), translated (RFC 2765), NAT64 (RFC 6052, RFC 8215).
  ...rangesOf('::/96', '::ffff:0:0:0/96', '64:ff9b::/96', '64:ff9b:1::/48').map((range) => ({
    range,
    ipv4Of: lowest,
  })),
  // 6to4 (RFC 3056).
  { range: parseRange('2002::/16'), ipv4Of: (value: bigint) => lowest(value >> 80n) },
  // Teredo (RFC 4380 4) keeps its client's address inverted.
  { range: parseRange('2001::/32'), ipv4Of: (value: bigint) => lowest(~value) },
] as const;

/**
 * Denies every address that is not global unicast, IPv6 forms that carry IPv4 ones included, but
 * not what is in `allowCidrs` (CIDRs or single addresses; an Error for anything else). Denied all
 * the same: metadata services of clouds, an allowed IPv6 address that carries a denied IPv4 one,
 * and text that is no plain address, such as one with a zone.
 */
export function addressPolicy(allowCidrs: readonly string[]): AddressPolicy {
  const allowed = rangesOf(...allowCidrs);
  const deniesValue = (value: bigint): boolean => {
    const inner = carriedIpv4(value);
    if (inner !== null && deniesValue(inner)) return true;
    if (isInAny(METADATA, value)) return true;
    if (isInAny(allowed, value)) return false;
    return !isInAny(GLOBAL, value) || isInAny(SPECIAL, value);
  };
  return {
    denies(address) {
      const value = parseAddress(address);
      return value === null || deniesValue(value);
    },
  };
}

function carriedIpv4(value: bigint): bigint | null {
  // `::` and `::1` stand in the range of the IPv4-compatible addresses and are none.
  if (value <= 1n) return null;
  const carrier = CARRIERS.find(({ range }) => isIn(range, value));
  return carrier === undefined ? null : mapped(carrier.ipv4Of(value));
}

function mapped(ipv4: bigint): bigint {
  return (MAPPED << IPV4_BITS) | ipv4;
}

function isIn({ prefix, shift }: Range, value: bigint): boolean {
  if (value >> shift !== prefix) return false;
  // Who writes `::/0` means IPv6, and not also all that is mapped into it.
  return shift <= IPV4_BITS || value >> IPV4_BITS !== MAPPED;
}

const isInAny = (ranges: readonly Range[], value: bigint) =>
  ranges.some((range) => isIn(range, value));

function rangesOf(...cidrs: readonly string[]): readonly Range[] {
  return cidrs.map(parseRange);
}

function parseRange(cidr: string): Range {
  const [address = '', bits, ...more] = cidr.split('/');
  const value = parseAddress(address);
  const width = isIPv4(address) ? 32 : 128;
  const isBits = bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= width);
  if (value === null || !isBits || more.length > 0) throw new Error(`${cidr} is no CIDR`);
  const shift = BigInt(width - Number(bits ?? width));
  return { prefix: value >> shift, shift };
}

/** The 128 bits of an address; null for what is none, or has a zone. */
function parseAddress(text: string): bigint | null {
  if (isIPv4(text)) return mapped(joined(text.split('.'), 8n));
  if (!isIPv6(text) || text.includes('%')) return null;
  const hex = text.replace(/\d+\.\d+\.\d+\.\d+$/, (ipv4) => {
    const value = joined(ipv4.split('.'), 8n);
    return `${(value >> 16n).toString(16)}:${(value & 0xffffn).toString(16)}`;
  });
  const [head = [], tail = []] = hex
    .split('::')
    .map((part) => (part === '' ? [] : part.split(':').map((group) => `0x${group}`)));
  const zeros = Array<string>(8 - head.length - tail.length).fill('0');
  return joined([...head, ...zeros, ...tail], 16n);
}

function joined(parts: readonly string[], bits: bigint): bigint {
  return parts.reduce((value, part) => (value << bits) | BigInt(part), 0n);
}
