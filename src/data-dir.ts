import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, realpathSync, statSync } from 'node:fs';
import { chmod, link, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { ConfigError } from './config-error.ts';
import { makeDirectory } from './make-directory.ts';

/** A Unix account that the database processes run as. */
export type Account = Readonly<{ uid: number; gid: number }>;

/** What is asked of the file system here; every function only looks. `stat` is null for "not there". */
export type Files = Readonly<{
  stat: (path: string) => (Account & Readonly<{ mode: number }>) | null;
  realpath: (path: string) => string;
  /** The text of /etc/passwd. */
  accounts: () => string;
}>;

/** Where binaries and data live when the working directory is closed to the database's account. */
export const SHARED_ROOT = '/var/lib/mailguard';

const NOBODY_ID = 65_534;
const X_OWNER = 0o100;
const X_GROUP = 0o010;
const X_OTHERS = 0o001;

const nodeFiles: Files = {
  stat: (path) => statSync(path, { throwIfNoEntry: false }) ?? null,
  realpath: (path) => realpathSync(path),
  accounts: () => readFileSync('/etc/passwd', 'utf8'),
};

/**
 * The data directory of a gateway started in `projectRoot` by `uid`; creates nothing, and gives the
 * same answer to the server and to the CLI.
 *
 * Only for root can it be elsewhere than named: PostgreSQL refuses root, so its account must be able
 * to reach the directory, and the default gives way to a directory of its own under `SHARED_ROOT`.
 * Throws when an explicit directory, or a default one that already holds a database, is out of reach.
 */
export function resolveDataDir(
  { explicit, projectRoot, uid }: { explicit: string | null; projectRoot: string; uid: number },
  files: Files = nodeFiles,
): { path: string; relocated: boolean } {
  const path = resolve(projectRoot, explicit ?? 'data');
  if (uid !== 0) return { path, relocated: false };

  const blocked = findClosedDirectory(path, databaseAccount(path, files), files);
  if (explicit !== null) {
    if (blocked === null) return { path, relocated: false };
    throw new ConfigError(
      `MAILGUARD_DATA_DIR names ${path}, which the database's account cannot reach: ` +
        `${blocked} is closed to it (chmod o+x ${blocked}, or name another directory)`,
    );
  }

  const shared = join(SHARED_ROOT, createHash('sha256').update(path).digest('hex').slice(0, 12));
  const isHere = holdsDatabase(path, files);
  const isShared = holdsDatabase(shared, files);
  // A later chmod of some parent must not make a gateway start over with an empty database while
  // its own lies in the other place: the place that holds one wins.
  if (isShared && (blocked !== null || !isHere)) return { path: shared, relocated: true };
  if (blocked === null) return { path, relocated: false };
  if (!isHere) return { path: shared, relocated: true };
  throw new ConfigError(
    `the data directory ${path} holds a database that its account cannot reach any more: ` +
      `${blocked} is closed to it (chmod o+x ${blocked}, or move it and set MAILGUARD_DATA_DIR)`,
  );
}

/**
 * The account the database of this data directory runs as when the gateway is root: the owner of a
 * database that a plain user began, else `nobody`.
 */
export function databaseAccount(dataDir: string, files: Files = nodeFiles): Account {
  const owner = files.stat(join(dataDir, 'postgres'));
  if (owner !== null && owner.uid !== 0) return { uid: owner.uid, gid: owner.gid };

  const line = readAccounts(files)
    .split('\n')
    .find((entry) => entry.startsWith('nobody:'));
  const [, , uid, gid] = line?.split(':') ?? [];
  return { uid: accountId(uid), gid: accountId(gid) };
}

/** Makes the data directory of these settings if need be, fit for an embedded database where there is to be one. */
export async function prepareDataDir({
  dataDir,
  databaseUrl,
}: Readonly<{ dataDir: string | null; databaseUrl: string | null }>): Promise<string> {
  const uid = process.getuid?.() ?? -1;
  const { path } = resolveDataDir({ explicit: dataDir, projectRoot: process.cwd(), uid });
  const hasAccount = databaseUrl === null && uid === 0;
  await makeDataDir(path, hasAccount ? databaseAccount(path) : null);
  return path;
}

/**
 * Makes the data directory if need be: private to us, or (with an account for the database) such
 * that this account may pass through it and still list nothing.
 */
export async function makeDataDir(dataDir: string, account: Account | null): Promise<void> {
  const blocked = account === null ? null : findClosedDirectory(dataDir, account);
  if (blocked !== null) {
    throw new ConfigError(
      `the database's account cannot reach ${dataDir}: ${blocked} is closed to it`,
    );
  }
  const first = await makeDirectory(dataDir, account === null ? 0o700 : 0o711);
  if (account === null) return;

  // A strict umask has closed what mkdir made; the depth of the path bounds the loop.
  for (let at = dataDir; at.length >= (first ?? dataDir).length; at = dirname(at)) {
    const found = await stat(at);
    if (!isAllowed(found, account, X_OTHERS)) await chmod(at, (found.mode & 0o7777) | 0o011);
  }
}

const randomHex = (): string => randomBytes(32).toString('hex');

/**
 * The secret kept in this file, 0600: made (by default 32 random bytes, hex) when there is none, and
 * read otherwise. Two processes that make it at once get the same one.
 */
export async function ensureSecret(path: string, make = randomHex): Promise<string> {
  const draft = `${path}.${randomBytes(6).toString('hex')}`;
  if (statSync(path, { throwIfNoEntry: false }) === undefined) {
    try {
      await writeFile(draft, `${make()}\n`, { mode: 0o600, flush: true });
      // A link, unlike a rename, never replaces what another process put there first.
      await link(draft, path).catch((error: unknown) => {
        if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
      });
    } finally {
      await rm(draft, { force: true });
    }
  }
  return (await readFile(path, 'utf8')).trim();
}

/** The first directory above `path` that `account` may not pass, or null; `path` need not exist. */
export function findClosedDirectory(
  path: string,
  account: Account,
  files: Files = nodeFiles,
): string | null {
  // Both spellings count: the kernel walks the named path, and PostgreSQL's own checks the real one.
  const above = [...directoriesAbove(path), ...directoriesAbove(realPathOf(path, files))];
  const closed = above.find((directory) => {
    const stat = files.stat(directory);
    return stat !== null && !isAllowed(stat, account, X_OTHERS);
  });
  return closed ?? null;
}

/** Whether the account has these rights (given as the bits for others, 4 read, 1 pass or run). */
export function isAllowed(
  { uid, gid, mode }: Account & Readonly<{ mode: number }>,
  account: Account,
  rights: number,
): boolean {
  // As the kernel does it: the first class that matches decides, even when a later one has more.
  if (uid === account.uid) return (mode & (rights * X_OWNER)) === rights * X_OWNER;
  if (gid === account.gid) return (mode & (rights * X_GROUP)) === rights * X_GROUP;
  return (mode & rights) === rights;
}

const holdsDatabase = (dataDir: string, files: Files) =>
  files.stat(join(dataDir, 'postgres')) !== null;

/** From the root down, without `path` itself: 4,096 bytes of path bound the loop. */
function directoriesAbove(path: string): string[] {
  const above: string[] = [];
  for (let at = dirname(path); at !== above[0]; at = dirname(at)) above.unshift(at);
  return above;
}

function realPathOf(path: string, files: Files): string {
  const missing: string[] = [];
  let existing = path;
  while (files.stat(existing) === null && dirname(existing) !== existing) {
    missing.unshift(basename(existing));
    existing = dirname(existing);
  }
  return join(files.realpath(existing), ...missing);
}

function readAccounts(files: Files): string {
  try {
    return files.accounts();
  } catch {
    // A bare container image may have no /etc/passwd at all.
    return '';
  }
}

// macOS writes nobody as -2, which is no id that a process can be given.
const accountId = (text: string | undefined) =>
  text !== undefined && /^[1-9]\d{0,9}$/.test(text) ? Number(text) : NOBODY_ID;
