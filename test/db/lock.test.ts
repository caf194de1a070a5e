import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { doAlone, LOCKS } from '../../src/db/lock.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';

const RETENTION = { lock: LOCKS.job, name: 'retention', patienceMs: 0 };

let database: TestDatabase;
let pool: pg.Pool;
beforeEach(async () => {
  database = await createDatabase();
  pool = database.pool;
});
afterEach(() => database.drop());

/** Work that goes on until it is told to end. */
function openWork() {
  let end: () => void = () => undefined;
  let begin: () => void = () => undefined;
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const ended = new Promise<string>((resolve) => {
    end = () => resolve('done');
  });
  const work = () => {
    begin();
    return ended;
  };
  return { work, begun, end: () => end() };
}

const noWork = async () => expect.unreachable('somebody else has the lock');
const heldLocks = async () =>
  (
    await pool.query(
      `select from pg_locks where locktype = 'advisory' and classid = $1
         and database = (select oid from pg_database where datname = current_database())`,
      [LOCKS.job],
    )
  ).rowCount;

describe('doAlone', () => {
  it('does nothing while somebody else is at it, and what has another name', async () => {
    const first = openWork();
    const doing = doAlone(pool, RETENTION, first.work);
    await first.begun;
    expect(await doAlone(pool, RETENTION, noWork)).toBeNull();
    expect(await doAlone(pool, { ...RETENTION, name: 'other' }, async () => 7)).toEqual({
      result: 7,
    });
    first.end();
    expect(await doing).toEqual({ result: 'done' });
    expect(await doAlone(pool, RETENTION, async () => 8)).toEqual({ result: 8 });
  });

  it('waits for somebody else for as long as it was told to', async () => {
    const first = openWork();
    const doing = doAlone(pool, RETENTION, first.work);
    await first.begun;
    const patient = doAlone(pool, { ...RETENTION, patienceMs: 60_000 }, async () => 'second');
    first.end();
    await doing;
    expect(await patient).toEqual({ result: 'second' });
  });

  it('gives the lock back when its work fails, and passes on how', async () => {
    await expect(doAlone(pool, RETENTION, () => Promise.reject(new Error('no')))).rejects.toThrow(
      'no',
    );
    expect(await heldLocks()).toBe(0);
  });

  it('puts no connection back that broke meanwhile, and gives what its work came to', async () => {
    const done = await doAlone(pool, RETENTION, async () => {
      await asAdmin(
        database.url,
        `select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'
           and classid = ${LOCKS.job}
           and database = (select oid from pg_database where datname = current_database())`,
      );
      return 'all the same';
    });
    expect(done).toEqual({ result: 'all the same' });
    expect(await heldLocks()).toBe(0);
    expect(await doAlone(pool, RETENTION, async () => 'next')).toEqual({ result: 'next' });
  });
});
