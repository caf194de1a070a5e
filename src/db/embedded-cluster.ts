import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmod,
  chown,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { ConfigError } from '../config-error.ts';
import type { Account } from '../data-dir.ts';
import { childSurroundings, codeOf } from './embedded-binaries.ts';
import type { Address } from './postmaster.ts';

/** The superuser of an embedded cluster, and the owner of everything in it. */
export const OWNER = 'mailguard';

/** A cluster to be: its directory, who owns it, the owner role's password, the program. */
export type Plan = Readonly<{
  pgdata: string;
  account: Account | null;
  password: string;
  initdb: string;
  /** PostgreSQL's major version, "18". */
  major: string;
}>;

const INITDB_MS = 120_000;
const PORT = 5_432;
// The kernel's bound is 108 bytes on Linux and 104 elsewhere, the closing zero included.
const SOCKET_PATH_BYTES_MAX = 100;

/**
 * Makes the cluster unless `pgdata` holds one; true when this call made it. It is made beside its
 * place and moved there when complete, so one that was cut short is never taken for a database.
 * Throws when the one there is another major version's.
 */
export async function makeCluster(plan: Plan): Promise<boolean> {
  const { pgdata, account, password } = plan;
  await dropDrafts(pgdata);
  if (await holdsCluster(plan)) return false;

  const draft = `${pgdata}.new-${process.pid}-${randomBytes(4).toString('hex')}`;
  const passwordFile = `${draft}.password`;
  try {
    await writeFile(passwordFile, password, { mode: 0o600, flag: 'wx' });
    await mkdir(draft, { mode: 0o700 });
    for (const path of [passwordFile, draft]) await giveTo(path, account);
    await runInitdb(plan, draft, passwordFile);
    await rename(draft, pgdata);
    await flushDirectory(dirname(pgdata));
    return true;
  } catch (error) {
    if (!(error instanceof Error && 'syscall' in error && error.syscall === 'rename')) throw error;
    // Another gateway on this directory was faster.
    if (await holdsCluster(plan)) return false;
    throw new ConfigError(`${pgdata} is neither empty nor a database`);
  } finally {
    for (const path of [passwordFile, draft]) await rm(path, REMOVE);
  }
}

/** A socket in the data directory where its path fits, else a free port of the loopback address. */
export async function chooseAddress({
  dataDir,
  account,
}: Readonly<{ dataDir: string; account: Account | null }>): Promise<Address> {
  const host = join(dataDir, 'socket');
  const path = join(host, `.s.PGSQL.${PORT}`);
  if (process.platform === 'win32' || Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) {
    return { host: '127.0.0.1', port: await findFreePort() };
  }
  await mkdir(host, { recursive: true });
  await chmod(host, 0o711);
  await giveTo(host, account);
  return { host, port: PORT };
}

function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

/** Hands a file or directory to the database's account, when that is another than ours. */
async function giveTo(path: string, account: Account | null): Promise<void> {
  if (account !== null) await chown(path, account.uid, account.gid);
}

async function holdsCluster({ pgdata, major }: Plan): Promise<boolean> {
  const version = await readFile(join(pgdata, 'PG_VERSION'), 'utf8').catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return null;
    throw error;
  });
  if (version !== null && version.trim() !== major) {
    throw new ConfigError(
      `${pgdata} was made by PostgreSQL ${version.trim()} and this is ${major}: ` +
        'restore a backup into a new data directory',
    );
  }
  return version !== null;
}

// An initdb whose gateway was killed goes on writing for a moment, so a folder may refill once.
const REMOVE = { recursive: true, force: true, maxRetries: 10, retryDelay: 50 } as const;

/** Removes what half-finished starts left behind, but not what a living process is making. */
async function dropDrafts(pgdata: string): Promise<void> {
  const parent = dirname(pgdata);
  const prefix = `${basename(pgdata)}.new`;
  for (const name of await readdir(parent)) {
    if (!name.startsWith(prefix)) continue;
    const maker = Number(name.slice(prefix.length).split('-')[1] ?? 0);
    if (!isAnotherProcess(maker)) await rm(join(parent, name), REMOVE);
  }
}

// After a restart in a container the maker's number is often our own.
function isAnotherProcess(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0 || pid === process.pid) return false;
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return codeOf(error) === 'EPERM';
  }
}

/** Makes a cluster in an empty directory, every connection to it by password; needs 0.6 to 0.9 s. */
async function runInitdb({ initdb, account }: Plan, pgdata: string, passwordFile: string) {
  const parameters = [
    `--pgdata=${pgdata}`,
    `--username=${OWNER}`,
    `--pwfile=${passwordFile}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    // The built-in provider sorts and folds the same on every machine and after every libc update.
    // The libc locale beside it is C, since C.UTF-8 is not on every system.
    '--locale-provider=builtin',
    '--builtin-locale=C.UTF-8',
    '--locale=C',
    '--no-instructions',
  ];
  try {
    await promisify(execFile)(initdb, parameters, {
      ...account,
      ...childSurroundings(dirname(pgdata)),
      timeout: INITDB_MS,
    });
  } catch (error) {
    const said = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : '';
    throw new Error(`The embedded database could not be made: ${said}`, { cause: error });
  }
}

/** Makes a rename in this directory last through a power cut; Windows cannot, and need not. */
async function flushDirectory(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  const directory = await open(path, 'r');
  await directory.sync();
  await directory.close();
}
