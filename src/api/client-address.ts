import type { IncomingMessage } from 'node:http';
import ipaddr from 'ipaddr.js';

export type ClientAddress = (request: IncomingMessage) => string;

/**
 * Whom a request comes from: the peer of the connection or, when that is a trusted proxy, the
 * right-most address in `X-Forwarded-For` that is not one. Nobody else's header is believed.
 */
export function clientAddressOf(trustedProxies: readonly string[]): ClientAddress {
  const ranges = trustedProxies.map((text) =>
    ipaddr.isValidCIDR(text) ? ipaddr.parseCIDR(text) : singleAddress(text),
  );
  const isTrusted = (address: string) => {
    if (!ipaddr.isValid(address)) return false;
    const parsed = ipaddr.process(address);
    return ranges.some(
      ([range, bits]) => range.kind() === parsed.kind() && parsed.match(range, bits),
    );
  };
  return (request) => {
    const peer = plain(request.socket.remoteAddress ?? '');
    const forwarded = request.headers['x-forwarded-for'];
    if (ranges.length === 0 || forwarded === undefined || !isTrusted(peer)) return peer;
    const hops = String(forwarded)
      .split(',')
      .map((hop) => hop.trim());
    let furthest = peer;
    for (const hop of hops.reverse()) {
      // A hop that is no address ends the chain: what stands left of it was written by anybody.
      if (!ipaddr.isValid(hop)) return furthest;
      if (!isTrusted(hop)) return plain(hop);
      furthest = plain(hop);
    }
    return furthest;
  };
}

/** Requests are counted per IPv4 address and per IPv6 /64, which is what one customer gets. */
export function networkOf(address: string): string {
  if (!ipaddr.isValid(address)) return 'unknown';
  const parsed = ipaddr.process(address);
  if (parsed.kind() === 'ipv4') return parsed.toString();
  const parts = (parsed as ipaddr.IPv6).parts.slice(0, 4).map((part) => part.toString(16));
  return `${parts.join(':')}::/64`;
}

export const isLoopbackAddress = (address: string): boolean =>
  ipaddr.isValid(address) && ipaddr.process(address).range() === 'loopback';

/** `::ffff:192.0.2.1` is 192.0.2.1. Most peers are one of the two kinds already, which is cheap to see. */
const plain = (address: string): string =>
  address.startsWith('::ffff:') ? address.slice('::ffff:'.length) : address;

function singleAddress(text: string): [ipaddr.IPv4 | ipaddr.IPv6, number] {
  const address = ipaddr.process(text);
  return [address, address.kind() === 'ipv4' ? 32 : 128];
}
