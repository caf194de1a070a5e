import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, describe, expect, it } from 'vitest';
import { listAppliedMigrations, listOwnMigrations, migrate } from '../../src/db/migrate.ts';
import { openClient } from '../../src/db/pool.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { joinerOf, mailguard, temporary } from './support.ts';

const dir = temporary();
const databases: TestDatabase[] = [];
afterAll(async () => {
  for (const database of databases) await database.drop();
});

async function makeDatabase(): Promise<TestDatabase> {
  const database = await createDatabase();
  databases.push(database);
  return database;
}

/** A database that nothing was ever done to. */
async function makeBare(): Promise<TestDatabase> {
  const database = await makeDatabase();
  const { url, name } = database;
  const admin = new URL(url);
  admin.pathname = '/postgres';
  await asAdmin(admin.href, `drop database ${name} with (force)`);
  await asAdmin(admin.href, `create database ${name}`);
  return database;
}

async function ask(url: string, sql: string): Promise<any[]> {
  const client = openClient({ url, role: null });
  await client.connect();
  const { rows } = await client.query(sql).finally(() => client.end());
  return rows;
}

async function migrationsOf(url: string): Promise<readonly string[]> {
  const client = openClient({ url, role: null });
  await client.connect();
  return listAppliedMigrations(client).finally(() => client.end());
}

const EVENTS = 'select position, line from eventlog.events order by position';
const settingsOf = (database: TestDatabase, name: string) => ({
  MAILGUARD_DATABASE_URL: database.url,
  MAILGUARD_DATA_DIR: join(dir, name),
});

describe('a backup of what an older release made', () => {
  /** As the release before the last migration had it. */
  async function makeOlder(): Promise<TestDatabase> {
    const database = await makeBare();
    await migrate(database.url, (await listOwnMigrations()).length - 1);
    const log = await database.openLog();
    const events = [anEvent(), anEvent()];
    await log.append({ stream: 'test-1', expected: 'none', events });
    return database;
  }

  it('is restored as it was, and brought to this release then', async () => {
    const [older, target] = [await makeOlder(), await makeBare()];
    const place = join(dir, 'older');
    const made = await mailguard(['backup', place], { env: settingsOf(older, 'older-data') });
    expect([made.code, made.stderr]).toEqual([0, expect.any(String)]);
    const ours = await listOwnMigrations();
    const { migrations } = JSON.parse(readFileSync(join(place, 'manifest.json'), 'utf8'));
    expect(migrations).toEqual(ours.slice(0, -1));
    const { code, stderr } = await mailguard(['restore', place], {
      env: settingsOf(target, 'target-data'),
    });
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    expect(await migrationsOf(target.url)).toEqual(ours);
    expect(await ask(target.url, EVENTS)).toEqual(await ask(older.url, EVENTS));

    const later = await mailguard(['restore', place], {
      env: settingsOf(await makeDatabase(), 'later-data'),
    });
    expect([later.code, later.stderr]).toEqual([2, expect.stringContaining('a later release')]);
    // Named by mistake: it is refused before anything is done to it.
    const mistaken = await mailguard(['restore', place], { env: settingsOf(older, 'older-data') });
    expect([mistaken.code, mistaken.stderr]).toEqual([2, expect.stringContaining('is not empty')]);
    expect(await migrationsOf(older.url)).toEqual(migrations);
  });
});

