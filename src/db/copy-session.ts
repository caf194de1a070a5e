import pg from 'pg';
import { openClient } from './pool.ts';
import { nameOf } from './relations.ts';
import { type ListedTable, listTables } from './table-copies.ts';

/** A database as it was at one moment, with its tables; nothing can be changed through it. */
export type Snapshot = Readonly<{ db: pg.Client; tables: readonly ListedTable[] }>;

const LOCK_WAIT_MS = 60_000;
const TRIES_MAX = 10;
const UNDEFINED_TABLE = '42P01';

// As pg_dump has it: what a role or a database sets must neither end a copy nor change how a value is written.
// Settings that a server does not know are left alone.
const SETTLE = `
  select set_config(s.name, wanted.value, false)
  from (values ('datestyle', 'ISO, YMD'), ('intervalstyle', 'postgres'), ('extra_float_digits', '1'),
    ('row_security', 'off'), ('search_path', 'public, pg_temp'), ('lock_timeout', '${LOCK_WAIT_MS}'),
    ('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '0'),
    ('transaction_timeout', '0')) wanted (name, value)
  join pg_settings s on lower(s.name) = wanted.name`;

/** Runs `work` as the URL's own role; without a limit on its time, and with values as any other such session has them. */
async function inSession<T>(url: string, work: (db: pg.Client) => Promise<T>): Promise<T> {
  const db = openClient({ url, role: null, statementTimeoutMs: 0 });
  await db.connect();
  try {
    await db.query(SETTLE);
    return await work(db);
  } finally {
    // Without a commit the end of the session takes everything back.
    await db.end();
  }
}

/** Everything that `work` reads is as it was at one moment, whatever is appended, swapped or dropped meanwhile. */
export const inSnapshot = <T>(url: string, work: (seen: Snapshot) => Promise<T>): Promise<T> =>
  inSession(url, async (db) => work({ db, tables: await takeSnapshot(db) }));

/** Everything that `work` changes is there together, or nothing of it. */
export const inOwnTransaction = <T>(url: string, work: (db: pg.Client) => Promise<T>): Promise<T> =>
  inSession(url, async (db) => {
    await db.query('begin');
    const result = await work(db);
    await db.query('commit');
    return result;
  });

/** The version of the server. */
export async function readServerVersion(db: pg.ClientBase): Promise<string> {
  const { rows } = await db.query<{ server_version: string }>('show server_version');
  return rows[0]?.server_version ?? '';
}

/**
 * A snapshot has no hold on names: a table that is swapped in after it was taken would be read by its name, and found
 * empty or half filled. So the tables are locked first, and it is seen in the snapshot that they are those.
 */
async function takeSnapshot(db: pg.Client): Promise<readonly ListedTable[]> {
  for (let tries = 0; tries < TRIES_MAX; tries += 1) {
    const wanted = await listTables(db);
    await db.query('begin isolation level repeatable read read only');
    if (await lock(db, wanted)) {
      // The first statement that reads is what takes the snapshot.
      const seen = await listTables(db);
      if (idsOf(seen) === idsOf(wanted)) return seen;
    }
    await db.query('rollback');
  }
  throw new Error('The tables of the database are being replaced all the time; try again later.');
}

/** False when one of them is gone already. The mode keeps nobody from reading and writing. */
async function lock(db: pg.Client, tables: readonly ListedTable[]): Promise<boolean> {
  try {
    await db.query(`lock table ${tables.map(nameOf).join(', ')} in access share mode`);
    return true;
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === UNDEFINED_TABLE) return false;
    throw error;
  }
}

const idsOf = (tables: readonly ListedTable[]): string => tables.map(({ oid }) => oid).join();
