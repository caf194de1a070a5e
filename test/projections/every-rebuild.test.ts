import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { QuarantineCommand } from '../../src/domain/quarantine-language.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import { projectionsOf } from '../../src/projections/list.ts';
import { type ProjectedEvent, readPage } from '../../src/projections/projection.ts';
import { markContentRemoved } from '../../src/projections/quarantine-work.ts';
import { rebuildProjection, rollBackProjection } from '../../src/projections/rebuild.ts';
import { webhooksProjection } from '../../src/projections/webhooks.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';
import {
  liveThroughKeys,
  liveThroughMailDomains,
  liveThroughWebhooks,
  refuseRequests,
} from '../support/lives.ts';
import { caughtUp } from '../support/projecting.ts';
import { liveThroughFilters, liveThroughMessages } from '../support/quarantine-lives.ts';
import { finish, hold, release, start, tell } from '../support/quarantine-log.ts';

let database: TestDatabase;
let pool: pg.Pool;
let log: EventLog;
let heldId: string;
beforeAll(async () => {
  database = await createDatabase();
  ({ pool } = database);
  log = await database.openLog();
  await liveThroughKeys(log);
  await liveThroughMailDomains(log);
  await liveThroughWebhooks(log);
  await refuseRequests(log);
  const ids = await liveThroughMessages(log);
  heldId = ids.get('released in two tries') ?? '';
  await liveThroughFilters(log, ids.get('discarded') ?? null);
  await liveThroughHoldQueue();
  await (await caughtUp({ pool, log }, projectionsOf(log))).stop();
});
afterAll(() => database.drop());

/** What comes of mail that a mail server holds and lets go by itself. */
async function liveThroughHoldQueue(): Promise<void> {
  const id = await hold(log, { reason: 'unscanned', score: null, symbols: [], store: 'postfix' });
  const scan = { score: 3, symbols: ['LATE'], reason: 'spam' } as const;
  await tell(log, id, { type: 'NoteScan', scan });
  await tell(log, id, { type: 'RequestRetrain', class: 'ham' });
  const unlearned = { class: 'ham', outcome: 'unavailable', status: null } as const;
  await tell(log, id, { type: 'FinishRetrain', ...unlearned });
  await tell(log, id, release());
  await tell(log, id, start);
  await tell(log, id, { ...finish(1, { 0: 'refused' }), hasLeft: true } as QuarantineCommand);
}

const NAMES = [
  'api_keys',
  'mail_domains',
  'quarantine',
  'sender_filters',
  'webhooks',
  'rate_limits',
];
const projectionOf = (name: string) => {
  const found = projectionsOf(log).find((projection) => projection.name === name);
  if (found === undefined) throw new Error(`no projection ${name}`);
  return found;
};
const rowsOf = async (table: string): Promise<string[]> => {
  const { rows } = await pool.query<{ row: string }>(
    `select t::text as row from ${table} t order by 1`,
  );
  return rows.map(({ row }) => row);
};

/** What a table is beside its rows, as the database's own views tell it. */
async function shapeOf(table: string): Promise<unknown[]> {
  const found: unknown[] = [];
  for (const sql of [
    `select column_name, data_type, collation_name, is_nullable, column_default
     from information_schema.columns where table_schema = 'public' and table_name = $1
     order by ordinal_position`,
    `select indexname, indexdef from pg_indexes where schemaname = 'public' and tablename = $1
     order by 1`,
    `select conname, contype, pg_get_constraintdef(oid) from pg_constraint
     where conrelid = $1::regclass order by 1`,
    `select relacl::text, relowner, reloptions from pg_class where oid = $1::regclass`,
  ]) {
    found.push(...(await pool.query(sql, [table])).rows);
  }
  return found;
}

