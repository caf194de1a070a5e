import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openPool } from '../../src/db/pool.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let pool: pg.Pool;
beforeAll(async () => {
  database = await createDatabase();
  pool = openPool({ url: database.url, size: 2, role: null });
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

/** What would have ended the process while `work` ran. */
async function uncaughtDuring(work: () => Promise<void>): Promise<unknown[]> {
  const others = process.listeners('uncaughtException');
  const caught: unknown[] = [];
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => caught.push(error));
  try {
    await work();
    await sleep(50);
  } finally {
    process.removeAllListeners('uncaughtException');
    for (const listener of others) process.on('uncaughtException', listener);
  }
  return caught;
}

// Not `once` of node:events: it listens for errors too, and so would hide what is looked for.
const untilEnded = (client: pg.PoolClient): Promise<void> =>
  Promise.race([
    new Promise<void>((resolve) => client.once('end', () => resolve())),
    // It never comes when its error was thrown.
    sleep(2_000),
  ]);

async function backendOf(client: pg.PoolClient): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
  return rows[0]?.pid ?? 0;
}

// The server is killed, or an administrator ends a session: a matter of course, and no reason to die.
describe('a connection that the server ends', () => {
  it('ends no process while it is idle', async () => {
    const client = await pool.connect();
    const pid = await backendOf(client);
    client.release();
    const uncaught = await uncaughtDuring(async () => {
      const ended = untilEnded(client);
      await asAdmin(database.url, `select pg_terminate_backend(${pid})`);
      await ended;
    });
    expect(uncaught).toEqual([]);
    expect((await pool.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  });

  it('ends no process while it is out on loan between two statements', async () => {
    const client = await pool.connect();
    const pid = await backendOf(client);
    const uncaught = await uncaughtDuring(async () => {
      const ended = untilEnded(client);
      await asAdmin(database.url, `select pg_terminate_backend(${pid})`);
      await ended;
    });
    client.release(true);
    expect(uncaught).toEqual([]);
    expect((await pool.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  });

  it('ends no process while it is at a statement, which fails', async () => {
    const client = await pool.connect();
    const pid = await backendOf(client);
    const uncaught = await uncaughtDuring(async () => {
      const ended = untilEnded(client);
      const working = client.query('select pg_sleep(20)');
      await Promise.all([
        expect(working).rejects.toMatchObject({ code: '57P01' }),
        asAdmin(database.url, `select pg_terminate_backend(${pid})`),
      ]);
      await ended;
    });
    client.release(true);
    expect(uncaught).toEqual([]);
  });
});
