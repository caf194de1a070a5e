import { readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Config } from '../config.ts';
import { resolveDataDir } from '../data-dir.ts';
import { API_KEY_PATTERN } from '../secrets.ts';
import { CliError, EXIT, messageOf } from './command.ts';

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
    throw refused('MAILGUARD_URL takes no user, password, query or fragment.');
  }
  // The key of this machine's gateway is nobody else's business.
  if (config.apiKey === null && !isOnThisMachine(url.href)) {
    throw refused('MAILGUARD_URL names another machine: set MAILGUARD_API_KEY to a key of it.');
  }
  return { url: url.href.replace(/\/+$/, ''), key: keyOf(config), certificate: null };
}

/** The data directory of these settings, as the gateway finds it. */
export function dataDirOf({ dataDir }: Config): string {
  const uid = process.getuid?.() ?? -1;
  const named = resolve(dataDir ?? 'data');
  try {
    if (statSync(named, { throwIfNoEntry: false })?.isDirectory() === false) {
      throw new Error(`MAILGUARD_DATA_DIR names ${named}, which is no directory.`);
    }
    return resolveDataDir({ explicit: dataDir, projectRoot: process.cwd(), uid }).path;
  } catch (error) {
    throw refused(messageOf(error));
  }
}

/** The text of a secret's file in the data directory, or a sentence that says what to do. */
export function readSecretFile(config: Config, name: string, variable: string): string {
  const path = join(dataDirOf(config), name);
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    const isAbsent = (error as NodeJS.ErrnoException).code === 'ENOENT';
    throw refused(
      isAbsent
        ? `There is no ${path} (a gateway makes it at its first start): set ${variable}, or ` +
            'MAILGUARD_DATA_DIR to the data directory of the gateway.'
        : `${path} cannot be read by this user: set ${variable}, or be the user of the gateway.`,
    );
  }
}

function localServer({ host, port, tls }: Config): Omit<Server, 'key'> {
  if (port === 0)
    throw refused('MAILGUARD_PORT is 0, which is no port to call: set MAILGUARD_URL.');
  const called = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  const authority = `${called.includes(':') ? `[${called}]` : called}:${port}`;
  if (tls === null) return { url: `http://${authority}`, certificate: null };
  try {
    return { url: `https://${authority}`, certificate: readFileSync(tls.certPath) };
  } catch {
    throw refused(`MAILGUARD_TLS_CERT cannot be read by this user: ${tls.certPath}`);
  }
}

function keyOf(config: Config): string {
  const key =
    config.apiKey ??
    config.bootstrapKey ??
    readSecretFile(config, 'bootstrap-key', 'MAILGUARD_API_KEY');
  if (API_KEY_PATTERN.test(key)) return key;
  throw refused('MAILGUARD_API_KEY (or the bootstrap-key file) does not hold an API key.');
}

const refused = (message: string): CliError => new CliError(message, EXIT.unusable);
