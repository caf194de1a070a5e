import type pg from 'pg';

/** Runs work on one connection in one transaction: all of it is kept, or, when it throws, nothing. */
export async function inTransaction<T>(
  pool: pg.Pool,
  work: (db: pg.ClientBase) => Promise<T>,
  mode = '',
): Promise<T> {
  const db = await pool.connect();
  let failure: Error | undefined;
  try {
    await db.query(`begin ${mode}`);
    const result = await work(db);
    await db.query('commit');
    return result;
  } catch (error) {
    failure = error as Error;
    await db.query('rollback').then(
      () => (failure = undefined),
      () => undefined,
    );
    throw error;
  } finally {
    db.release(failure);
  }
}
