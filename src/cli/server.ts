import { readFileSync } from 'node:fs';
import type { Config } from '../config.ts';
import { API_KEY_PATTERN } from '../secret-text.ts';
import { readServerFile, type ServerFile } from '../server-file.ts';
import { unusable } from './command.ts';
import { dataDirOf, readSecretFile } from './data-dir.ts';

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

/**
 * The server of the settings: the one of `MAILGUARD_URL`, else the one that runs on the data directory, else the one
 * that they would start.
 */
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

function localServer(config: Config): Omit<Server, 'key'> {
  const running = runningServer(config);
  if (running !== null) {
    return { url: callable(running.url), certificate: certificateIn(running.certificate) };
  }
  const { host, port, tls } = config;
  if (port === 0)
    throw unusable('MAILGUARD_PORT is 0, which is no port to call: set MAILGUARD_URL.');
  const scheme = tls === null ? 'http' : 'https';
  const url = `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`;
  return { url: callable(url), certificate: certificateIn(tls?.certPath ?? null) };
}

function runningServer(config: Config): ServerFile | null {
  try {
    return readServerFile(dataDirOf(config));
  } catch {
    // Whoever may not look into the data directory goes by the settings.
    return null;
  }
}

/** An address to listen at is not always one to call. */
const callable = (url: string): string =>
  url.replace('://0.0.0.0:', '://127.0.0.1:').replace('://[::]:', '://[::1]:');

function certificateIn(path: string | null): Buffer | null {
  try {
    return path === null ? null : readFileSync(path);
  } catch {
    throw unusable(`The gateway's certificate cannot be read by this user: ${path}`);
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
