import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';

const INSUFFICIENT_PRIVILEGE = '42501';
const RESTRICT_VIOLATION = '23001';

let database: TestDatabase;
let owner: pg.Client;
let before: unknown[];
beforeAll(async () => {
  database = await createDatabase();
  const log = await database.openLog();
  await log.append({
    stream: `test-${randomUUID()}`,
    expected: 'none',
    events: [anEvent({ mailDomains: ['7'] }), anEvent({ mailDomains: ['8'] })],
  });
  owner = openClient({ url: database.url, role: null });
  await owner.connect();
  before = await everything();
});
afterAll(async () => {
  await owner.end();
  await database.drop();
});

async function everything(): Promise<unknown[]> {
  const sql = `select e::text as row from eventlog.events e
               union all select d::text from eventlog.event_mail_domains d order by 1`;
  return (await owner.query(sql)).rows;
}

/** The SQLSTATE of a refusal; null when it was carried out. */
async function refusalOf(db: pg.Client | pg.Pool, sql: string): Promise<string | null | undefined> {
  try {
    await db.query(sql);
    return null;
  } catch (error) {
    return (error as pg.DatabaseError).code;
  }
}

const TABLES = ['eventlog.events', 'eventlog.event_mail_domains'];
const changes = TABLES.flatMap((table) => [
  `update ${table} set position = position`,
  `update ${table} set position = position + 100 where false`,
  `delete from ${table}`,
  `delete from ${table} where position = 1`,
  `truncate ${table}`,
]);

describe('the log can only be appended to', () => {
  it.each(changes)('as the service: %s', async (sql) => {
    expect(await refusalOf(database.pool, sql)).toBe(INSUFFICIENT_PRIVILEGE);
    expect(await everything()).toEqual(before);
  });

  it.each(changes)('as its owner: %s', async (sql) => {
    expect(await refusalOf(owner, sql)).toBe(RESTRICT_VIOLATION);
    expect(await everything()).toEqual(before);
  });

  it.each(changes)('as its owner who says to be a replica: %s', async (sql) => {
    const replica = openClient({ url: database.url, role: null });
    await replica.connect();
    await replica.query('set session_replication_role = replica');
    expect(await refusalOf(replica, sql)).toBe(RESTRICT_VIOLATION);
    await replica.end();
    expect(await everything()).toEqual(before);
  });

  it('as its owner, with both tables at once or by way of a cascade', async () => {
    const both = `truncate ${TABLES.join()} cascade`;
    expect(await refusalOf(owner, both)).toBe(RESTRICT_VIOLATION);
    const merge = `merge into eventlog.events e using (select 1) s on true
                   when matched then delete`;
    expect(await refusalOf(owner, merge)).toBe(RESTRICT_VIOLATION);
    const upsert = `insert into eventlog.event_mail_domains values (7, 1)
                    on conflict (mail_domain, position) do update set mail_domain = 9`;
    expect(await refusalOf(owner, upsert)).toBe(RESTRICT_VIOLATION);
    expect(await everything()).toEqual(before);
  });
});

describe('as the service', () => {
  it.each([
    `insert into eventlog.events select position + 2, revision + 2, recorded_at, gen_random_uuid(),
       stream, type, actor, resource, line from eventlog.events`,
    'insert into eventlog.event_mail_domains values (9, 1)',
    'insert into eventlog.event_personal (event_id) values (gen_random_uuid())',
    'update eventlog.event_personal set identity = null',
    "update eventlog.subject_names set name = 'x'",
    'delete from eventlog.subject_names',
    'update eventlog.log_info set epoch = 9',
    'alter table eventlog.events disable trigger all',
    'drop table eventlog.events',
    'drop function eventlog.refuse_change cascade',
    'create or replace function eventlog.refuse_change() returns trigger language sql as $$ select 1 $$',
    'create table eventlog.mine (x int)',
    'set session_replication_role = replica',
  ])('there is no other way in: %s', async (sql) => {
    expect(await refusalOf(database.pool, sql)).toBe(INSUFFICIENT_PRIVILEGE);
    expect(await everything()).toEqual(before);
  });

  it('reading is all that is left', async () => {
    const { rows } = await database.pool.query('select count(*)::int as n from eventlog.events');
    expect(rows).toEqual([{ n: 2 }]);
  });
});
