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
import { caughtUp, eventually, type Made } from '../support/webhooks.ts';

const QUARTER_MS = 900_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

describe('strict order', () => {
  let t: TestGateway;
  let clock: TestClock;
  let receiver: Receiver;
  beforeEach(async () => {
    clock = testClock();
    t = await startTestGateway({
      config: LOOPBACK,
      clock,
      webhooks: { random: () => 0, lookMs: 40 },
    });
    receiver = await startReceiver();
  });
  afterEach(async () => {
    await t.close();
    await receiver.close();
  });

  const subscribeStrictly = (fields: object = {}) =>
    subscribeTo(t, receiver, { ordering: 'strict', ...fields });
  const arrived = (): number[] => receiver.received.map(({ payload }) => payload.sequence);
  /** How many posts were under way at once, at most, from here on. */
  function watchTogether(afterMs: (sequence: number) => number): () => number {
    let most = 0;
    receiver.behave(({ payload }) => {
      most = Math.max(most, receiver.open());
      return { afterMs: afterMs(payload.sequence) };
    });
    return () => most;
  }
  const triesOf = (sequence: number): number =>
    arrived().filter((other) => other === sequence).length;
  /** Lets the event that fails be tried once more. */
  async function tryAgain(one: Made, sequence: number, ms: number): Promise<void> {
    const before = triesOf(sequence);
    await pass(t, one, clock, ms);
    await eventually(() => expect(triesOf(sequence)).toBe(before + 1));
  }

  it('sends one event at a time, of whatever stream, in the order of the log', async () => {
    const one = await subscribeStrictly();
    const together = watchTogether((sequence) => sequence % 5);
    await happen(t, 250, { key: (n) => `k${n % 7}` });
    await caughtUp(t, one.id);
    expect(arrived()).toEqual(oneTo(250));
    expect(together()).toBe(1);
  });

  it('sends several at a time where nobody asked for it (control)', async () => {
    const one = await subscribeStrictly({ ordering: 'key' });
    const together = watchTogether(() => 5);
    await happen(t, 60, { key: (n) => `k${n % 7}` });
    await caughtUp(t, one.id);
    expect(together()).toBeGreaterThan(1);
  });

  it('holds everything behind an event that fails, until that has arrived', async () => {
    const one = await subscribeStrictly();
    let isBroken = true;
    receiver.behave(({ payload }) => (isBroken && payload.sequence === 3 ? { status: 500 } : {}));
    await happen(t, 300);
    await eventually(() => expect(triesOf(3)).toBe(1));
    for (const seconds of [5, 15, 45, 120, 300, 600]) await tryAgain(one, 3, seconds * 1_000);
    // From there on each quarter of an hour: who comes back is not kept waiting for hours.
    await tryAgain(one, 3, QUARTER_MS);
    await tryAgain(one, 3, QUARTER_MS);
    expect(sequencesOf(receiver)).toEqual(oneTo(3));
    const { retrying, breaker } = await statsOf(t, one);
    expect([retrying, breaker]).toEqual([1, 'closed']);
    isBroken = false;
    await pass(t, one, clock, QUARTER_MS);
    await caughtUp(t, one.id);
    expect(arrived().slice(-298)).toEqual(oneTo(300).slice(2));
  });

  it('casts no doubt on the events that wait, should it end now', async () => {
    const one = await subscribeStrictly();
    receiver.behave(({ payload }) => (payload.sequence === 3 ? { status: 500 } : {}));
    await happen(t, 40);
    await eventually(async () => expect((await statsOf(t, one)).retrying).toBe(1));
    await eventually(async () => {
      const { rows } = await t.database.pool.query(
        'select (sent_to - position)::int as doubtful from webhook_cursors where webhook_id = $1',
        [one.id],
      );
      expect(rows).toEqual([{ doubtful: 0 }]);
    });
  });

  it('keeps the tries of an event that fails, and its place, over a restart', async () => {
    const one = await subscribeStrictly();
    let isBroken = true;
    receiver.behave(({ payload }) => (isBroken && payload.sequence === 1 ? { status: 500 } : {}));
    const [first = ''] = await happen(t, 20);
    await eventually(() => expect(triesOf(1)).toBe(1));
    await tryAgain(one, 1, 5_000);
    await idle(t, one);
    t = await t.restart();
    await tryAgain(one, 1, 15_000);
    await eventually(async () => expect(await attemptsOf(t, one, first)).toHaveLength(3));
    // Had it been forgotten, it would be due again after five seconds.
    await pass(t, one, clock, 6_000);
    await eventually(() => expect(receiver.open()).toBe(0));
    expect(arrived()).toEqual([1, 1, 1]);
    isBroken = false;
    await pass(t, one, clock, 45_000);
    await caughtUp(t, one.id);
    expect(arrived().slice(3)).toEqual(oneTo(20));
    expect((await attemptsOf(t, one, first)).map(({ outcome }: any) => outcome)).toEqual([
      ...['http_error', 'http_error', 'http_error'],
      'delivered',
    ]);
  });

  it('parks an event that fails for three days, and goes on behind it', async () => {
    const one = await subscribeStrictly();
    receiver.behave(({ payload }) => {
      if (payload.sequence === 1) return { status: 400 };
      // The next asks for quiet, with more behind it than are read ahead.
      return payload.sequence === 2 && triesOf(2) === 1 ? { status: 429 } : {};
    });
    const [first = ''] = await happen(t, 450);
    await eventually(() => expect(triesOf(1)).toBe(1));
    for (let tries = 1; tries < 9; tries += 1) await tryAgain(one, 1, QUARTER_MS);
    // Time alone is no reason, nor are tries: those were nine.
    for (let days = 0; days < 3; days += 1) await tryAgain(one, 1, DAY_MS);
    await tryAgain(one, 1, 4 * HOUR_MS);
    await eventually(() => expect(triesOf(2)).toBe(1));
    await pass(t, one, clock, 31_000);
    await eventually(() => expect(arrived().slice(-449)).toEqual(oneTo(450).slice(1)));
    await eventually(async () =>
      expect(await statsOf(t, one)).toMatchObject({ parked: 1, retrying: 0 }),
    );
    const [note] = await notesOf(t, one, 'webhook.event_parked');
    expect(note.data).toMatchObject({ event_id: first, cause: 'gave_up', tries: 13 });
  });

  it('tells of an endpoint that is down, and ends deliveries after five days of it', async () => {
    const one = await subscribeStrictly();
    receiver.behave(() => ({ status: 503 }));
    await happen(t, 3);
    await eventually(() => expect(receiver.received).toHaveLength(1));
    for (let hours = 0; hours < 130; hours += 10) {
      const before = receiver.received.length;
      await pass(t, one, clock, 10 * HOUR_MS);
      if ((await viewOf(t, one)).status === 'disabled') break;
      await eventually(async () => {
        const isOver = (await viewOf(t, one)).status === 'disabled';
        expect(isOver || receiver.received.length > before).toBe(true);
      });
    }
    await eventually(async () =>
      expect(await viewOf(t, one)).toMatchObject({ status: 'disabled', disabled_cause: 'outage' }),
    );
    expect(await notesOf(t, one, 'webhook.failing')).not.toEqual([]);
    receiver.behave(() => ({}));
    receiver.received.length = 0;
    await t.send('POST', `/webhooks/${one.id}/enable`, { body: { resume: 'cursor' } });
    await pass(t, one, clock, QUARTER_MS);
    await eventually(async () => expect((await statsOf(t, one)).oldest_waiting_at).toBeNull());
    // The one that held up the others for three days is parked by then; nothing else is.
    expect(arrived()).toEqual([2, 3]);
  });

  it('waits as long as its endpoint asks for, with the event it asked that for', async () => {
    const one = await subscribeStrictly();
    receiver.behave(({ payload }, index) =>
      payload.sequence === 2 && index < 3 ? { status: 429, headers: { 'retry-after': '60' } } : {},
    );
    await happen(t, 500);
    for (let n = 2; n <= 3; n += 1) {
      await eventually(() => expect(receiver.received).toHaveLength(n));
      await pass(t, one, clock, 61_000);
    }
    await caughtUp(t, one.id);
    expect(arrived()).toEqual([1, 2, 2, ...oneTo(500).slice(1)]);
  });

  it('lets replays and resends take turns with what is new', async () => {
    const one = await subscribeStrictly();
    const [first = ''] = await happen(t, 30);
    await caughtUp(t, one.id);
    const together = watchTogether(() => 4);
    const body = { from: 'earliest', reason: 'they ask' };
    await t.send('POST', `/webhooks/${one.id}/replays`, { body });
    await t.send('POST', `/webhooks/${one.id}/deliveries/${first}/resend`);
    await happen(t, 30);
    await eventually(async () => {
      const [replay] = (await t.send('GET', `/webhooks/${one.id}/replays`)).body.data;
      expect(replay).toMatchObject({ state: 'completed', delivered: '30' });
    });
    await caughtUp(t, one.id);
    const live = receiver.received.filter(({ headers }) => headers['webhook-replay'] === undefined);
    expect(together()).toBe(1);
    // Thirty that were known, the one that was asked for among what is new.
    expect(
      live
        .map(({ payload }) => payload.sequence)
        .slice(30)
        .filter((n) => n > 1),
    ).toEqual(oneTo(60).slice(30));
    expect(triesOf(1)).toBe(3);
  });

  it('counts from the answer on when it is asked for under way, and sends nothing twice', async () => {
    const one = await subscribeStrictly({ ordering: 'none' });
    receiver.behave(() => ({ afterMs: 5 }));
    await happen(t, 400);
    await receiver.until(40);
    const reply = await t.send('PATCH', `/webhooks/${one.id}`, { body: { ordering: 'strict' } });
    expect(reply.status).toBe(200);
    const together = watchTogether(() => 3);
    const behind = receiver.received.length;
    await caughtUp(t, one.id);
    expect(together()).toBe(1);
    const since = arrived().slice(behind);
    expect(since).toEqual([...since].sort((a, b) => a - b));
    expect(sequencesOf(receiver)).toEqual(oneTo(400));
    expect(receiver.received).toHaveLength(400);
  });

  it('begins none of the events that are left out, when it is enabled anew from now on', async () => {
    const one = await subscribeStrictly();
    receiver.behave(() => ({ status: 410 }));
    await happen(t, 20);
    await eventually(async () => expect((await viewOf(t, one)).status).toBe('disabled'));
    receiver.behave(() => ({}));
    receiver.received.length = 0;
    await t.send('POST', `/webhooks/${one.id}/enable`, { body: { resume: 'now' } });
    const [id = ''] = await happen(t, 1);
    await eventually(() => expect(receiver.ids()).toContain(id));
    await idle(t, one);
    expect(receiver.ids()).toEqual([id]);
  });
});