describe('the log of these tests', () => {
  it('has every type that any read model folds', async () => {
    const { position: until } = await log.head();
    const page = await log.readAll({ after: 0n, until, filter: {}, limit: 10_000 });
    const types = new Set(page.events.map(({ line }) => readLine(line).type));
    const missing = projectionsOf(log).flatMap((projection) =>
      projection.types.filter((type) => !types.has(type)),
    );
    expect(missing).toEqual([]);
  });

  it('is folded by the read models of these tests', () => {
    const withTables = projectionsOf(log).filter(({ tables }) => tables.length > 0);
    expect(withTables.map(({ name }) => name)).toEqual(NAMES);
  });
});

describe.each(NAMES)('%s, rebuilt', (name) => {
  it('has the rows and the shape that it had, and can be rolled back', async () => {
    const projection = projectionOf(name);
    const before = new Map<string, unknown>();
    for (const table of projection.tables) {
      const rows = await rowsOf(`public.${table}`);
      expect([table, rows.length > 0]).toEqual([table, true]);
      before.set(table, [rows, await shapeOf(table)]);
    }
    const seen = async () => {
      for (const table of projection.tables) {
        const now = [await rowsOf(`public.${table}`), await shapeOf(table)];
        expect([table, now]).toEqual([table, before.get(table)]);
      }
    };
    expect((await rebuildProjection({ pool, log }, projection)).differences).toEqual([]);
    await seen();
    for (const table of projection.tables) {
      expect((await rowsOf(`previous_${name}.${table}`)).length).toBeGreaterThan(0);
    }
    await rollBackProjection({ pool, log }, projection);
    await seen();
  });
});

describe('the quarantine, rebuilt', () => {
  it('does not count as different what retention has noted in it', async () => {
    await markContentRemoved(pool, [heldId]);
    const projection = projectionOf('quarantine');
    expect((await rebuildProjection({ pool, log }, projection)).differences).toEqual([]);
    await asAdmin(
      database.url,
      `update quarantined_messages set score = 99 where id = '${heldId}'`,
    );
    await expect(rebuildProjection({ pool, log }, projection)).rejects.toMatchObject({
      differences: [{ table: 'quarantined_messages', onlyOld: 1, onlyNew: 1 }],
    });
  });
});

describe('webhooks, rebuilt', () => {
  /** Everything up to where the replays of a subscription that is deleted later are under way. */
  async function eventsUntilReplaysRun(): Promise<readonly ProjectedEvent[]> {
    const { position: until } = await log.head();
    const { events } = await readPage(log, webhooksProjection, { after: 0n, until });
    const last = events.findLastIndex(({ event }) => event.type === 'webhook.replay_requested');
    return events.slice(0, last + 1);
  }
  const running = async () =>
    (await pool.query(`select id::int from webhook_replays where state = 'running' order by 1`))
      .rows;

  it('wakes no replay of long ago at any page, and leaves those that run where they are', async () => {
    await pool.query('update webhook_replays set position = 6, delivered = 4 where id = 3');
    const before = await rowsOf('public.webhook_replays');
    expect(await running()).toEqual([{ id: 3 }]);
    const seen: unknown[] = [];
    let pages = 0;
    const looking: Promise<void>[] = [];
    await rebuildProjection(
      {
        pool,
        log,
        pageEvents: 1,
        onProgress() {
          pages += 1;
          looking.push(running().then((rows) => void seen.push(rows)));
        },
      },
      webhooksProjection,
    );
    await Promise.all(looking);
    expect(pages).toBeGreaterThan(20);
    for (const rows of seen) expect(rows).toEqual([{ id: 3 }]);
    expect(await rowsOf('public.webhook_replays')).toEqual(before);
  });

  it('would wake them without scratch for them (control)', async () => {
    const db = await pool.connect();
    try {
      await db.query('begin');
      await db.query('create temporary table webhooks (like public.webhooks including all)');
      await webhooksProjection.apply(db, await eventsUntilReplaysRun());
      const { rows } = await db.query(
        `select id::int from public.webhook_replays where state = 'running' order by 1`,
      );
      expect(rows).toEqual([{ id: 3 }, { id: 4 }, { id: 5 }]);
    } finally {
      await db.query('rollback');
      db.release();
    }
  });
});
