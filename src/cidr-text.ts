import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import type { Cidr } from './domain/cidr.ts';

/** A block of addresses, or what is wrong with how it is written. */
export type ParsedCidr =
  | Readonly<{ cidr: Cidr; issue: null }>
  | Readonly<{ cidr: null; issue: string }>;

const NO_CIDR = 'must be an address or a block like 192.0.2.0/24 or 2001:db8::/32';
const MAPPED_BITS = 96;
const MAPPED_PREFIX = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/**
 * Reads a block as a person writes it. An address alone is a block of one; IPv4 in IPv6
 * (`::ffff:192.0.2.0/120`, RFC 4291 2.5.5.2) is IPv4, as clients are. Host bits that are set are an
 * issue that names the network: whoever wrote them meant something else than we would take.
 */
export function parseCidr(text: string): ParsedCidr {
  const [address = '', suffix, more] = text.split('/');
  // Short, octal and hexadecimal spellings mean different addresses to different programs.
  const family = address.includes('%') || more !== undefined ? 0 : isIP(address);
  if (family === 0) return { cidr: null, issue: NO_CIDR };
  const most = family === 4 ? 32 : 128;
  if (suffix !== undefined && !/^(0|[1-9]\d{0,2})$/.test(suffix)) {
    return { cidr: null, issue: NO_CIDR };
  }
  const bits = suffix === undefined ? most : Number(suffix);
  if (bits > most) return { cidr: null, issue: `must have a prefix of at most /${most}` };
  const block = plain(ipaddr.parse(address).toByteArray(), bits);
  const network = toNetwork(block.bytes, block.bits);
  if (block.bytes.some((byte, index) => byte !== network[index])) {
    return {
      cidr: null,
      issue: `has host bits set: the network is ${toText(network, block.bits)}`,
    };
  }
  return {
    cidr: { ...block, text: toText(network, block.bits) },
    issue: null,
  };
}

/** The address of a client as a block of one; null for what is no address. */
export function toSingle(address: string): Cidr | null {
  // A link-local address tells through which interface it came, which no block can.
  const bare = isIP(address) === 6 ? address.replace(/%.*$/, '') : address;
  return isIP(bare) === 0 ? null : parseCidr(bare).cidr;
}

/** A list as it was stored. What is no list of blocks, or in any part none, allows nothing. */
export function readCidrs(stored: unknown): readonly Cidr[] {
  if (!Array.isArray(stored)) return [];
  const cidrs = stored.map((text) => (typeof text === 'string' ? parseCidr(text).cidr : null));
  return cidrs.every((cidr) => cidr !== null) ? cidrs : [];
}

function plain(bytes: readonly number[], bits: number): { bytes: readonly number[]; bits: number } {
  const isMapped =
    bytes.length === 16 &&
    bits >= MAPPED_BITS &&
    MAPPED_PREFIX.every((byte, index) => byte === bytes[index]);
  return isMapped ? { bytes: bytes.slice(12), bits: bits - MAPPED_BITS } : { bytes, bits };
}

const toNetwork = (bytes: readonly number[], bits: number): number[] =>
  bytes.map((byte, index) => {
    const left = Math.min(8, Math.max(0, bits - index * 8));
    return byte & (0xff << (8 - left)) & 0xff;
  });

const toText = (bytes: readonly number[], bits: number): string =>
  `${ipaddr.fromByteArray([...bytes]).toString()}/${bits}`;
