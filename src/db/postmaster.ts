import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile, realpath, rename, rm, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { ConfigError } from '../config-error.ts';
import type { Account } from '../data-dir.ts';
import { childSurroundings, codeOf } from './embedded-binaries.ts';

/** Where a server listens: `host` is the directory of its Unix socket, or 127.0.0.1. */
export type Address = Readonly<{ host: string; port: number }>;

/** A server process; `child` is null for one that was found alive and taken over. */
export type Postmaster = Readonly<{
  pid: number;
  address: Address;
  child: ChildProcess | null;
  /** How long the log was before it wrote its first line. */
  logStart: number;
}>;

/** What is needed to start a server on one data directory. */
export type Launch = Readonly<{
  program: string;
  pgdata: string;
  logFile: string;
  /** Null: run as whoever we are. */
  account: Account | null;
}>;

/** A server that is not to be had now; `isPassing` when a moment later may go better. */
export class PostmasterError extends Error {
  readonly isPassing: boolean;
  constructor(message: string, { isPassing }: { isPassing: boolean }) {
    super(message);
    this.isPassing = isPassing;
  }
}

// All come from a server on its way out, or from another gateway starting at the same moment.
const PASSING =
  /lock file ".*" (already exists|is empty)|pre-existing shared memory block|Address already in use/;
const LOG_BYTES_MAX = 10 * 1_024 * 1_024;
const LOG_TAIL_BYTES = 2_048;
const POLL_MS = 20;
const WATCH_MS = 500;
const EMPTY_LOCK_MS = 5_000;
const CONNECT_MS = 1_000;
const STOP_STEPS = [
  { signal: 'SIGINT', waitMs: 15_000 },
  { signal: 'SIGQUIT', waitMs: 5_000 },
] as const;

/**
 * Given on the command line at every start: a release that changes one needs no migration of a
 * file, and root writes nothing into a directory that belongs to a lesser account.
 */
const SETTINGS = {
  max_connections: 60,
  shared_buffers: '128MB',
  wal_level: 'replica',
  wal_compression: 'pglz',
  min_wal_size: '256MB',
  max_wal_size: '512MB',
  checkpoint_timeout: '5min',
  checkpoint_completion_target: 0.9,
  fsync: 'on',
  full_page_writes: 'on',
  synchronous_commit: 'on',
  jit: 'off',
  random_page_cost: 1.1,
  autovacuum_naptime: '15s',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_checkpoints: 'off',
  log_min_messages: 'warning',
  // A failing statement and the row it failed on can hold a personal value, and no erasure would
  // ever find it in a log file.
  log_min_error_statement: 'panic',
  log_error_verbosity: 'terse',
};

/**
 * Starts a server in a session of its own, so that neither Ctrl-C nor our death ends it; returns
 * before it answers. The caller has made sure with `findPostmaster` that none is alive.
 */
export async function spawnPostmaster(launch: Launch, address: Address): Promise<Postmaster> {
  await dropStaleLock(join(launch.pgdata, 'postmaster.pid'), launch.pgdata);
  const isSocket = address.host.startsWith('/');
  if (isSocket) {
    await dropStaleLock(join(address.host, `.s.PGSQL.${address.port}.lock`), launch.pgdata);
    await refuseUnseenServer(address, launch.pgdata);
  }
  const listen = isSocket
    ? { listen_addresses: '', unix_socket_directories: `"${address.host.replaceAll('"', '""')}"` }
    : { listen_addresses: address.host, unix_socket_directories: '' };
  const settings = Object.entries({ ...SETTINGS, ...listen, port: address.port });

  const { log, logStart } = await openLog(launch);
  try {
    const child = spawn(
      launch.program,
      ['-D', launch.pgdata, ...settings.flatMap(([name, value]) => ['-c', `${name}=${value}`])],
      {
        ...launch.account,
        ...childSurroundings(join(launch.pgdata, '..')),
        detached: true,
        stdio: ['ignore', log.fd, log.fd],
      },
    );
    child.unref();
    await once(child, 'spawn');
    if (child.pid === undefined) throw new Error(`${launch.program} has no process id`);
    return { pid: child.pid, address, child, logStart };
  } finally {
    await log.close();
  }
}

/**
 * The living server of this data directory, by its own pid file, or null. A zombie and a process
 * that only inherited the number are no server. `address` is null while it has not bound one yet.
 */
export async function findPostmaster(
  pgdata: string,
): Promise<{ pid: number; address: Address | null; isStopping: boolean } | null> {
  const lines = (await readLock(join(pgdata, 'postmaster.pid')))?.split('\n') ?? [];
  // PostgreSQL's miscadmin.h: pid, data directory, start time, port, socket directory, address,
  // shared memory key, status.
  const [pidText, , , portText, socketDir, listen, , status] = lines;
  const pid = Number(pidText);
  if (!(await isPostmaster(pid, pgdata))) return null;

  const port = Number(portText ?? '0');
  const host = socketDir === undefined || socketDir === '' ? listen : socketDir;
  const address = port > 0 && host !== undefined && host !== '' ? { host, port } : null;
  return { pid, address, isStopping: status?.trim() === 'stopping' };
}

/** Whether the server process has ended. */
export async function hasEnded({ pid, child }: Postmaster, pgdata: string): Promise<boolean> {
  if (child !== null) return child.exitCode !== null || child.signalCode !== null;
  return !(await isPostmaster(pid, pgdata));
}

