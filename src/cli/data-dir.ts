import { readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Config } from '../config.ts';
import { ConfigError } from '../config-error.ts';
import { resolveDataDir } from '../data-dir.ts';
import { messageOf, unusable } from './command.ts';

/** The data directory of these settings, as the gateway finds it. */
export function dataDirOf({ dataDir }: Config): string {
  const uid = process.getuid?.() ?? -1;
  const named = resolve(dataDir ?? 'data');
  try {
    if (statSync(named, { throwIfNoEntry: false })?.isDirectory() === false) {
      throw unusable(`${named} is no directory: set MAILGUARD_DATA_DIR to another.`);
    }
    return resolveDataDir({ explicit: dataDir, projectRoot: process.cwd(), uid }).path;
  } catch (error) {
    throw error instanceof ConfigError ? error : unusable(messageOf(error));
  }
}

/** The text of a secret's file in the data directory, or a sentence that says what to do. */
export function readSecretFile(config: Config, name: string, variable: string): string {
  const path = join(dataDirOf(config), name);
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    const isAbsent = (error as NodeJS.ErrnoException).code === 'ENOENT';
    throw unusable(
      isAbsent
        ? `There is no ${path} (a gateway makes it at its first start): set ${variable}, or ` +
            'MAILGUARD_DATA_DIR to the data directory of the gateway.'
        : `${path} cannot be read by this user: set ${variable}, or be the user of the gateway.`,
    );
  }
}
