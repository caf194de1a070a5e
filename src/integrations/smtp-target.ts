import assert from 'node:assert/strict';
import { isIP } from 'node:net';

const PORT_MAX = 65_535;
const TARGET = /^(?:\[(?<literal>[^\]]*)\]|(?<name>[A-Za-z0-9._-]{1,253})):(?<port>\d{1,5})$/;

/** A mail server to connect to: a host name, or an address without brackets, and a TCP port. */
export type SmtpTarget = Readonly<{ host: string; port: number }>;

/** Reads `host:port`, an IPv6 address in brackets. Anything else is an AssertionError. */
export function parseSmtpTarget(text: string): SmtpTarget {
  const { literal, name, port } = TARGET.exec(text)?.groups ?? {};
  const host = name ?? literal ?? '';
  const isHost = literal === undefined ? host !== '' : isIP(literal) !== 0;
  const isPort = Number(port) >= 1 && Number(port) <= PORT_MAX;
  assert(isHost && isPort, 'a mail server is written as host:port');
  return { host, port: Number(port) };
}

/** What `parseSmtpTarget` reads. */
export function formatSmtpTarget({ host, port }: SmtpTarget): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}
