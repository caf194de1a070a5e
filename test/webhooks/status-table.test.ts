import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
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

const TIMEOUT_MS = 400;
const LOOK_MS = 40;
/** Long enough for whoever looks at the clock to have seen it. */
const LOOKS_MS = 250;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('what a receiver answers', () => {
  let t: TestGateway;
  let clock: TestClock;
  let receiver: Receiver;
  let one: Made;
  beforeAll(async () => {
    clock = testClock();
    t = await startTestGateway({
      config: LOOPBACK,
      clock,
      webhooks: { timeoutMs: TIMEOUT_MS, random: () => 0, lookMs: LOOK_MS },
    });
  });
  afterAll(() => t.close());
  beforeEach(async () => {
    receiver = await startReceiver();
    one = await subscribeTo(t, receiver);
  });
  afterEach(async () => {
    await t.send('DELETE', `/webhooks/${one.id}`);
    await receiver.close();
  });

  const postsOf = (id: string) => receiver.received.filter((post) => post.id === id);
  /** The first event fails in a way, and everything after it is well. */
  const failFirst = (answer: object, times = 1) => {
    let left = times;
    let first: string | null = null;
    receiver.behave(({ id }) => {
      first ??= id;
      if (id !== first || left === 0) return {};
      left -= 1;
      return answer;
    });
  };

  it.each([500, 502, 504, 400, 401, 403, 404, 408, 422, 425])(
    'tries an event again that was answered %i, lets the others go on, and sends the same bytes',
    async (status) => {
      failFirst({ status, body: 'not today' });
      const [bad = ''] = await happen(t, 1);
      await eventually(() => expect(postsOf(bad)).toHaveLength(1));
      await happen(t, 3);
      await receiver.until(4);
      await eventually(async () => expect(await statsOf(t, one)).toMatchObject({ retrying: 1 }));
      await pass(t, one, clock, 3_000);
      await pause(LOOKS_MS);
      expect(postsOf(bad)).toHaveLength(1);
      await pass(t, one, clock, 2_000);
      await eventually(() => expect(postsOf(bad)).toHaveLength(2));
      await caughtUp(t, one.id);
      expect(new Set(postsOf(bad).map(({ digest }) => digest)).size).toBe(1);
      expect(await attemptsOf(t, one, bad)).toMatchObject([
        { kind: 'live', attempt: 1, outcome: 'http_error', status, response: 'not today' },
        { kind: 'retry', attempt: 2, outcome: 'delivered', status: 200, response: null },
      ]);
      for (const post of receiver.received) receiver.verify(one.secret, post);
    },
  );

  it.each([301, 302, 307, 308])('follows no %i', async (status) => {
    const canary = await startReceiver();
    try {
      failFirst({ status, headers: { location: canary.url } });
      const [bad = ''] = await happen(t, 1);
      await eventually(async () =>
        expect(await attemptsOf(t, one, bad)).toMatchObject([{ outcome: 'redirect', status }]),
      );
      expect(canary.received).toEqual([]);
    } finally {
      await canary.close();
    }
  });

  it('ends at 410, keeps the event at its cursor, and goes on where it was once enabled', async () => {
    receiver.behave(() => ({ status: 410 }));
    const ids = await happen(t, 3);
    await eventually(async () =>
      expect(await viewOf(t, one)).toMatchObject({ status: 'disabled', disabled_cause: 'gone' }),
    );
    const posts = receiver.received.length;
    await eventually(async () =>
      expect(await notesOf(t, one, 'webhook.disabled')).toMatchObject([
        { actor: { type: 'system' }, outcome: 'failure', data: { cause: 'gone' } },
      ]),
    );
    await happen(t, 2);
    await pause(300);
    expect(receiver.received).toHaveLength(posts);
    receiver.behave(() => ({}));
    expect((await t.send('POST', `/webhooks/${one.id}/resume`)).status).toBe(409);
    expect((await t.send('POST', `/webhooks/${one.id}/enable`)).status).toBe(200);
    await caughtUp(t, one.id);
    expect(sequencesOf(receiver)).toEqual(oneTo(5));
    expect(receiver.ids()).toEqual(expect.arrayContaining([...ids]));
  });

  it('leaves out what came while it was disabled when it is enabled from now on', async () => {
    receiver.behave(() => ({ status: 410 }));
    await happen(t, 1);
    await eventually(async () => expect((await viewOf(t, one)).status).toBe('disabled'));
    await happen(t, 5);
    receiver.received.length = 0;
    receiver.behave(() => ({}));
    await t.send('POST', `/webhooks/${one.id}/enable`, { body: { resume: 'now' } });
    const [last = ''] = await happen(t, 1);
    await eventually(() => expect(postsOf(last)).toHaveLength(1));
    await caughtUp(t, one.id);
    expect(postsOf(last)[0]?.payload).toMatchObject({ epoch: 2, sequence: 1 });
  });

  it('ends when the receiver asks for it with 2xx, whose event counts as delivered', async () => {
    receiver.behave(() => ({ headers: { 'webhook-delivery': 'disable' } }));
    const [id = ''] = await happen(t, 1);
    await eventually(async () =>
      expect(await viewOf(t, one)).toMatchObject({ disabled_cause: 'receiver', enabled: false }),
    );
    await eventually(async () =>
      expect(await attemptsOf(t, one, id)).toMatchObject([{ outcome: 'delivered' }]),
    );
  });

  it('parks an event that the receiver wants never again, says so, and resends it when asked', async () => {
    failFirst({ status: 422, headers: { 'webhook-delivery': 'abort-message' } });
    const [bad = ''] = await happen(t, 1);
    await eventually(async () => expect((await statsOf(t, one)).parked).toBe(1));
    await happen(t, 2);
    await receiver.until(3);
    await pass(t, one, clock, 86_400_000);
    await pause(LOOKS_MS);
    expect(postsOf(bad)).toHaveLength(1);
    await eventually(async () =>
      expect(await notesOf(t, one, 'webhook.event_parked')).toMatchObject([
        { data: { event_id: bad, cause: 'aborted_by_receiver' } },
      ]),
    );
    const parked = await t.send('GET', `/webhooks/${one.id}/parked`);
    expect(parked.body.data).toMatchObject([{ event_id: bad }]);
    const sent = await t.send('POST', `/webhooks/${one.id}/deliveries/${bad}/resend`);
    expect(sent.status).toBe(202);
    await eventually(() => expect(postsOf(bad)).toHaveLength(2));
    await caughtUp(t, one.id);
    expect((await statsOf(t, one)).parked).toBe(0);
    expect(new Set(postsOf(bad).map(({ digest }) => digest)).size).toBe(1);
  });

  it.each([
    ['429 with seconds', { status: 429, headers: { 'retry-after': '120' } }, 120_000],
    ['429 that does not say', { status: 429 }, 30_000],
    ['429 with garbage', { status: 429, headers: { 'retry-after': 'soon' } }, 30_000],
    ['503 with seconds', { status: 503, headers: { 'retry-after': '60' } }, 60_000],
  ])('is quiet as a whole after %s, and spends no try on it', async (_, answer, quietMs) => {
    failFirst(answer, 1);
    const [first = ''] = await happen(t, 1);
    await eventually(() => expect(postsOf(first)).toHaveLength(1));
    await eventually(async () => expect((await statsOf(t, one)).quiet_until).not.toBeNull());
    await happen(t, 4);
    await pass(t, one, clock, quietMs - 3_000);
    await pause(LOOKS_MS);
    expect(receiver.received).toHaveLength(1);
    await pass(t, one, clock, 3_000);
    await receiver.until(6);
    await caughtUp(t, one.id);
    expect(await attemptsOf(t, one, first)).toMatchObject([
      { attempt: 1, status: answer.status },
      { attempt: 2, outcome: 'delivered' },
    ]);
  });

  it('is quiet until the HTTP date that a 429 names', async () => {
    const until = new Date(clock.now().getTime() + 90_000).toUTCString();
    failFirst({ status: 429, headers: { 'retry-after': until } });
    await happen(t, 1);
    await receiver.until(1);
    await pass(t, one, clock, 80_000);
    await pause(LOOKS_MS);
    expect(receiver.received).toHaveLength(1);
    await pass(t, one, clock, 12_000);
    await receiver.until(2);
  });

  it('gives up an event that fails alone after the whole schedule, and no other', async () => {
    let bad: string | null = null;
    receiver.behave(({ id }) => {
      bad ??= id;
      return id === bad ? { status: 400 } : {};
    });
    const [id = ''] = await happen(t, 1);
    await receiver.until(1);
    await happen(t, 2);
    await receiver.until(3);
    const waits = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
    for (const [index, seconds] of waits.entries()) {
      await eventually(async () => expect((await statsOf(t, one)).retrying).toBe(1));
      await pass(t, one, clock, seconds * 1_000 + 10);
      await eventually(() => expect(postsOf(id)).toHaveLength(index + 2));
    }
    await eventually(async () =>
      expect(await statsOf(t, one)).toMatchObject({ parked: 1, retrying: 0 }),
    );
    await eventually(async () =>
      expect(await notesOf(t, one, 'webhook.event_parked')).toMatchObject([
        { data: { event_id: id, tries: 10, cause: 'gave_up' } },
      ]),
    );
    expect(await viewOf(t, one)).toMatchObject({ status: 'active' });
  });

  it.each([
    ['answers nothing', { silent: true } as const, 'timeout'],
    ['answers later than it may', { afterMs: TIMEOUT_MS * 3 }, 'timeout'],
  ])('takes an endpoint that %s for failed, and frees its slot', async (_, answer, outcome) => {
    failFirst(answer);
    const [bad = ''] = await happen(t, 1);
    await eventually(async () =>
      expect(await attemptsOf(t, one, bad)).toMatchObject([{ outcome, status: null }]),
    );
    await happen(t, 2);
    await receiver.until(3);
    await idle(t, one);
  });

  it('opens the breaker after five events, makes no retries of them, and looks now and then', async () => {
    receiver.behave(() => ({ status: 500 }));
    await happen(t, 30);
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    await idle(t, one);
    const first = receiver.received.length;
    expect(first).toBeLessThanOrEqual(16 + 5);
    expect(await statsOf(t, one)).toMatchObject({ retrying: 0, parked: 0 });
    for (const [index, seconds] of [5, 15, 45, 120, 300, 600, 900, 900].entries()) {
      await pass(t, one, clock, seconds * 1_000 + 10);
      await eventually(() => expect(receiver.received).toHaveLength(first + index + 1));
    }
    receiver.behave(() => ({}));
    await pass(t, one, clock, 900_010);
    await caughtUp(t, one.id);
    expect(sequencesOf(receiver)).toEqual(oneTo(30));
    expect((await statsOf(t, one)).breaker).toBe('closed');
  });

  it('sends what is under way when a URL is changed to the new one from then on', async () => {
    const other = await startReceiver();
    try {
      receiver.behave(() => ({ status: 500 }));
      await happen(t, 6);
      await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
      const posts = receiver.received.length;
      const changed = await t.send('PATCH', `/webhooks/${one.id}`, { body: { url: other.url } });
      expect(changed.status).toBe(200);
      await pass(t, one, clock, 6_000);
      await other.until(6);
      expect(receiver.received).toHaveLength(posts);
      expect(sequencesOf(other)).toEqual(oneTo(6));
    } finally {
      await other.close();
    }
  });
});
