import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  ATTEMPT_DAYS_KEPT,
  type Attempt,
  keepAttemptDays,
  listAttempts,
} from '../../src/db/webhook-attempts.ts';
import { claimCursors, findCursor, type Settlement, settle } from '../../src/db/webhook-cursors.ts';
import { listRetries } from '../../src/db/webhook-retries.ts';
import { endLease, renewLease } from '../../src/db/webhook-workers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const NOW = new Date('2026-11-25T12:00:00Z');
const DAY_MS = 86_400_000;

const anAttempt = (fields: Partial<Attempt> = {}): Attempt => ({
  ...{ position: 5n, startedAt: NOW, eventId: randomUUID(), type: 'quarantine.added' },
  ...{ kind: 'live', tries: 1, outcome: 'delivered', status: 200, ms: 3 },
  bodySha256: Buffer.alloc(32, 1),
  ...{ signedBy: '1a2b3c4d', peer: '192.0.2.1', replayId: null, error: null, excerpt: null },
  ...fields,
});

describe('the state of a subscription in the database', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
    await keepAttemptDays(database.pool, NOW);
    for (const id of [1, 2, 3, 4]) {
      await database.pool.query(
        `insert into webhooks (id, revision, status, url, ordering, epochs, secrets, created_at, updated_at)
         values ($1, 0, 'active', 'https://x.example', 'none',
           '[{"epoch":1,"after":"4","event_types":["*"],"skips":false}]', '[]', now(), now())`,
        [id],
      );
    }
  });
  afterAll(() => database.drop());

  const worker = (leaseMs = 60_000) => ({ workerId: randomUUID(), nodeId: 'n', leaseMs });
  const batchFor = (webhookId: number, token: bigint, fields: Partial<Settlement> = {}) => ({
    ...{ webhookId, token, breaker: {}, quietUntil: null, done: [], kept: [], replays: [] },
    place: { epoch: 1, position: 9n, sequence: 5, sentTo: 12n, isClean: false },
    attempts: [anAttempt()],
    ...fields,
  });
  const aRetry = {
    ...{ position: 7n, eventId: randomUUID(), key: 'k-1', epoch: 1, sequence: 3, tries: 1 },
    ...{ dueAt: NOW, firstFailedAt: NOW, lastOutcome: 'timeout', isSending: false, replayId: null },
    askedAt: null,
    state: 'retrying' as const,
  };

  it('is moved with its attempts and retries in one statement by who has the token', async () => {
    const one = worker();
    await renewLease(database.pool, one);
    const [claimed] = await claimCursors(database.pool, one.workerId, []);
    const { webhookId = 0, token = 0n } = claimed ?? {};
    expect(claimed?.place).toMatchObject({ position: 4n, sequence: 0, sentTo: 4n, isClean: true });
    expect(await settle(database.pool, batchFor(webhookId, token, { kept: [aRetry] }))).toBe(true);
    expect((await findCursor(database.pool, webhookId))?.place).toMatchObject({ position: 9n });
    expect(await listAttempts(database.pool, webhookId, 5n, 10)).toHaveLength(1);
    const all = { state: null, after: 0n, limit: 10 };
    expect(await listRetries(database.pool, webhookId, all)).toMatchObject([{ position: 7n }]);
    const done = batchFor(webhookId, token, {
      done: [{ position: 7n, askedAt: null }],
      attempts: [],
    });
    expect(await settle(database.pool, done)).toBe(true);
    expect(await listRetries(database.pool, webhookId, all)).toEqual([]);
    await endLease(database.pool, one.workerId);
  });

  it('is changed in nothing by who has lost it', async () => {
    const [first, second] = [worker(1), worker()];
    await renewLease(database.pool, first);
    const [before] = await claimCursors(database.pool, first.workerId, []);
    const { webhookId = 0, token = 0n } = before ?? {};
    await new Promise((resolve) => setTimeout(resolve, 20));
    await renewLease(database.pool, second);
    const taken = await claimCursors(database.pool, second.workerId, []);
    const mine = taken.find((one) => one.webhookId === webhookId);
    expect(mine?.token).toBe(token + 1n);
    const attempts = [anAttempt({ position: 77n })];
    const late = batchFor(webhookId, token, {
      ...{ attempts, kept: [{ ...aRetry, position: 78n }] },
      place: { epoch: 1, position: 99n, sequence: 50, sentTo: 99n, isClean: false },
    });
    expect(await settle(database.pool, late)).toBe(false);
    expect((await findCursor(database.pool, webhookId))?.place.position).not.toBe(99n);
    expect(await listAttempts(database.pool, webhookId, 77n, 10)).toEqual([]);
    expect(
      await listRetries(database.pool, webhookId, { state: null, after: 70n, limit: 10 }),
    ).toEqual([]);
    await endLease(database.pool, second.workerId);
  });

  it('is claimed once, however many ask at the same time', async () => {
    const workers = Array.from({ length: 8 }, () => worker());
    for (const one of workers) await renewLease(database.pool, one);
    const claims = await Promise.all(
      workers.map(({ workerId }) => claimCursors(database.pool, workerId, [])),
    );
    const ids = claims.flat().map(({ webhookId }) => webhookId);
    expect(new Set(ids).size).toBe(ids.length);
    // Four subscriptions for eight workers: none has more than its share.
    for (const claimed of claims) expect(claimed.length).toBeLessThanOrEqual(1);
    for (const { workerId } of workers) await endLease(database.pool, workerId);
  });
});

describe('attempts by day', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  const days = async () =>
    (
      await database.pool.query<{ relname: string }>(
        `select relname from pg_class where relname ~ '^webhook_attempts_\\d{8}$' order by 1`,
      )
    ).rows.map(({ relname }) => relname.slice(-8));

  it('have their tables before their day comes, and lose them when it is long over', async () => {
    await keepAttemptDays(database.pool, NOW);
    expect(await days()).toEqual(expect.arrayContaining(['20261124', '20261125', '20261208']));
    const later = new Date(NOW.getTime() + (ATTEMPT_DAYS_KEPT + 3) * DAY_MS);
    await keepAttemptDays(database.pool, later);
    const left = await days();
    expect(left[0]).toBe('20261128');
    expect(left).toContain('20261228');
  });

  it('are dropped without keeping a writer waiting', async () => {
    await keepAttemptDays(database.pool, NOW);
    const holder = await database.pool.connect();
    await holder.query('begin');
    await holder.query(
      `insert into webhook_attempts (webhook_id, position, started_at, event_id, type, kind, tries, outcome, ms)
       values (1, 1, $1, gen_random_uuid(), 'x', 'live', 1, 'delivered', 1)`,
      [new Date(NOW.getTime() + 8 * DAY_MS)],
    );
    const begun = performance.now();
    // The writer is in the middle: whoever wants to drop gives way, and comes again.
    await keepAttemptDays(database.pool, new Date(NOW.getTime() + 40 * DAY_MS));
    expect(performance.now() - begun).toBeLessThan(2_000);
    await holder.query('commit');
    holder.release();
    const before = (await days()).length;
    await keepAttemptDays(database.pool, new Date(NOW.getTime() + 40 * DAY_MS));
    expect((await days()).length).toBeLessThan(before);
  });

  it('are made and dropped by nobody but through their functions', async () => {
    await expect(database.pool.query('drop table webhook_attempts_20261225')).rejects.toThrow(
      /must be owner|does not exist/,
    );
  });
});