/** Calls `onEnd` once when the server ends, until the returned function is called. */
export function watch(postmaster: Postmaster, pgdata: string, onEnd: () => void): () => void {
  const { child } = postmaster;
  let isWatching = true;
  const end = () => {
    if (!isWatching) return;
    unwatch();
    onEnd();
  };
  const look = () => void hasEnded(postmaster, pgdata).then((ended) => ended && end());
  // A foster child sends no signal of its end, so it is looked at.
  const timer = child === null ? setInterval(look, WATCH_MS).unref() : null;
  const unwatch = () => {
    isWatching = false;
    if (timer !== null) clearInterval(timer);
    child?.off('exit', end);
  };
  child?.on('exit', end);
  // It may have ended between its last answer and now.
  look();
  return unwatch;
}

/**
 * Ends a server: a fast shutdown, and an immediate one (recovery at the next start, nothing
 * committed is lost) when that takes too long. False when it is alive still, after 20 s.
 */
export async function endPostmaster(postmaster: Postmaster, pgdata: string): Promise<boolean> {
  for (const { signal, waitMs } of STOP_STEPS) {
    if (await hasEnded(postmaster, pgdata)) return true;
    sendSignal(postmaster.pid, signal);
    const deadline = Date.now() + waitMs;
    while (Date.now() < deadline) {
      if (await hasEnded(postmaster, pgdata)) return true;
      await sleep(POLL_MS);
    }
  }
  return hasEnded(postmaster, pgdata);
}

/** Why a server ended before it answered: the last lines in its log. */
export async function explainExit({ logFile }: Launch, { child, logStart }: Postmaster) {
  const log = await readFile(logFile).catch(() => Buffer.alloc(0));
  const start = Math.max(logStart, log.length - LOG_TAIL_BYTES);
  const tail = log.subarray(start).toString('utf8').trim().replaceAll('\n', ' | ');
  // One that was taken over was up before, so a new one is likely to come up.
  const isPassing = child === null || PASSING.test(tail);
  const end = tail || '(empty)';
  return new PostmasterError(`The database did not start. The end of its log: ${end}`, {
    isPassing,
  });
}

/**
 * PostgreSQL clears away the lock of a dead process itself, after asking the shared memory whether
 * orphans of that server still write; so only what it would refuse for ever is removed here.
 */
async function dropStaleLock(lockFile: string, pgdata: string): Promise<void> {
  const text = await readLock(lockFile);
  if (text === null) return;
  const pid = Math.abs(Number.parseInt(text, 10));
  if (Number.isNaN(pid)) {
    // A lock is empty for a moment while another server writes it, and for ever after a power cut.
    const { mtimeMs } = await stat(lockFile);
    if (Date.now() - mtimeMs > EMPTY_LOCK_MS) await rm(lockFile, { force: true });
    return;
  }
  const isOccupied = sendSignal(pid, 0);
  if (isOccupied && !(await isPostmaster(pid, pgdata))) await rm(lockFile, { force: true });
}

/**
 * A server in another container has a pid that means nothing here, but on a shared volume its
 * socket answers. PostgreSQL would take it for dead and both would write: that ends in corruption.
 */
async function refuseUnseenServer({ host, port }: Address, pgdata: string): Promise<void> {
  const path = join(host, `.s.PGSQL.${port}`);
  if (!(await isAnswering(path))) return;
  // One that another gateway started a moment ago can be seen by now; the lock decides about it.
  if ((await findPostmaster(pgdata)) !== null) return;
  throw new ConfigError(
    `a server that is no process of this machine answers on ${path}: ` +
      'another container uses this data directory',
  );
}

function isAnswering(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const finish = (isAnswered: boolean) => {
      socket.destroy();
      resolve(isAnswered);
    };
    socket.once('connect', () => finish(true));
    socket.once('error', () => finish(false));
    socket.setTimeout(CONNECT_MS, () => finish(false));
  });
}

function readLock(lockFile: string): Promise<string | null> {
  return readFile(lockFile, 'utf8').catch((error: unknown) => {
    if (codeOf(error) !== 'ENOENT') throw error;
    return null;
  });
}

/** Whether this process is a living postmaster that was started with `-D <pgdata>`. */
async function isPostmaster(pid: number, pgdata: string): Promise<boolean> {
  if (!Number.isSafeInteger(pid) || pid <= 1 || !sendSignal(pid, 0)) return false;
  // Windows has no ps; to mistake a stranger for the server is safer there than the reverse.
  if (process.platform === 'win32') return true;

  const { program, directory } = await readCommand(pid);
  if (!basename(program).startsWith('postgres')) return false;
  // The directory may have been named through another link when that server was started.
  return directory === pgdata || (await real(directory)) === (await real(pgdata));
}

/** Program and `-D` of a living process, empty for none; a zombie has no command line. */
async function readCommand(pid: number): Promise<{ program: string; directory: string }> {
  if (process.platform === 'linux') {
    const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    const [program = '', ...parameters] = text.split('\0');
    const at = parameters.indexOf('-D') + 1;
    return { program, directory: at === 0 ? '' : (parameters[at] ?? '') };
  }
  const found = await promisify(execFile)('ps', ['-o', 'command=', '-p', String(pid)]).catch(
    () => null,
  );
  const parts = /^(.+?) -D (.+?)( -c .*)?$/.exec(found?.stdout.trim() ?? '');
  return { program: parts?.[1] ?? '', directory: parts?.[2] ?? '' };
}

const real = (path: string) => realpath(path).catch(() => path);

/** False when there is no such process; one that we may not signal is there all the same. */
function sendSignal(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch (error) {
    return codeOf(error) === 'EPERM';
  }
}

async function openLog({ logFile, account }: Launch) {
  const old = await stat(logFile).catch(() => null);
  if (old !== null && old.size > LOG_BYTES_MAX) await rename(logFile, `${logFile}.1`);
  const log = await open(logFile, 'a', 0o600);
  // Whoever owns the database may later start it without us being root.
  if (account !== null) await log.chown(account.uid, account.gid);
  const { size } = await log.stat();
  return { log, logStart: size };
}
