import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  happen,
  idle,
  notesOf,
  oneTo,
  pass,
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
import {
  type Answering,
  LOOPBACK,
  type Receiver,
  startReceiver,
} from '../support/webhook-receiver.ts';
import { caughtUp, eventually, type Made } from '../support/webhooks.ts';

const QUARTER_MS = 900_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** What an event is tried again after that has failed so often in strict order. */
const FIRST_WAITS_S = [5, 15, 45, 120, 300, 600, 900, 900, 900];
/** For what must not happen. */
const NOTHING_MS = 400;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('strict order keeps its word', () => {
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
  const order = (one: Made, ordering: string) =>
    t.send('PATCH', `/webhooks/${one.id}`, { body: { ordering } });
  const arrived = (): number[] => receiver.received.map(({ payload }) => payload.sequence);
  const refuse = (sequence: number, status = 500) =>
    receiver.behave(({ payload }) => (payload.sequence === sequence ? { status } : {}));
  const triesOf = (sequence: number): number =>
    arrived().filter((other) => other === sequence).length;
  async function tryAgain(one: Made, sequence: number, ms: number): Promise<void> {
    const before = triesOf(sequence);
    await pass(t, one, clock, ms);
    await eventually(() => expect(triesOf(sequence)).toBe(before + 1));
  }

  it('when the event that is under way is asked for once more, and then fails', async () => {
    const one = await subscribeStrictly();
    let answer: (answering: Answering) => void = () => undefined;
    receiver.behave(({ payload }, index) => {
      if (index > 0) return payload.sequence === 1 ? { status: 500 } : {};
      return new Promise((resolve) => {
        answer = resolve;
      });
    });
    const [first = ''] = await happen(t, 5);
    await receiver.until(1);
    await t.send('POST', `/webhooks/${one.id}/deliveries/${first}/resend`);
    answer({ status: 500 });
    await eventually(() => expect(triesOf(1)).toBe(2));
    await pause(NOTHING_MS);
    expect(new Set(arrived())).toEqual(new Set([1]));
    receiver.behave(() => ({}));
    await pass(t, one, clock, 6_000);
    await caughtUp(t, one.id);
    expect(arrived().slice(2).slice(-4)).toEqual([2, 3, 4, 5]);
  });

  it('when events are asked for that were not read yet: each keeps its place', async () => {
    const one = await subscribeStrictly();
    refuse(1);
    const ids = await happen(t, 300);
    await eventually(() => expect(triesOf(1)).toBe(1));
    await t.send('POST', `/webhooks/${one.id}/deliveries/${ids[249]}/resend`);
    receiver.behave(() => ({}));
    await pass(t, one, clock, 6_000);
    await caughtUp(t, one.id);
    expect(arrived()).toEqual([1, ...oneTo(300)]);
  });

  it('over an endpoint that was down, and then refuses one event for good', async () => {
    const one = await subscribeStrictly({ ordering: 'key' });
    receiver.behave(() => ({ status: 503 }));
    await happen(t, 20);
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    await idle(t, one);
    await order(one, 'strict');
    refuse(3, 400);
    await pass(t, one, clock, QUARTER_MS);
    await eventually(() => expect(triesOf(3)).toBeGreaterThan(0));
    for (let tries = 1; tries < 10; tries += 1) await tryAgain(one, 3, QUARTER_MS);
    for (let days = 0; days < 3; days += 1) await tryAgain(one, 3, DAY_MS);
    await tryAgain(one, 3, 4 * HOUR_MS);
    await eventually(async () => expect((await statsOf(t, one)).parked).toBe(1));
    // Whether the endpoint is back is looked at with the next.
    await pass(t, one, clock, QUARTER_MS);
    await eventually(() => expect(arrived().slice(-17)).toEqual(oneTo(20).slice(3)));
    expect(await notesOf(t, one, 'webhook.event_parked')).toHaveLength(1);
    expect((await viewOf(t, one)).status).toBe('active');
  });

  it('from the moment on that it is asked for, with what failed before and what hangs', async () => {
    const one = await subscribeStrictly({ ordering: 'none' });
    receiver.behave(({ payload }) => {
      if (payload.sequence === 1) return { silent: true };
      return payload.sequence === 2 ? { status: 500 } : {};
    });
    await happen(t, 5);
    await receiver.until(5);
    await eventually(async () => expect((await statsOf(t, one)).retrying).toBe(1));
    const before = receiver.received.length;
    receiver.behave(() => ({}));
    await order(one, 'strict');
    clock.advance(6_000);
    await caughtUp(t, one.id);
    const since = arrived().slice(before);
    expect([since[0], since.at(-1)]).toEqual([1, 2]);
  }, 30_000);

  it('within a quarter of an hour for an event that waits for hours by another order', async () => {
    const one = await subscribeStrictly({ ordering: 'none' });
    refuse(1);
    await happen(t, 5);
    await receiver.until(5);
    for (const seconds of [5, 300, 1_800, 7_200]) await tryAgain(one, 1, seconds * 1_000);
    await idle(t, one);
    await order(one, 'strict');
    receiver.behave(() => ({}));
    await happen(t, 2);
    await pass(t, one, clock, QUARTER_MS);
    await caughtUp(t, one.id);
    expect(arrived().slice(-3)).toEqual([1, 6, 7]);
  });

  it('and gives nothing up early when it is left for another order', async () => {
    const one = await subscribeStrictly();
    refuse(1);
    await happen(t, 3);
    await eventually(() => expect(triesOf(1)).toBe(1));
    for (const seconds of FIRST_WAITS_S) await tryAgain(one, 1, seconds * 1_000);
    await idle(t, one);
    await order(one, 'key');
    await tryAgain(one, 1, QUARTER_MS);
    await idle(t, one);
    expect((await statsOf(t, one)).parked).toBe(0);
  });

  it('and counts no time in which it was paused', async () => {
    const one = await subscribeStrictly();
    refuse(1);
    await happen(t, 3);
    await eventually(() => expect(triesOf(1)).toBe(1));
    for (const seconds of FIRST_WAITS_S) await tryAgain(one, 1, seconds * 1_000);
    await t.send('POST', `/webhooks/${one.id}/pause`);
    await pass(t, one, clock, 77 * HOUR_MS);
    const before = triesOf(1);
    await t.send('POST', `/webhooks/${one.id}/resume`);
    await eventually(() => expect(triesOf(1)).toBe(before + 1));
    await idle(t, one);
    expect((await statsOf(t, one)).parked).toBe(0);
  });

  it('and tries at once at a new URL, or when it is resumed', async () => {
    const one = await subscribeStrictly();
    receiver.behave(() => ({ status: 500 }));
    await happen(t, 3);
    await eventually(() => expect(triesOf(1)).toBe(1));
    for (const seconds of FIRST_WAITS_S) await tryAgain(one, 1, seconds * 1_000);
    await idle(t, one);
    await t.send('POST', `/webhooks/${one.id}/pause`);
    const before = triesOf(1);
    await t.send('POST', `/webhooks/${one.id}/resume`);
    await eventually(() => expect(triesOf(1)).toBe(before + 1));
    receiver.behave(() => ({}));
    await idle(t, one);
    await t.send('PATCH', `/webhooks/${one.id}`, { body: { url: `${receiver.url}/new` } });
    await caughtUp(t, one.id);
    expect(arrived().slice(-3)).toEqual([1, 2, 3]);
  });

  it('and leaves out the event that fails, too, when it is enabled from now on', async () => {
    const one = await subscribeStrictly();
    receiver.behave(() => ({ status: 500 }));
    const [first = ''] = await happen(t, 5);
    await eventually(() => expect(triesOf(1)).toBe(1));
    receiver.behave(() => ({ status: 410 }));
    await pass(t, one, clock, 6_000);
    await eventually(async () => expect((await viewOf(t, one)).status).toBe('disabled'));
    await idle(t, one);
    receiver.behave(() => ({}));
    const before = receiver.received.length;
    await t.send('POST', `/webhooks/${one.id}/enable`, { body: { resume: 'now' } });
    const later = await happen(t, 3);
    await caughtUp(t, one.id);
    expect(receiver.received.slice(before).map(({ id }) => id)).toEqual(later);
    // Who asks for it afterwards gets it.
    await t.send('POST', `/webhooks/${one.id}/deliveries/${first}/resend`);
    await eventually(() => expect(receiver.received.at(-1)?.id).toBe(first));
  });

  it('and holds up no other webhook while it waits for a post that hangs', async () => {
    const other = await startReceiver();
    await subscribeTo(t, other);
    const one = await subscribeStrictly({ ordering: 'none', event_types: ['mail_domain.created'] });
    let answer: (answering: Answering) => void = () => undefined;
    receiver.behave(
      () =>
        new Promise((resolve) => {
          answer = resolve;
        }),
    );
    await t.createDomain('hang.example');
    await receiver.until(1);
    let isAnswered = false;
    const answered = order(one, 'strict').then(() => {
      isAnswered = true;
    });
    await happen(t, 1);
    await other.until(1);
    // The others have gone on; whoever has asked still waits for the post under way to end.
    expect(isAnswered).toBe(false);
    answer({});
    await answered;
    await other.close();
  });
});
