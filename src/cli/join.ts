import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type pg from 'pg';
import type { Config } from '../config.ts';
import { ConfigError } from '../config-error.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../db/embedded.ts';
import { LOCKS, trySessionLock } from '../db/lock.ts';
import { inspect } from '../db/open.ts';
import { openClient, openPool } from '../db/pool.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { openEventLog } from '../eventlog/open.ts';
import { isConnectionError } from '../eventlog/unavailable.ts';
import { messageOf, unusable } from './command.ts';
import { dataDirOf } from './data-dir.ts';

/** The database as a second client beside a gateway that may be running. */
export type Joined = Readonly<{
  /** Of the read models, and of the log unless that is elsewhere. */
  url: string;
  logUrl: string;
  /** The role that cannot change the log; null where it could not be made. */
  role: string | null;
}>;

/** What a client needs who reads and appends as the gateway does. */
export type Opened = Readonly<{ pool: pg.Pool; log: EventLog }>;

/** A rebuild holds four at once, and reads the log besides. */
const POOL_SIZE = 6;
const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

/**
 * Joins the database of these settings for as long as `work` takes. Never takes the lock of `serve`.
 * An embedded database that does not run is started, and stopped in the end unless a gateway has
 * begun to use it meanwhile.
 */
export async function withDatabase<Result>(
  config: Config,
  work: (joined: Joined) => Promise<Result>,
): Promise<Result> {
  const embedded = config.databaseUrl === null ? await startEmbedded(config) : null;
  const url = config.databaseUrl ?? embedded?.url ?? '';
  try {
    const logUrl = config.eventlogUrl ?? url;
    await requireTable(url, 'public.projection_checkpoints');
    await requireTable(logUrl, 'eventlog.events');
    const { role } = await inspect(url);
    return await work({ url, logUrl, role });
  } finally {
    if (embedded?.adopted === false) await stopUnlessServed(embedded);
  }
}

/** Opens read models and log of a joined database for as long as `work` takes. */
export async function withLog<Result>(
  { url, logUrl, role }: Joined,
  work: (opened: Opened) => Promise<Result>,
): Promise<Result> {
  const pool = openPool({ url, size: POOL_SIZE, role });
  const logPool = url === logUrl ? pool : openPool({ url: logUrl, size: POOL_SIZE, role });
  try {
    const log = await openEventLog(logUrl, {
      pool: logPool,
      exportPool: logPool,
      connect: () => openClient({ url: logUrl, role }),
    });
    try {
      return await work({ pool, log });
    } finally {
      await log.close();
    }
  } finally {
    await pool.end();
    if (logPool !== pool) await logPool.end();
  }
}

async function startEmbedded(config: Config): Promise<EmbeddedPostgres> {
  const dataDir = dataDirOf(config);
  if (!existsSync(join(dataDir, 'postgres'))) {
    throw unusable(
      `There is no database in ${dataDir}: start the gateway once, or set MAILGUARD_DATA_DIR or ` +
        'MAILGUARD_DATABASE_URL.',
    );
  }
  try {
    const embedded = await startEmbeddedPostgres({ dataDir, logger: silent });
    // A server that was up is looked after by whoever started it, and we must not restart it.
    if (embedded.adopted) embedded.release();
    return embedded;
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    throw unusable(`The database in ${dataDir} cannot be used: ${messageOf(error)}`);
  }
}

/** Refuses a database that lacks a table of this release. */
export async function requireTable(url: string, table: string): Promise<void> {
  const client = openClient({ url, role: null });
  try {
    await client.connect();
    const { rows } = await client.query<{ found: boolean }>(
      'select to_regclass($1) is not null as found',
      [table],
    );
    if (rows[0]?.found === true) return;
  } catch (error) {
    throw unusable(`The database cannot be used: ${messageOf(error)}`);
  } finally {
    await client.end().catch(() => undefined);
  }
  throw unusable(
    'The database holds nothing of MailGuard, or only of an earlier release: start the gateway once.',
  );
}

/** Stops the server that we started, holding the lock meanwhile so that no gateway takes it over. */
async function stopUnlessServed(embedded: EmbeddedPostgres): Promise<void> {
  const client = openClient({ url: embedded.url, role: null });
  try {
    await client.connect();
    if (await trySessionLock(client, LOCKS.serve)) await embedded.stop();
    else embedded.release();
  } catch (error) {
    if (!isConnectionError(error)) throw error;
    await embedded.stop();
  } finally {
    await client.end().catch(() => undefined);
  }
}
