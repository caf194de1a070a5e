import type pg from 'pg';

/**
 * Every advisory lock of this program; they are per database and global to it, so they are listed
 * in one place. `append` is taken by the SQL function `eventlog.append_batch`.
 */
export const LOCKS = {
  append: 7310001,
  serve: 7310002,
  migrate: 7310003,
  /** With the name of a job. */
  job: 7310004,
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

/** One lock of many, told apart by a name, and how long somebody else is waited for who has it. */
type NamedLock = Readonly<{ lock: number; name: string; patienceMs: number }>;

const RETRY_MS = 50;

/**
 * Does work as the only one on this database who holds a lock; it ends with the process, too. Null when somebody else
 * had it for too long, and nothing was done.
 */
export async function doAlone<Result>(
  pool: pg.Pool,
  { lock, name, patienceMs }: NamedLock,
  work: () => Promise<Result>,
): Promise<Readonly<{ result: Result }> | null> {
  const db = await pool.connect();
  let failure: Error | undefined;
  try {
    const deadline = performance.now() + patienceMs;
    while (!(await isAnswered(db, 'pg_try_advisory_lock', [lock, name]))) {
      if (performance.now() >= deadline) return null;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
    try {
      return { result: await work() };
    } finally {
      await isAnswered(db, 'pg_advisory_unlock', [lock, name]).catch((error: unknown) => {
        failure = error as Error;
      });
    }
  } finally {
    // A connection that failed may still hold the lock: it must not go back to the pool.
    db.release(failure);
  }
}

async function isAnswered(
  db: pg.ClientBase,
  ask: 'pg_try_advisory_lock' | 'pg_advisory_unlock',
  lock: readonly [number, string],
): Promise<boolean> {
  const { rows } = await db.query<{ yes: boolean }>(`select ${ask}($1, hashtext($2)) as yes`, [
    ...lock,
  ]);
  return rows[0]?.yes === true;
}
