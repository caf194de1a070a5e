import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  happen,
  idle,
  notesOf,
  oneTo,
  pass,
  sequencesOf,
  statsOf,
  subscribeTo,
  viewOf,
} from '../support/deliveries.ts';
import {
  startTestGateway,
  type TestClock,
  type TestGateway,
  testClock,
} from '../support/gateway.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import { caughtUp, eventually, type Made } from '../support/webhooks.ts';

const HOUR_MS = 3_600_000;
const LOOK_MS = 40;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('an endpoint that is away for days', () => {
  let t: TestGateway;
  let clock: TestClock;
  let receiver: Receiver;
  beforeEach(async () => {
    clock = testClock();
    t = await startTestGateway({
      config: LOOPBACK,
      clock,
      webhooks: { timeoutMs: 4_000, lookMs: LOOK_MS },
    });
    receiver = await startReceiver();
  });
  afterEach(async () => {
    await t.close();
    await receiver.close();
  });

  const rowsOf = async ({ id }: Made) => {
    const { rows } = await t.database.pool.query(
      `select (select count(*) from webhook_retries where webhook_id = $1)::int as retries,
         (select count(*) from webhook_cursors where webhook_id = $1)::int as cursors,
         (select count(*) from webhook_attempts where webhook_id = $1)::int as attempts`,
      [id],
    );
    return rows[0];
  };

  it('gets every event of three days in a slow start, from one row of state', async () => {
    const one = await subscribeTo(t, receiver);
    receiver.behave(() => ({ status: 503 }));
    let made = 0;
    for (let hour = 0; hour < 72; hour += 4) {
      await happen(t, 40);
      made += 40;
      await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
      await pass(t, one, clock, 4 * HOUR_MS);
    }
    // The first few that failed, and since then one look at a time: at most one in 15 minutes.
    expect(receiver.received.length).toBeLessThanOrEqual(16 + 72 * 4 + 5);
    expect(await rowsOf(one)).toMatchObject({ retries: 0, cursors: 1 });
    await eventually(async () => expect(await notesOf(t, one, 'webhook.failing')).not.toEqual([]));
    expect(await viewOf(t, one)).toMatchObject({ status: 'active' });
    let most = 0;
    const atOnce: number[] = [];
    receiver.behave(async () => {
      most = Math.max(most, receiver.open());
      atOnce.push(receiver.open());
      await pause(10);
      return {};
    });
    receiver.received.length = 0;
    await pass(t, one, clock, HOUR_MS);
    await caughtUp(t, one.id);
    expect(sequencesOf(receiver)).toEqual(oneTo(made));
    expect(receiver.received).toHaveLength(made);
    // Alone at first, then ever more at once, never more than there are slots.
    expect(atOnce[0]).toBe(1);
    expect(Math.max(...atOnce.slice(0, 3))).toBeLessThanOrEqual(2);
    expect(most).toBeGreaterThan(4);
    expect(most).toBeLessThanOrEqual(16);
    expect(await rowsOf(one)).toMatchObject({ retries: 0, cursors: 1 });
    await eventually(async () =>
      expect(await notesOf(t, one, 'webhook.recovered')).toHaveLength(1),
    );
  });

  it('is told of after an hour, a day, three and four, and is disabled after five with its cursor kept', async () => {
    const one = await subscribeTo(t, receiver);
    receiver.behave(() => ({ status: 500 }));
    await happen(t, 6);
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    const look = async (hours: number) => {
      const posts = receiver.received.length;
      await pass(t, one, clock, hours * HOUR_MS);
      await eventually(() => expect(receiver.received.length).toBeGreaterThan(posts));
    };
    for (const hours of [1.01, 23, 24, 24, 24]) await look(hours);
    await eventually(async () => {
      const told = await notesOf(t, one, 'webhook.failing');
      expect(told.map(({ data }) => data.hours)).toEqual([1, 24, 72, 96]);
    });
    expect((await viewOf(t, one)).failing_since).not.toBeNull();
    await look(24);
    await eventually(async () =>
      expect(await viewOf(t, one)).toMatchObject({ status: 'disabled', disabled_cause: 'outage' }),
    );
    await happen(t, 4);
    receiver.received.length = 0;
    receiver.behave(() => ({}));
    await t.send('POST', `/webhooks/${one.id}/enable`);
    await pass(t, one, clock, HOUR_MS);
    await caughtUp(t, one.id);
    expect(sequencesOf(receiver)).toEqual(oneTo(10));
    await eventually(async () => expect(await notesOf(t, one, 'webhook.failing')).toHaveLength(4));
  });

  it('is forgiven nothing by a restart', async () => {
    const one = await subscribeTo(t, receiver);
    receiver.behave(() => ({ status: 500 }));
    await happen(t, 6);
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    await idle(t, one);
    const posts = receiver.received.length;
    t = await t.restart();
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    await pause(300);
    expect(receiver.received).toHaveLength(posts);
    await pass(t, one, clock, 6_000);
    await eventually(() => expect(receiver.received).toHaveLength(posts + 1));
  });

  it('reads next to nothing again after a quiet time in which much happened to others', async () => {
    const one = await subscribeTo(t, receiver, { event_types: ['mail_domain.created'] });
    await t.createDomain('before.example.com');
    await receiver.until(1);
    await happen(t, 6_000);
    await t.createDomain('after.example.com');
    await receiver.until(2);
    await caughtUp(t, one.id);
    t = await t.restart();
    const { rows } = await t.database.pool.query(
      'select position from webhook_cursors where webhook_id = $1',
      [one.id],
    );
    const { position: head } = await t.gateway.context.log.head();
    expect(head - BigInt(rows[0].position)).toBeLessThan(50n);
    await t.createDomain('again.example.com');
    await receiver.until(3);
    expect(receiver.received.map(({ payload }) => payload.sequence)).toEqual([1, 2, 3]);
  });

  it('does not keep up the others when it is a black hole among them', async () => {
    const well = await Promise.all([startReceiver(), startReceiver()]);
    receiver.behave(() => ({ silent: true }));
    const dead = await subscribeTo(t, receiver);
    for (const other of well) await subscribeTo(t, other);
    await happen(t, 200);
    for (const other of well) {
      await other.until(200, 5_000);
      expect(sequencesOf(other)).toEqual(oneTo(200));
      await other.close();
    }
    expect((await statsOf(t, dead)).in_flight).toBeLessThanOrEqual(16);
  });
});

