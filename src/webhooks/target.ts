import { lookup as systemLookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { type AddressPolicy, addressPolicy, type LookupAll } from './addresses.ts';

/** Longer ones are refused by receivers and by the proxies before them. */
const URL_CHARACTERS_MAX = 2_048;
/** Below are the ports of systems that speak no HTTP, and may act on what an HTTP request says. */
const PORT_MIN = 1_024;
const LOOKUP_MS = 3_000;

/** Which URLs deliveries may go to; `allowHttp` lets plain HTTP through beside HTTPS. */
export type TargetPolicy = Readonly<{ addresses: AddressPolicy; allowHttp: boolean }>;

/** A URL as it will be called, or for people why it will not be; that never repeats its query. */
export type Target =
  | Readonly<{ url: URL; refusal: null }>
  | Readonly<{ url: null; refusal: string }>;

const refuse = (refusal: string): Target => ({ url: null, refusal });

const TOO_LONG = `the URL must have at most ${URL_CHARACTERS_MAX} characters`;
const NOTHING_ALLOWED = addressPolicy([]);

/**
 * Reads the URL of an endpoint as the WHATWG URL Standard does, so that every spelling of an
 * address is judged as what it is. Asks no DNS: a name is not judged here, however it looks.
 */
export function parseTarget(text: string, policy: TargetPolicy): Target {
  if (text.length > URL_CHARACTERS_MAX) return refuse(TOO_LONG);
  // The parser would drop some of them unseen.
  if (/\p{Cc}/u.test(text)) return refuse('the URL must have no control characters');
  if (!URL.canParse(text)) return refuse('this is not a URL with scheme and host');
  const url = new URL(text);
  const refusal = refusalOf(url, policy);
  return refusal === null ? { url, refusal } : refuse(refusal);
}

/**
 * `parseTarget`, and refuses a name of which any address is denied. A name that does not resolve
 * now, or not within three seconds, is let through: an endpoint may be set up before its DNS. So
 * this tells people early and guards nothing; the connector judges what is really dialled.
 */
export async function checkTarget(
  text: string,
  policy: TargetPolicy,
  lookup: LookupAll = systemLookup,
): Promise<Target> {
  const target = parseTarget(text, policy);
  if (target.refusal !== null || literalOf(target.url) !== null) return target;
  const { hostname } = target.url;
  const addresses = await resolve(hostname, lookup);
  if (!addresses.some((address) => policy.addresses.denies(address))) return target;
  // Which address it is stays unsaid: callers are not to map the network by asking for names.
  return refuse(`${hostname} resolves to an address that is not public`);
}

function refusalOf(url: URL, { addresses, allowHttp }: TargetPolicy): string | null {
  const { protocol, hostname } = url;
  if (protocol !== 'https:' && !(protocol === 'http:' && allowHttp)) {
    return `the URL must begin with ${allowHttp ? 'https:// or http://' : 'https://'}`;
  }
  // Percent-encoding makes a URL longer than it was written.
  if (url.href.length > URL_CHARACTERS_MAX) return TOO_LONG;
  if (url.username !== '' || url.password !== '') {
    return 'the URL must have no user name and no password';
  }
  if (url.href.includes('#')) return 'the URL must have no fragment (#)';
  if (/^\.|\.\./.test(hostname)) return 'the host name has an empty label';
  const literal = literalOf(url);
  if (literal !== null && addresses.denies(literal)) return `the address ${literal} is not public`;
  // What only the operator's setting lets through is a host the operator knows, whatever its port.
  if (literal !== null && NOTHING_ALLOWED.denies(literal)) return null;
  return isPort(url) ? null : `port ${url.port} must be 443, or ${PORT_MIN} or above`;
}

function isPort({ protocol, port }: URL): boolean {
  // Without a port it is the scheme's own.
  return port === '' || port === '443' || Number(port) >= PORT_MIN || isDefault(protocol, port);
}

const isDefault = (protocol: string, port: string) => protocol === 'http:' && port === '80';

/** The host when it is an address, without brackets. */
function literalOf({ hostname }: URL): string | null {
  const host = hostname.replace(/^\[|\]$/g, '');
  return isIP(host) === 0 ? null : host;
}

/** No address for a name that has none, or has none in time. */
function resolve(host: string, lookup: LookupAll): Promise<readonly string[]> {
  return new Promise((done) => {
    const timer = setTimeout(() => done([]), LOOKUP_MS);
    void lookup(host, { all: true })
      .then(
        (answers) => done(answers.map(({ address }) => address)),
        () => done([]),
      )
      .finally(() => clearTimeout(timer));
  });
}
