import type pg from 'pg';
import { openClient } from './pool.ts';

/** What a log is told by, and where it ends. */
export type LogState = Readonly<{ log_id: string; epoch: number; head: string }>;

export async function readLogState(db: pg.ClientBase): Promise<LogState> {
  const { rows } = await db.query<LogState>(
    `select log_id, epoch, coalesce((select max(position) from eventlog.events), 0)::text as head
     from eventlog.log_info`,
  );
  const [state] = rows;
  if (state === undefined) throw new Error('eventlog.log_info is empty');
  return state;
}

/**
 * Begins another epoch: positions may have been taken back, so no cursor of before may go on. Minutes since 1970,
 * so that a second restore of one backup is told from the first.
 */
export async function beginEpoch(db: pg.ClientBase): Promise<number> {
  const { rows } = await db.query<{ epoch: number }>(
    `update eventlog.log_info
     set epoch = greatest(epoch + 1, (extract(epoch from clock_timestamp()) / 60)::int)
     returning epoch`,
  );
  return rows[0]?.epoch ?? 0;
}

// SQLSTATE, PostgreSQL's appendix A.
const INSUFFICIENT_PRIVILEGE = '42501';

/**
 * Where a log lives: its server, the timeline that the server writes, and the database in it. A dump that is loaded
 * makes another database, a recovery to a point in time or a standby that takes over another timeline, and each may
 * take positions back. Null where the server does not tell this role.
 */
async function readHome(db: pg.ClientBase | pg.Pool): Promise<string | null> {
  try {
    const { rows } = await db.query<{ home: string }>(
      `select concat_ws('/', (select system_identifier from pg_control_system()),
                left(pg_walfile_name(pg_current_wal_lsn()), 8), oid) as home
       from pg_database where datname = current_database()`,
    );
    return rows[0]?.home ?? null;
  } catch (error) {
    if ((error as { code?: unknown }).code === INSUFFICIENT_PRIVILEGE) return null;
    throw error;
  }
}

export type SettledLog = Readonly<{
  /** Its last position. */
  head: string;
  home: string | null;
  /** The epoch that began here, and why; null when the log is where and what it was. */
  begun: Readonly<{ epoch: number; why: string }> | null;
}>;

/**
 * Notices, before a log is opened, that it is not the one that was served before: it lives elsewhere, or ends before a
 * position that was seen in it (`seenTo`). Then an epoch begins, so that no cursor of before skips what is recorded at
 * positions that are given out a second time. As the URL's own role.
 */
export async function settleLog(url: string, seenTo: bigint): Promise<SettledLog> {
  const db = openClient({ url, role: null });
  await db.connect();
  try {
    const home = await readHome(db);
    await db.query('begin');
    const { rows } = await db.query<{ home: string | null }>(
      'select home from eventlog.log_info for update',
    );
    const before = rows[0]?.home ?? null;
    const { head } = await readLogState(db);
    const why = whyAnother({ before, home, head: BigInt(head), seenTo });
    const begun = why === null ? null : { epoch: await beginEpoch(db), why };
    await db.query('update eventlog.log_info set home = coalesce($1, home)', [home]);
    await db.query('commit');
    return { head, home, begun };
  } finally {
    await db.end();
  }
}

type Found = Readonly<{ before: string | null; home: string | null; head: bigint; seenTo: bigint }>;
function whyAnother({ before, home, head, seenTo }: Found): string | null {
  if (before !== null && home !== null && before !== home)
    return `it was ${before}, and is ${home}`;
  if (seenTo > head) return `it was seen up to ${seenTo}, and ends at ${head}`;
  return null;
}

/** The next start takes the log's home as it finds it, since what has moved it has begun an epoch itself. */
export async function forgetHome(db: pg.ClientBase): Promise<void> {
  await db.query('update eventlog.log_info set home = null');
}

/** Whether a log that is open lives where it was settled: what a standby took over does not. Unsaid is taken for yes. */
export async function isAtHome(pool: pg.Pool, home: string | null): Promise<boolean> {
  // While the database is away nothing is read or recorded either.
  const now = await readHome(pool).catch(() => null);
  return home === null || now === null || now === home;
}