describe('a subscription that is ordered by key', () => {
  let t: TestGateway;
  let clock: TestClock;
  let receiver: Receiver;
  beforeEach(async () => {
    clock = testClock();
    t = await startTestGateway({ config: LOOPBACK, clock, webhooks: { lookMs: LOOK_MS } });
    receiver = await startReceiver();
  });
  afterEach(async () => {
    await t.close();
    await receiver.close();
  });

  it('sends the events of a key one after the other, however long each takes', async () => {
    const one = await subscribeTo(t, receiver, { ordering: 'key' });
    const running = new Map<string, number>();
    let together = 0;
    receiver.behave(async ({ payload }) => {
      const now = (running.get(payload.key) ?? 0) + 1;
      running.set(payload.key, now);
      together = Math.max(together, now);
      await pause(3 + (payload.sequence % 7));
      running.set(payload.key, now - 1);
      return {};
    });
    await happen(t, 120, { key: (n) => `k${n % 6}` });
    await caughtUp(t, one.id);
    expect(together).toBe(1);
    for (let k = 0; k < 6; k += 1) {
      const own = receiver.received.filter(({ payload }) => payload.key.endsWith(`-k${k}`));
      const sequences = own.map(({ payload }) => payload.sequence);
      expect(sequences).toEqual([...sequences].sort((a, b) => a - b));
      expect(sequences).toHaveLength(20);
    }
  });

  it('holds up a key whose event fails, and no other, nor the cursor', async () => {
    const one = await subscribeTo(t, receiver, { ordering: 'key' });
    let isBroken = true;
    receiver.behave(({ payload }) =>
      isBroken && payload.key.endsWith('-bad') ? { status: 400 } : {},
    );
    await happen(t, 60, { key: (n) => (n % 3 === 0 ? 'bad' : `good${n % 3}`) });
    await eventually(() => {
      const good = receiver.received.filter(({ payload }) => !payload.key.endsWith('-bad'));
      expect(good).toHaveLength(40);
    });
    await pass(t, one, clock, 6_000);
    // The one that fails, and those behind it, are behind the cursor now.
    await eventually(async () => expect((await statsOf(t, one)).retrying).toBe(20));
    const { position, head } = await statsOf(t, one);
    expect(BigInt(head) - BigInt(position)).toBeLessThan(5n);
    t = await t.restart();
    isBroken = false;
    receiver.received.length = 0;
    await pass(t, one, clock, 400_000);
    await caughtUp(t, one.id);
    const bad = receiver.received.map(({ payload }) => payload.sequence);
    expect(bad).toEqual([...bad].sort((a, b) => a - b));
    expect(new Set(bad).size).toBe(20);
  });

  it('is not disturbed by a replay of the same events, of which one is refused', async () => {
    const one = await subscribeTo(t, receiver, { ordering: 'key', enabled: false });
    await happen(t, 6, { key: () => 'same' });
    let refused = 0;
    receiver.behave(({ headers, payload }) => {
      const isReplay = headers['webhook-replay'] !== undefined;
      if (isReplay && payload.sequence === 4 && refused === 0) {
        refused += 1;
        return { status: 500 };
      }
      return { afterMs: isReplay ? 0 : 60 };
    });
    const body = { from: 'earliest', reason: 'they ask' };
    await t.send('POST', `/webhooks/${one.id}/replays`, { body });
    await t.send('POST', `/webhooks/${one.id}/resume`);
    await caughtUp(t, one.id);
    await pass(t, one, clock, 6_000);
    const replay = async () => (await t.send('GET', `/webhooks/${one.id}/replays`)).body.data[0];
    await eventually(async () =>
      expect(await replay()).toMatchObject({ state: 'completed', delivered: '6', failed: '0' }),
    );
    const of = (isReplay: boolean) =>
      receiver.received.filter(
        ({ headers }) => (headers['webhook-replay'] !== undefined) === isReplay,
      );
    expect(of(false).map(({ payload }) => payload.sequence)).toEqual(oneTo(6));
    expect(of(true)).toHaveLength(7);
    expect(new Set(receiver.received.map(({ digest }) => digest)).size).toBe(6);
  });

  it('ends a replay of what is refused for good, and says how much of it', async () => {
    const one = await subscribeTo(t, receiver);
    await happen(t, 5);
    await caughtUp(t, one.id);
    receiver.behave(({ payload }) => (payload.sequence === 2 ? { status: 400 } : {}));
    const body = { from: 'earliest', reason: 'they ask' };
    await t.send('POST', `/webhooks/${one.id}/replays`, { body });
    const replay = async () => (await t.send('GET', `/webhooks/${one.id}/replays`)).body.data[0];
    const tries = () =>
      receiver.received.filter(
        ({ headers, payload }) => headers['webhook-replay'] !== undefined && payload.sequence === 2,
      ).length;
    for (const [count, seconds] of [
      [1, 6],
      [2, 400],
      [3, 0],
    ] as const) {
      await eventually(() => expect(tries()).toBe(count));
      await pass(t, one, clock, seconds * 1_000);
    }
    await eventually(async () =>
      expect(await replay()).toMatchObject({ state: 'completed', delivered: '4', failed: '1' }),
    );
    expect(await statsOf(t, one)).toMatchObject({ retrying: 0, parked: 0 });
  });
});
