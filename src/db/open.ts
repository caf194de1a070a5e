import type pg from 'pg';
import type { Logger } from 'pino';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded.ts';
import { LOCKS, trySessionLock } from './lock.ts';
import { migrate } from './migrate.ts';
import { APP_ROLE, connectOrRefuse, openClient, openPool } from './pool.ts';

export type Database = Readonly<{
  url: string;
  /** The role to work under; null where it could not be made. */
  role: string | null;
  pool: pg.Pool;
  exportPool: pg.Pool;
  /** Things that an operator should know of. */
  warnings: readonly string[];
  close: () => Promise<void>;
}>;

/** Another living gateway uses this database. */
export class AlreadyRunningError extends Error {
  constructor() {
    super('Another gateway is running on this database; stop it first.');
    this.name = 'AlreadyRunningError';
  }
}

const POOL_SIZE = 12;
const EXPORT_POOL_SIZE = 4;
/** A killed gateway's connections are gone in an instant, but not at once. */
const LOCK_PATIENCE_MS = 3_000;
const LOCK_RETRY_MS = 50;

type Options = Readonly<{
  /** Null starts the embedded database under `dataDir`. */
  url: string | null;
  dataDir: string;
  logger: Logger;
  /** The lock was lost to another gateway: this one must stop at once. */
  onUsurped: () => void;
  /** Is awaited with the lock held, and nothing changed yet; what it throws ends the opening. */
  beforeMigrating?: (url: string) => Promise<void>;
  /** The first so many migrations alone, for what another release made. */
  migrations?: number;
}>;

/**
 * The database, ours alone (by a lock in it that ends with this process), migrated, and opened under
 * the role that cannot change the log.
 */
export async function openDatabase(options: Options): Promise<Database> {
  const { dataDir, logger } = options;
  const embedded = options.url === null ? await startEmbeddedPostgres({ dataDir, logger }) : null;
  const url = options.url ?? embedded?.url ?? '';
  const lock = await holdServeLock(url, embedded, options);
  try {
    await options.beforeMigrating?.(url);
    const migrations = await migrate(url, options.migrations);
    if (migrations > 0) logger.info({ migrations }, 'database migrated');
    const { role, warnings } = await inspect(url);
    const pool = openPool({ url, size: POOL_SIZE, role });
    const exportPool = openPool({ url, size: EXPORT_POOL_SIZE, role });
    return {
      url,
      role,
      pool,
      exportPool,
      warnings,
      async close() {
        await Promise.all([pool.end(), exportPool.end()]);
        await lock.release();
        await embedded?.stop();
      },
    };
  } catch (error) {
    await lock.release();
    await embedded?.stop();
    throw error;
  }
}

type Lock = Readonly<{ release: () => Promise<void> }>;

async function holdServeLock(
  url: string,
  embedded: EmbeddedPostgres | null,
  { logger, onUsurped }: Options,
): Promise<Lock> {
  let client: pg.Client | null = await takeLock(url);
  if (client === null) {
    // Its owner looks after the server; stopping it would take the database from under them.
    embedded?.release();
    throw new AlreadyRunningError();
  }
  let isReleased = false;
  const keep = (held: pg.Client) => {
    held.once('end', () => {
      if (!isReleased) void retake();
    });
  };
  // The database went away and the lock with it. Whoever comes first has it when it is back.
  async function retake(): Promise<void> {
    while (!isReleased) {
      try {
        client = await takeLock(url);
        if (client !== null) {
          keep(client);
          return;
        }
        logger.fatal({}, 'another gateway took over this database');
        onUsurped();
        return;
      } catch {
        await pause(LOCK_RETRY_MS * 4);
      }
    }
  }
  keep(client);
  return {
    async release() {
      isReleased = true;
      await client?.end().catch(() => undefined);
    },
  };
}

/** A session that holds the lock, or null when another living one does. */
async function takeLock(url: string): Promise<pg.Client | null> {
  const client = openClient({ url, role: null });
  await connectOrRefuse(client);
  const deadline = performance.now() + LOCK_PATIENCE_MS;
  while (!(await trySessionLock(client, LOCKS.serve))) {
    if (performance.now() >= deadline) {
      await client.end();
      return null;
    }
    await pause(LOCK_RETRY_MS);
  }
  return client;
}

/** The role to work under in a database, and what an operator should know of it. */
export async function inspect(url: string): Promise<Pick<Database, 'role' | 'warnings'>> {
  const client = openClient({ url, role: null });
  await client.connect();
  try {
    const { rows } = await client.query<{ fsync: string; has_role: boolean }>(
      `select current_setting('fsync') as fsync,
              exists (select from pg_roles r where r.rolname = $1
                      and pg_has_role(current_user, r.oid,
                          case when current_setting('server_version_num')::int >= 160000
                               then 'set' else 'member' end)) as has_role`,
      [APP_ROLE],
    );
    const found = rows[0];
    const warnings: string[] = [];
    if (found?.fsync !== 'on') {
      warnings.push('fsync is off in the database: a crash can lose acknowledged events');
    }
    if (found?.has_role !== true) {
      warnings.push(`role ${APP_ROLE} is missing: the log is protected by triggers alone`);
    }
    return { role: found?.has_role === true ? APP_ROLE : null, warnings };
  } finally {
    await client.end();
  }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
