import type { Logger } from 'pino';
import type { Config } from './config.ts';
import { isAtHome, type SettledLog, settleLog } from './db/log-state.ts';
import { migrate } from './db/migrate.ts';
import type { Database } from './db/open.ts';
import { openClient, openPool } from './db/pool.ts';
import { takeWebhooksBack } from './db/webhook-rewind.ts';
import type { EventLog } from './eventlog/eventlog.ts';
import { openEventLog } from './eventlog/open.ts';
import { furthestCheckpoint } from './projections/checkpoint.ts';

const LOG_POOL_SIZE = 4;

/** A log that is open, and a look at whether it is still the one that was opened. */
export type OpenedLog = Readonly<{ log: EventLog; isSame: () => Promise<boolean> }>;

/**
 * Opens the log in the database or, where a URL of its own is set, in another one with pools of its own. A log that was
 * restored or taken over by a standby has begun another epoch, and webhooks have been taken back to its end, before
 * anybody can read it.
 */
export async function openLog(
  config: Config,
  database: Database,
  logger: Logger,
): Promise<OpenedLog> {
  const { role } = database;
  const url = config.eventlogUrl ?? database.url;
  const connect = () => openClient({ url, role });
  if (url === database.url) {
    const { home } = await settle(url, database, logger);
    const log = await openEventLog(url, { ...database, connect });
    return { log, isSame: () => isAtHome(database.pool, home) };
  }
  await migrate(url);
  const { home } = await settle(url, database, logger);
  const pool = openPool({ url, size: LOG_POOL_SIZE, role });
  const exportPool = openPool({ url, size: LOG_POOL_SIZE, role });
  const log = await openEventLog(url, { pool, exportPool, connect });
  const close = async () => {
    await log.close();
    await Promise.all([pool.end(), exportPool.end()]);
  };
  return { log: { ...log, close }, isSame: () => isAtHome(pool, home) };
}

async function settle(url: string, { pool }: Database, logger: Logger): Promise<SettledLog> {
  const settled = await settleLog(url, await furthestCheckpoint(pool));
  await takeWebhooksBack(pool, settled.head);
  if (settled.begun !== null) {
    logger.warn(
      settled.begun,
      'the log may have lost its last events: cursors of before are refused',
    );
  }
  return settled;
}
