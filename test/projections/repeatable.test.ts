import { createHash } from 'node:crypto';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { saveCredential } from '../../src/db/credentials.ts';
import { completeIdempotencyKey, reserveIdempotencyKey } from '../../src/db/idempotency.ts';
import { saveWebhookSecret } from '../../src/db/webhook-secrets.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import { apiKeysProjection } from '../../src/projections/api-keys.ts';
import { erasuresProjection } from '../../src/projections/erasures.ts';
import { mailDomainsProjection } from '../../src/projections/mail-domains.ts';
import type { ProjectedEvent, Projection } from '../../src/projections/projection.ts';
import { rateLimitsProjection } from '../../src/projections/rate-limits.ts';
import { webhooksProjection } from '../../src/projections/webhooks.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import {
  deleted,
  ended,
  LIVES,
  liveThroughKeys,
  liveThroughMailDomains,
  liveThroughWebhooks,
  refuseRequests,
  SUBSCRIPTIONS,
} from '../support/lives.ts';
import { clearTables } from '../support/projecting.ts';

let database: TestDatabase;
let log: EventLog;
let events: readonly ProjectedEvent[];
beforeAll(async () => {
  database = await createDatabase();
  log = await database.openLog();
  await liveThroughKeys(log);
  await liveThroughMailDomains(log);
  await liveThroughWebhooks(log);
  await refuseRequests(log);
  const { position } = await log.head();
  const page = await log.readAll({ after: 0n, until: position, filter: {}, limit: 10_000 });
  events = page.events.map((stored) => ({ event: readLine(stored.line), stored }));
});
afterAll(() => database.drop());

/** What the erasing projection takes away, put back as a restored backup would have it. */
async function restoreWhatIsErased(): Promise<void> {
  const admin = database.pool;
  await admin.query('delete from credentials');
  await admin.query('delete from idempotency_keys');
  await admin.query('delete from webhook_replays');
  for (const [index] of SUBSCRIPTIONS.entries()) {
    const sealed = { fingerprint: '1a2b3c4d', sealed: Buffer.alloc(64, index) };
    await saveWebhookSecret(admin, `webhook:${index + 1}`, sealed);
  }
  for (const [index] of LIVES.entries()) {
    const subject = `api_key:${index + 1}`;
    await saveCredential(admin, {
      subject,
      kind: 'api_key',
      lookup: `nmg_${index}`,
      verifier: Buffer.alloc(32, index),
      pepper: 1,
    });
    const id = { principal: 'api_key:1', method: 'POST', path: '/x', key: subject };
    const run = {
      fingerprint: createHash('sha256').update(subject).digest(),
      commandId: `00000000-0000-7000-8000-${String(index).padStart(12, '0')}`,
      runner: '00000000-0000-7000-8000-000000000000',
      now: new Date('2026-05-01T00:00:00Z'),
    };
    await reserveIdempotencyKey(admin, id, run, () => false);
    const answer = { status: 201, headers: {}, body: '{"name":"key"}', subject };
    await completeIdempotencyKey(admin, id, answer);
  }
}

const CASES: readonly {
  projection: (log: EventLog) => Projection;
  rows: readonly string[];
  leastRows: number;
}[] = [
  {
    projection: () => apiKeysProjection,
    rows: ['select * from api_keys order by id'],
    leastRows: 12,
  },
  {
    projection: () => mailDomainsProjection,
    rows: ['select * from mail_domains order by id'],
    leastRows: 3,
  },
  {
    projection: () => rateLimitsProjection,
    rows: ['select * from rate_limit_denials order by key_id, minute'],
    leastRows: 3,
  },
  {
    projection: () => webhooksProjection,
    rows: ['select * from webhooks order by id', 'select * from webhook_replays order by id'],
    leastRows: 12,
  },
  {
    projection: erasuresProjection,
    rows: [
      'select subject, kind, lookup from credentials order by subject',
      'select key, body from idempotency_keys order by key',
      'select subject, name from eventlog.subject_names order by subject',
      `select event_id, identity, network, content from eventlog.event_personal order by position`,
    ],
    leastRows: 30,
  },
];

describe.each(CASES)('a projection applied twice', ({ projection: make, rows, leastRows }) => {
  const projection = () => make(log);
  const relevant = () => events.filter(({ event }) => projection().types.includes(event.type));

  /** Applies page after page to empty tables; `after` runs behind each. The rows at the end. */
  async function applyAll(
    pages: readonly (readonly ProjectedEvent[])[],
    after: (db: pg.ClientBase, index: number) => Promise<void> = async () => undefined,
  ): Promise<unknown[]> {
    const db = await database.pool.connect();
    try {
      await restoreWhatIsErased();
      await clearTables(db, projection());
      for (const [index, page] of pages.entries()) {
        await projection().apply(db, page);
        await after(db, index);
      }
      return await readRows(db);
    } finally {
      db.release();
    }
  }

  async function readRows(db: pg.ClientBase): Promise<unknown[]> {
    const found: unknown[] = [];
    for (const sql of rows) found.push(...(await db.query(sql)).rows);
    return found;
  }

  it(`gives the same rows, event by event, page by page and all over again (${make.name || 'fixed'})`, async () => {
    const once = await applyAll([relevant()]);
    expect(once.length).toBeGreaterThanOrEqual(leastRows);
    expect(relevant().length).toBeGreaterThan(2);
    expect(await applyAll(relevant().map((event) => [event]))).toEqual(once);
    expect(await applyAll(relevant().map((event) => [event, event]))).toEqual(once);
    expect(await applyAll([relevant(), relevant()])).toEqual(once);
  });

  it(`changes nothing when any one event comes again (${make.name || 'fixed'})`, async () => {
    const pages = relevant().map((event) => [event]);
    const again = await applyAll(pages, async (db, index) => {
      const before = await readRows(db);
      await projection().apply(db, pages[index] ?? []);
      expect([index, await readRows(db)]).toEqual([index, before]);
    });
    expect(again).toEqual(await applyAll([relevant()]));
  });
});

describe('the erasing projection', () => {
  it('erases the secrets of deleted webhooks, and of no others', async () => {
    const { rows } = await database.pool.query<{ id: number }>(
      `select substr(subject, 9)::int as id from credentials where kind = 'webhook' order by 1`,
    );
    const living = SUBSCRIPTIONS.flatMap((life, n) => (life.includes(ended) ? [] : [n + 1]));
    expect(living.length).toBeGreaterThan(5);
    expect(rows.map(({ id }) => id)).toEqual(living);
  });

  it('erases the deleted, and nobody else', async () => {
    const gone = LIVES.flatMap((life, n) => (life.at(-1) === deleted ? [`api_key:${n + 1}`] : []));
    const { rows } = await database.pool.query<{ subject: string }>(
      "select subject from credentials where kind = 'api_key' order by subject",
    );
    const left = rows.map(({ subject }) => subject);
    expect(left.length + gone.length).toBe(LIVES.length);
    expect(left.filter((subject) => gone.includes(subject))).toEqual([]);
    const names = await log.readNames([...left, ...gone]);
    expect([...names.keys()].sort()).toEqual(left);
  });
});