describe('a database that others use, too', () => {
  it('is backed up without what is about to be dropped, and restored without what is theirs', async () => {
    const [source, target] = [await makeDatabase(), await makeBare()];
    await asAdmin(
      source.url,
      `create table notes (text text);
       insert into notes values ('theirs');
       create sequence note_ids;
       select nextval('note_ids');
       select ensure_webhook_attempt_days('2026-01-01', 2);
       select detach_webhook_attempt_day('2026-01-02')`,
    );
    const place = join(dir, 'others');
    expect(
      (await mailguard(['backup', place], { env: settingsOf(source, 'source-data') })).code,
    ).toBe(0);
    const { tables } = JSON.parse(readFileSync(join(place, 'manifest.json'), 'utf8'));
    const names = tables.map(({ name }: { name: string }) => name);
    expect(names).toContain('notes');
    expect(names.filter((name: string) => name.startsWith('webhook_attempts'))).toEqual([
      'webhook_attempts',
    ]);
    const { code, stderr } = await mailguard(['restore', place], {
      env: settingsOf(target, 'others-data'),
    });
    expect([code, stderr]).toEqual([0, expect.stringContaining('notes: no table of this program')]);
  });
});

describe('log and read models in two databases', () => {
  it('are backed up together, and restored to two', async () => {
    const [log, newLog, newModels] = [
      await makeDatabase(),
      await makeDatabase(),
      await makeDatabase(),
    ];
    const t = await startTestGateway({ config: { eventlogUrl: log.url } });
    databases.push(t.database);
    const domain = await t.createDomain('two.example');
    const key = await t.createKey();
    const place = join(dir, 'two');
    const env = { ...joinerOf(t), MAILGUARD_EVENTLOG_URL: log.url };
    const made = await mailguard(['backup', place, '--json'], { env });
    expect(made.code).toBe(0);
    await t.gateway.stop();
    const dataDir = join(dir, 'two-data');
    const restored = await mailguard(['restore', place], {
      env: {
        ...env,
        ...settingsOf(newModels, 'two-data'),
        MAILGUARD_EVENTLOG_URL: newLog.url,
      },
    });
    expect([restored.code, restored.stderr]).toEqual([0, expect.any(String)]);
    const again: TestGateway = await startTestGateway({
      database: newModels,
      dataDir,
      masterKey: t.gateway.context.config.masterKey as Buffer,
      bootstrapKey: t.bootstrapKey,
      config: { eventlogUrl: newLog.url },
    });
    const { body } = await again.send('GET', '/domains', { key: key.key });
    expect(body.data.map(({ id }: { id: number }) => id)).toEqual([domain.id]);
    const { head } = JSON.parse(made.stdout);
    expect((await ask(newLog.url, EVENTS)).slice(0, Number(head))).toEqual(
      (await ask(log.url, EVENTS)).slice(0, Number(head)),
    );
    expect(await ask(newModels.url, EVENTS)).toEqual([]);
    await again.gateway.stop();
  });
});

describe('a restore that is interrupted', () => {
  it('keeps others out until then, is 130, and leaves nothing in the database', async () => {
    const [source, target] = [await makeDatabase(), await makeDatabase()];
    const log = await source.openLog();
    const events = Array.from({ length: 500 }, () =>
      anEvent({ data: { note: 'x'.repeat(1_000) } }),
    );
    await log.append({ stream: 'test-1', expected: 'none', events });
    const place = join(dir, 'interrupted');
    expect((await mailguard(['backup', place], { env: settingsOf(source, 's') })).code).toBe(0);
    const interrupting = new AbortController();
    const blocker = new pg.Client({ connectionString: target.url });
    await blocker.connect();
    await blocker.query('begin; lock table eventlog.event_personal in exclusive mode');
    const running = mailguard(['restore', place], {
      env: settingsOf(target, 'i'),
      signal: interrupting.signal,
    });
    const isWaiting = async () =>
      (await blocker.query('select from pg_locks where not granted')).rows.length > 0;
    while (!(await isWaiting())) await new Promise((resolve) => setTimeout(resolve, 10));
    // It has the lock of `serve`, which neither a gateway nor a second restore can take.
    const beside = await mailguard(['restore', place], { env: settingsOf(target, 'i2') });
    expect([beside.code, beside.stderr]).toEqual([2, expect.stringContaining('Another gateway')]);
    interrupting.abort();
    const { code } = await running;
    await blocker.end();
    expect(code).toBe(130);
    expect(await ask(target.url, EVENTS)).toEqual([]);
  });
});
