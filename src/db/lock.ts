import type pg from 'pg';

/**
 * Every advisory lock of this program; they are per database and global to it, so they are listed
 * in one place. `append` is taken by the SQL function `eventlog.append_batch`.
 */
export const LOCKS = {
  append: 7310001,
  serve: 7310002,
  migrate: 7310003,
  retention: 7310004,
  /** With the name of a read model. */
  rebuild: 7310005,
} as const;

/** True when this session now holds the lock, until it ends or its connection does. */
export async function trySessionLock(client: pg.ClientBase, lock: number): Promise<boolean> {
  const { rows } = await client.query<{ held: boolean }>(
    'select pg_try_advisory_lock($1) as held',
    [lock],
  );
  return rows[0]?.held === true;
}

/** The same for one lock of many, told apart by a name; to be let go with `releaseNamedLock`. */
export async function tryNamedLock(
  client: pg.ClientBase,
  lock: number,
  name: string,
): Promise<boolean> {
  const { rows } = await client.query<{ held: boolean }>(
    'select pg_try_advisory_lock($1, hashtext($2)) as held',
    [lock, name],
  );
  return rows[0]?.held === true;
}

export async function releaseNamedLock(
  client: pg.ClientBase,
  lock: number,
  name: string,
): Promise<void> {
  await client.query('select pg_advisory_unlock($1, hashtext($2))', [lock, name]);
}

/** Whether a gateway is running on this database, by the lock that each holds. */
export async function isServed(db: pg.ClientBase | pg.Pool): Promise<boolean> {
  const { rows } = await db.query(
    `select from pg_locks
     where locktype = 'advisory' and classid = 0 and objid = $1 and objsubid = 1 and granted
       and database = (select oid from pg_database where datname = current_database())`,
    [LOCKS.serve],
  );
  return rows.length > 0;
}
