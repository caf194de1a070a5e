import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { ConfigError } from '../config-error.ts';
import { databaseAccount, ensureSecret, makeDataDir, SHARED_ROOT } from '../data-dir.ts';
import { findBinaryPackage, prepareBinaries } from './embedded-binaries.ts';
import { chooseAddress, makeCluster, OWNER } from './embedded-cluster.ts';
import { openClient } from './pool.ts';
import {
  type Address,
  endPostmaster,
  explainExit,
  findPostmaster,
  hasEnded,
  type Launch,
  type Postmaster,
  PostmasterError,
  spawnPostmaster,
  watch,
} from './postmaster.ts';

/** A running database of our own, restarted whenever it dies until `stop` or `release`. */
export type EmbeddedPostgres = Readonly<{
  /** `postgres://…` of the owner role, with its password: never to be logged. */
  url: string;
  /** A server left alive by a gateway that was killed has been taken over. */
  adopted: boolean;
  /** This start made the database. */
  firstStart: boolean;
  /** Ends the server within 20 s, also in the middle of a restart; a second call waits for it. */
  stop(): Promise<void>;
  /** Leaves the server as it is and looks after it no more, for it is another gateway's. */
  release(): void;
}>;

/** The part of a pino logger that is used here. */
type Logger = Readonly<
  Record<'info' | 'warn' | 'error', (fields: object, message: string) => void>
>;

type Options = Readonly<{
  dataDir: string;
  logger: Logger;
  /** The server died; connections fail until `onUp`. */
  onDown?: () => void;
  onUp?: () => void;
}>;

type Server = Launch & Readonly<{ dataDir: string; password: string }>;

const DATABASE = 'mailguard';
const PASSWORD_FILE = 'database-password';
// SQLSTATE, PostgreSQL's appendix A.
const INVALID_PASSWORD = '28P01';
const OPERATOR_INTERVENTION = '57P';
const INVALID_CATALOG_NAME = '3D000';
// Connection lost; duplicate database, also met as a duplicate row; template in use.
const PASSING_ON_CREATE = ['', '42P04', '23505', '55006'];
const POLL_MS = 20;
const SILENCE_MS = 60_000;
const RECOVERY_MS = 600_000;
const RETRY_MS = 100;
const ATTEMPTS_MAX = 100;
const RESTART_MS = 100;
const RESTART_MS_MAX = 5_000;
const STEADY_MS = 60_000;

/**
 * A PostgreSQL server of our own under `dataDir`, made on the first start, with an empty database
 * `mailguard` that accepts connections. As root it runs as the account of `databaseAccount`.
 *
 * A living server of this directory is taken over, whoever started it: whether another living
 * gateway uses it is for the caller to find out (by a lock in the database) and to `release`.
 * Throws with the end of the server's log when it does not come up.
 */
export async function startEmbeddedPostgres(options: Options): Promise<EmbeddedPostgres> {
  const { dataDir, logger } = options;
  const account = process.getuid?.() === 0 ? databaseAccount(dataDir) : null;
  await makeDataDir(dataDir, account);
  const binaries = await prepareBinaries(
    await findBinaryPackage(),
    account,
    account === null ? dataDir : SHARED_ROOT,
  );
  const server: Server = {
    dataDir,
    account,
    program: binaries.postgres,
    pgdata: join(dataDir, 'postgres'),
    logFile: join(dataDir, 'postgres.log'),
    password: await ensureSecret(join(dataDir, PASSWORD_FILE)),
  };
  const firstStart = await makeCluster({ ...server, ...binaries });
  const postmaster = await bringUp(server, null, new AbortController().signal);
  const adopted = postmaster.child === null;
  logger.info({ pid: postmaster.pid, adopted, firstStart }, 'Database is up');
  const url = urlOf(postmaster.address, server.password);
  return { url, adopted, firstStart, ...supervise(server, postmaster, options) };
}

/**
 * Restarts the server whenever it ends: after 100 ms, doubling to 5 s while it will not stay up for
 * a minute, and then every 5 s for as long as the gateway lives, for it is of no use without.
 */
function supervise(
  server: Server,
  first: Postmaster,
  { logger, onDown, onUp }: Options,
): Pick<EmbeddedPostgres, 'stop' | 'release'> {
  const closing = new AbortController();
  const { signal } = closing;
  const isClosing = () => signal.aborted;
  let current = first;
  let upSince = Date.now();
  let failures = 0;
  let restarting: Promise<void> = Promise.resolve();
  let stopped: Promise<void> | null = null;
  let unwatch = watch(current, server.pgdata, handleEnd);

  function handleEnd() {
    if (isClosing()) return;
    logger.error({ pid: current.pid }, 'Database ended; it is being restarted');
    onDown?.();
    if (Date.now() - upSince > STEADY_MS) failures = 0;
    restarting = restart();
  }

  async function restart() {
    while (!isClosing()) {
      try {
        const pause = Math.min(RESTART_MS * 2 ** failures, RESTART_MS_MAX);
        failures += 1;
        await sleep(pause, undefined, { signal });
        current = await bringUp(server, first.address, signal);
      } catch (error) {
        if (!isClosing()) logger.error({ err: error, failures }, 'Database restart failed');
        continue;
      }
      upSince = Date.now();
      unwatch = watch(current, server.pgdata, handleEnd);
      logger.warn({ pid: current.pid, failures }, 'Database is up again');
      onUp?.();
      return;
    }
  }

  async function end() {
    closing.abort();
    unwatch();
    await restarting;
    const found = await findPostmaster(server.pgdata);
    // A restart that was cut short may have met another server than the one last known.
    const isOther = found !== null && found.pid !== current.pid;
    const last = isOther ? { ...current, pid: found.pid, child: null } : current;
    const hasStopped = await endPostmaster(last, server.pgdata);
    if (hasStopped) logger.info({ pid: last.pid }, 'Database stopped');
    else logger.error({ pid: last.pid }, 'Database does not stop');
  }

  return {
    stop: () => (stopped ??= end()),
    release() {
      closing.abort();
      unwatch();
      stopped ??= Promise.resolve();
    },
  };
}

