import { readFileSync } from 'node:fs';
import type { Config } from '../config.ts';
import { API_KEY_PATTERN } from '../secrets.ts';
import { unusable } from './command.ts';
import { readSecretFile } from './data-dir.ts';

/** The gateway that the HTTP commands talk to, and the key they show it. */
export type Server = Readonly<{
  /** Without a slash at the end; may have a path, for a gateway behind a proxy. */
  url: string;
  key: string;
  /** The certificate to expect: of the gateway of this machine, whatever name it is for. */
  certificate: Buffer | null;
}>;

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/;
/** Whether a URL names this very machine. */
export const isOnThisMachine = (url: string): boolean => LOOPBACK.test(new URL(url).hostname);

/** The server of the settings: the one of `MAILGUARD_URL`, else the one that they would start. */
export function serverOf(config: Config): Server {
  if (config.url === null) return { ...localServer(config), key: keyOf(config) };
  const url = new URL(config.url);
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
    throw unusable('MAILGUARD_URL takes no user, password, query or fragment.');
  }
  // The key of this machine's gateway is nobody else's business.
  if (config.apiKey === null && !isOnThisMachine(url.href)) {
    throw unusable('MAILGUARD_URL names another machine: set MAILGUARD_API_KEY to a key of it.');
  }
  return { url: url.href.replace(/\/+$/, ''), key: keyOf(config), certificate: null };
}

function localServer({ host, port, tls }: Config): Omit<Server, 'key'> {
  if (port === 0)
    throw unusable('MAILGUARD_PORT is 0, which is no port to call: set MAILGUARD_URL.');
  const called = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  const authority = `${called.includes(':') ? `[${called}]` : called}:${port}`;
  if (tls === null) return { url: `http://${authority}`, certificate: null };
  try {
    return { url: `https://${authority}`, certificate: readFileSync(tls.certPath) };
  } catch {
    throw unusable(`MAILGUARD_TLS_CERT cannot be read by this user: ${tls.certPath}`);
  }
}

function keyOf(config: Config): string {
  const key =
    config.apiKey ??
    config.bootstrapKey ??
    readSecretFile(config, 'bootstrap-key', 'MAILGUARD_API_KEY');
  if (API_KEY_PATTERN.test(key)) return key;
  throw unusable('MAILGUARD_API_KEY (or the bootstrap-key file) does not hold an API key.');
}
