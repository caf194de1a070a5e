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
} as const;

/** True when this session now holds the lock, until it ends or its connection does. */
export async function trySessionLock(client: pg.ClientBase, lock: number): Promise<boolean> {
  const { rows } = await client.query<{ held: boolean }>(
    'select pg_try_advisory_lock($1) as held',
    [lock],
  );
  return rows[0]?.held === true;
}