/**
 * The directory's living server, or a new one, once it accepts connections. A restart names the
 * address that the gateway's connections already have.
 */
async function bringUp(
  server: Server,
  address: Address | null,
  signal: AbortSignal,
): Promise<Postmaster> {
  for (let attempt = 1; ; attempt += 1) {
    signal.throwIfAborted();
    try {
      return (await adopt(server, address, signal)) ?? (await launch(server, address, signal));
    } catch (error) {
      const isPassing = error instanceof PostmasterError && error.isPassing;
      if (!isPassing || attempt === ATTEMPTS_MAX) throw error;
      await sleep(RETRY_MS, undefined, { signal });
    }
  }
}

async function adopt(
  server: Server,
  wanted: Address | null,
  signal: AbortSignal,
): Promise<Postmaster | null> {
  const found = await findPostmaster(server.pgdata);
  if (found === null) return null;
  const { pid, address } = found;
  if (address === null) {
    throw new PostmasterError(`Database ${pid} has no address yet`, { isPassing: true });
  }
  const postmaster = { pid, address, child: null, logStart: 0 };
  if (found.isStopping) {
    if (await endPostmaster(postmaster, server.pgdata)) return null;
    throw new Error(`The database's process ${pid} is shutting down and does not end`);
  }
  if (wanted !== null && (wanted.host !== address.host || wanted.port !== address.port)) {
    throw new Error(
      `Another gateway has restarted the database at ${address.host}:${address.port}`,
    );
  }
  await waitUntilReady(server, postmaster, signal);
  return postmaster;
}

async function launch(server: Server, wanted: Address | null, signal: AbortSignal) {
  const postmaster = await spawnPostmaster(server, wanted ?? (await chooseAddress(server)));
  try {
    await waitUntilReady(server, postmaster, signal);
    return postmaster;
  } catch (error) {
    await endPostmaster(postmaster, server.pgdata);
    throw error;
  }
}

/** Waits a minute for a silent server, and ten for one that says it is recovering. */
async function waitUntilReady(server: Server, postmaster: Postmaster, signal: AbortSignal) {
  const begin = Date.now();
  for (;;) {
    signal.throwIfAborted();
    const answer = await tryConnect(server, postmaster.address);
    // Of two servers started at once one ends, and until then the other may answer in its stead.
    const holder = answer === 'ready' ? await findPostmaster(server.pgdata) : null;
    if (holder?.pid === postmaster.pid) return;
    if (await hasEnded(postmaster, server.pgdata)) throw await explainExit(server, postmaster);
    const waited = Date.now() - begin;
    if (waited > (answer === 'starting' ? RECOVERY_MS : SILENCE_MS)) {
      throw new Error(`The database gave no connection for ${Math.round(waited / 1_000)} s`);
    }
    await sleep(POLL_MS, undefined, { signal });
  }
}

/** One try; makes the database when only that is missing. Throws what waiting will not cure. */
async function tryConnect(
  { dataDir, password }: Server,
  address: Address,
): Promise<'ready' | 'starting' | 'absent'> {
  try {
    await connect(urlOf(address, password));
    return 'ready';
  } catch (error) {
    const code = sqlState(error);
    // Starting up, recovering, or shutting down, in which case its process soon ends.
    if (code.startsWith(OPERATOR_INTERVENTION)) return 'starting';
    if (code === INVALID_CATALOG_NAME) {
      await makeDatabase(address, password);
      return 'starting';
    }
    if (code === INVALID_PASSWORD) {
      throw new ConfigError(
        `${join(dataDir, PASSWORD_FILE)} does not hold the database's password`,
      );
    }
    // Any other code comes from a server that is up, and will come again.
    if (code !== '') throw error;
    return 'absent';
  }
}

async function makeDatabase(address: Address, password: string): Promise<void> {
  try {
    await connect(urlOf(address, password, 'postgres'), `create database ${DATABASE}`);
  } catch (error) {
    // A failure in the middle, or another gateway doing the same: the next connection will tell.
    if (!PASSING_ON_CREATE.includes(sqlState(error))) throw error;
  }
}

async function connect(url: string, statement?: string): Promise<void> {
  const client = openClient({ url, role: null });
  await client.connect();
  try {
    if (statement !== undefined) await client.query(statement);
  } finally {
    await client.end();
  }
}

const sqlState = (error: unknown) =>
  error instanceof pg.DatabaseError && error.code !== undefined ? error.code : '';

/** As `pg` reads it; port and sslmode are given, since PGPORT and PGSSLMODE would fill them in. */
function urlOf({ host, port }: Address, password: string, database = DATABASE): string {
  const isSocket = host.startsWith('/');
  const at = `postgres://${OWNER}:${password}@${isSocket ? 'localhost' : host}:${port}/${database}`;
  const directory = isSocket ? `host=${encodeURIComponent(host)}&` : '';
  return `${at}?${directory}sslmode=disable`;
}
