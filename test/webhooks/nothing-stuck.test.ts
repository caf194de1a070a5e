import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  attemptsOf,
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
import { caughtUp, eventually } from '../support/webhooks.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const LOOK_MS = 40;
/** Long enough for whoever looks at the clock to have seen it. */
const LOOKS_MS = 250;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('a subscription is not stuck', () => {
  let t: TestGateway;
  let clock: TestClock;
  let receiver: Receiver;
  let clockReads = 0;
  beforeEach(async () => {
    clock = testClock();
    const { nowMs } = clock;
    t = await startTestGateway({
      config: LOOPBACK,
      clock: {
        ...clock,
        nowMs() {
          clockReads += 1;
          return nowMs();
        },
      },
      webhooks: { random: () => 0, lookMs: LOOK_MS },
    });
    receiver = await startReceiver();
  });
  afterEach(async () => {
    await t.close();
    await receiver.close();
  });

  it('by the first events of it, which are refused, while the others would be taken', async () => {
    const one = await subscribeTo(t, receiver);
    const witness = await startReceiver();
    await subscribeTo(t, witness);
    receiver.behave(({ payload }) => (payload.sequence <= 5 ? { status: 400 } : {}));
    await happen(t, 5);
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    await happen(t, 50);
    // Before all fifty are known of, the five would be alone with those that are.
    await witness.until(55);
    await witness.close();
    // The first look is with one of the five, the second with another: from there it is known whose fault it is.
    for (let looks = 0; looks < 2; looks += 1) {
      // Only then: what a former look still posts must not pass for this one.
      await idle(t, one);
      const posts = receiver.received.length;
      await pass(t, one, clock, 20_000);
      await eventually(() => expect(receiver.received.length).toBeGreaterThan(posts));
    }
    await eventually(() => {
      expect(sequencesOf(receiver).filter((sequence) => sequence > 5)).toHaveLength(50);
    });
    // The five are behind the cursor, on their own schedule.
    await eventually(async () =>
      expect(await statsOf(t, one)).toMatchObject({ breaker: 'closed', retrying: 5 }),
    );
  });

  it('by a database error while it is taken over', async () => {
    const four = [];
    for (let n = 0; n < 4; n += 1) four.push(await subscribeTo(t, receiver));
    t = await t.restart();
    const { pool } = t.gateway.context;
    // Their next owner fails at the first of them.
    const real = pool.query.bind(pool) as (...args: unknown[]) => Promise<unknown>;
    let failures = 1;
    Object.assign(pool, {
      query(...args: unknown[]) {
        const isRecovery = String(args[0]).includes('from webhook_retries');
        if (!isRecovery || failures === 0) return real(...args);
        failures -= 1;
        return Promise.reject(Object.assign(new Error('terminating'), { code: '57P01' }));
      },
    });
    for (const running of t.gateway.context.webhooks.subscriptions()) {
      await (running as unknown as { stop: () => Promise<void> }).stop();
    }
    await eventually(() => expect(failures).toBe(0));
    await happen(t, 3);
    await receiver.until(12, 10_000);
    expect(four).toHaveLength(4);
  });

  it('by what was parked, however much that is', async () => {
    const one = await subscribeTo(t, receiver);
    await t.database.pool.query(
      `insert into webhook_retries (webhook_id, position, event_id, key, epoch, sequence, tries, due_at,
         first_failed_at, state)
       select $1, -n, gen_random_uuid(), 'k', 1, n, 1, now(), now(), 'parked' from generate_series(1, 10100) n`,
      [one.id],
    );
    await happen(t, 3);
    await receiver.until(3);
    await caughtUp(t, one.id);
  });

  it('by the quiet or the breaker of an endpoint that it has no more', async () => {
    const one = await subscribeTo(t, receiver);
    receiver.behave(() => ({ status: 429, headers: { 'retry-after': '86400' } }));
    await happen(t, 1);
    await eventually(async () => expect((await statsOf(t, one)).quiet_until).not.toBeNull());
    const other = await startReceiver();
    await t.send('PATCH', `/webhooks/${one.id}`, { body: { url: other.url } });
    await other.until(1);
    other.behave(() => ({ status: 500 }));
    await happen(t, 6);
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    await pass(t, one, clock, 700_000);
    await pause(LOOKS_MS);
    receiver.behave(() => ({}));
    await t.send('PATCH', `/webhooks/${one.id}`, { body: { url: receiver.url } });
    await caughtUp(t, one.id);
    await other.close();
  });

  it('by a clock that goes on by months at once, nor is its ping', async () => {
    const one = await subscribeTo(t, receiver);
    await happen(t, 2);
    await caughtUp(t, one.id);
    await pass(t, one, clock, 90 * DAY_MS);
    await happen(t, 3);
    await caughtUp(t, one.id);
    expect(sequencesOf(receiver)).toEqual(oneTo(5));
    expect((await t.send('POST', `/webhooks/${one.id}/ping`)).status).toBe(200);
  });

  it('and not disabled for days in which nothing was tried', async () => {
    const one = await subscribeTo(t, receiver);
    receiver.behave(() => ({ status: 500 }));
    await happen(t, 6);
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    await t.send('POST', `/webhooks/${one.id}/pause`);
    await pass(t, one, clock, 6 * DAY_MS);
    receiver.behave(() => ({}));
    await t.send('POST', `/webhooks/${one.id}/resume`);
    await caughtUp(t, one.id);
    expect(await viewOf(t, one)).toMatchObject({ status: 'active' });
    receiver.behave(() => ({ status: 500 }));
    await happen(t, 6);
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    t = await t.restart();
    await pass(t, one, clock, 6 * DAY_MS);
    await pause(LOOKS_MS);
    expect(await viewOf(t, one)).toMatchObject({ status: 'active' });
  });

  it('and is told of when its endpoint asks for quiet for days', async () => {
    const one = await subscribeTo(t, receiver);
    receiver.behave(() => ({ status: 429, headers: { 'retry-after': '43200' } }));
    await happen(t, 1);
    for (let n = 1; n <= 3; n += 1) {
      await receiver.until(n);
      await pass(t, one, clock, 12 * HOUR_MS + 1_000);
    }
    await eventually(async () => expect(await notesOf(t, one, 'webhook.failing')).not.toEqual([]));
  });

  it('while it waits looks up no more often than one that has nothing to do', async () => {
    const all = [];
    for (let n = 0; n < 20; n += 1) all.push(await subscribeTo(t, receiver));
    await pause(LOOKS_MS);
    // Every round reads the clock; ours are as late as theirs where the machine has much else to do.
    const readsInLooks = async () => {
      const before = clockReads;
      for (let looks = 0; looks < 25; looks += 1) await pause(LOOK_MS);
      return clockReads - before;
    };
    const ofIdle = await readsInLooks();
    receiver.behave(() => ({ status: 429 }));
    await happen(t, 1);
    for (const one of all) {
      await eventually(async () => expect((await statsOf(t, one)).quiet_until).not.toBeNull());
    }
    receiver.behave(() => ({}));
    clock.advance(40_000);
    await receiver.until(40);
    const held = await subscribeTo(t, receiver);
    await pause(500);
    receiver.behave(({ payload }) => (payload.sequence === 1 ? { status: 500 } : {}));
    const [bad = ''] = await happen(t, 1);
    await eventually(async () => expect(await attemptsOf(t, held, bad)).toHaveLength(1));
    await t.send('POST', `/webhooks/${held.id}/pause`);
    await pass(t, held, clock, HOUR_MS);
    await pause(LOOKS_MS);
    // Quiet was asked for once, and a retry is due that may not go: neither is a reason to be busy.
    expect(await readsInLooks()).toBeLessThan(ofIdle * 1.5);
    expect(ofIdle).toBeGreaterThan(0);
  });

  it('by one key of many events: they go at once, one after the other', async () => {
    const one = await subscribeTo(t, receiver, { ordering: 'key', enabled: false });
    await happen(t, 300, { key: () => 'same' });
    await t.send('POST', `/webhooks/${one.id}/resume`);
    await receiver.until(300);
    expect(receiver.received.map(({ payload }) => payload.sequence)).toEqual(oneTo(300));
    await caughtUp(t, one.id);
  });

  it('by a replay beside live events, which go first', async () => {
    const one = await subscribeTo(t, receiver);
    await happen(t, 1_500);
    await caughtUp(t, one.id);
    receiver.behave(() => ({ afterMs: 2 }));
    receiver.received.length = 0;
    const body = { from: 'earliest', reason: 'they ask' };
    await t.send('POST', `/webhooks/${one.id}/replays`, { body });
    const waits: number[] = [];
    for (let n = 0; n < 20; n += 1) {
      const begunAt = performance.now();
      const [id = ''] = await happen(t, 1);
      const isLive = (post: (typeof receiver.received)[number]) =>
        post.id === id && post.headers['webhook-replay'] === undefined;
      await eventually(() => expect(receiver.received.some(isLive)).toBe(true));
      waits.push((receiver.received.find(isLive)?.atMs ?? 0) - begunAt);
    }
    // With a replay of 1,500 under way no live event waits for its turn among them.
    expect(waits.sort((a, b) => a - b)[10]).toBeLessThan(500);
    await eventually(async () => {
      const [replay] = (await t.send('GET', `/webhooks/${one.id}/replays`)).body.data;
      expect(replay).toMatchObject({ state: 'completed', delivered: '1500' });
    });
    const replayed = receiver.received.filter(({ headers }) => headers['webhook-replay']);
    expect(new Set(replayed.map(({ payload }) => payload.sequence)).size).toBe(1_500);
  });

  it('and sends nothing twice when its gateway is stopped in good order and started again', async () => {
    const one = await subscribeTo(t, receiver);
    receiver.behave(() => ({ afterMs: 40 }));
    await happen(t, 400);
    await receiver.until(60);
    t = await t.restart();
    await caughtUp(t, one.id);
    expect(receiver.received).toHaveLength(400);
    expect(sequencesOf(receiver)).toEqual(oneTo(400));
  });

  it('by a resend of an event that its key waits for', async () => {
    const one = await subscribeTo(t, receiver, { ordering: 'key' });
    let isBroken = true;
    receiver.behave(({ payload }) => (isBroken && payload.sequence === 1 ? { status: 400 } : {}));
    const [first = ''] = await happen(t, 1, { key: () => 'same' });
    await happen(t, 4, { key: () => 'same' });
    await pass(t, one, clock, 6_000);
    await eventually(async () => expect((await statsOf(t, one)).retrying).toBe(5));
    isBroken = false;
    await t.send('POST', `/webhooks/${one.id}/deliveries/${first}/resend`);
    await caughtUp(t, one.id);
    const taken = receiver.received.slice(-5).map(({ payload }) => payload.sequence);
    expect(taken).toEqual(oneTo(5));
  });

  it('and sends nothing twice when its order is changed under way', async () => {
    const one = await subscribeTo(t, receiver);
    receiver.behave(() => ({ afterMs: 15 }));
    await happen(t, 200, { key: (n) => `k${n % 5}` });
    await receiver.until(20);
    for (const ordering of ['key', 'none', 'key']) {
      await t.send('PATCH', `/webhooks/${one.id}`, { body: { ordering } });
      await pause(50);
    }
    await caughtUp(t, one.id);
    expect(sequencesOf(receiver)).toEqual(oneTo(200));
    expect(receiver.received).toHaveLength(200);
  });
});
