import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { inSnapshot } from '../../src/db/copy-session.ts';
import { openClient } from '../../src/db/pool.ts';
import { addTables, saveCopy, swapCopy } from '../../src/db/projection-copies.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/webhooks.ts';

const COPY = { name: 'mail_domains', kind: 'rebuild', version: 1, position: 0n } as const;
const TABLES = ['mail_domains'];
const COUNT = 'select count(*)::int as n from mail_domains';

let database: TestDatabase;
let other: pg.Client;
beforeEach(async () => {
  database = await createDatabase();
  other = await connect();
  await other.query(
    `insert into projection_checkpoints (name, version) values ('mail_domains', 1)
     on conflict do nothing`,
  );
  await addRow('public', 1);
});
afterEach(async () => {
  await other.end();
  await database.drop();
});

async function connect(): Promise<pg.Client> {
  const client = openClient({ url: database.url, role: null });
  await client.connect();
  return client;
}

const addRow = (schema: string, id: number) =>
  other.query(
    `insert into ${schema}.mail_domains values ($1, 'mail_domain-x', 0, '{}', '[]', now(), now())`,
    [id],
  );

/** What a rebuild does in the end: rows that were folded apart, three here, take the place of the one that serves. */
async function beginSwap(): Promise<void> {
  await other.query('begin');
  await addTables(other, COPY, TABLES);
  await saveCopy(other, { ...COPY, tables: TABLES });
  for (const id of [1, 2, 3]) await addRow('rebuild_mail_domains', id);
  await swapCopy(other, { ...COPY, tables: TABLES }, true);
}

async function swap(): Promise<string> {
  try {
    await beginSwap();
    await other.query('commit');
    return 'swapped';
  } catch (error) {
    await other.query('rollback');
    return error instanceof pg.DatabaseError ? (error.code ?? '') : String(error);
  }
}

const countIn = async (db: pg.Client): Promise<number> => (await db.query(COUNT)).rows[0].n;

describe('a snapshot', () => {
  it('keeps its tables from being replaced, and nobody from writing', async () => {
    const seen = await inSnapshot(database.url, async ({ db }) => {
      const swapped = await swap();
      await addRow('public', 2);
      return [swapped, await countIn(db), await countIn(other)];
    });
    expect(seen).toEqual(['55P03', 1, 2]);
  });

  it('without that would find a table that was swapped in empty (control)', async () => {
    const plain = await connect();
    await plain.query('begin isolation level repeatable read read only');
    await plain.query('select 1');
    expect([await swap(), await countIn(plain)]).toEqual(['swapped', 0]);
    await plain.end();
  });

  it('that begins while tables are being replaced has those that serve then', async () => {
    await beginSwap();
    const seeing = inSnapshot(database.url, ({ db }) => countIn(db));
    await eventually(
      async () => (await other.query('select from pg_locks where not granted')).rows.length,
      (waiting) => expect(waiting).toBe(1),
    );
    await other.query('commit');
    expect(await seeing).toBe(3);
  });

  it('heeds neither limits nor ways to write that are set for the database', async () => {
    for (const [name, value] of [
      ['datestyle', 'SQL, DMY'],
      ['extra_float_digits', '-3'],
      ['idle_in_transaction_session_timeout', '20ms'],
      ['statement_timeout', '20ms'],
    ]) {
      await asAdmin(database.url, `alter database ${database.name} set ${name} = '${value}'`);
    }
    const seen = await inSnapshot(database.url, async ({ db }) => {
      await new Promise((resolve) => setTimeout(resolve, 200));
      const { rows } = await db.query(
        `select pg_sleep(0.1), timestamptz '2027-02-01 00:00:00Z'::text as at, (0.1::float8 + 0.2)::text as sum`,
      );
      return rows[0];
    });
    expect(seen).toMatchObject({ at: '2027-02-01 00:00:00+00', sum: '0.30000000000000004' });
  });
});
