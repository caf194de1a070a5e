import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { allSince, headOf, recording } from '../support/recorded.ts';
import {
  LOOPBACK,
  type Received,
  type Receiver,
  startReceiver,
} from '../support/webhook-receiver.ts';
import { caughtUp, eventually, issuesOf, look, subscribe, told } from '../support/webhooks.ts';

let t: TestGateway;
let receiver: Receiver;
let own: { id: number; name: string };
let admin: string;
let reader: string;
let quarantineOnly: string;
beforeAll(async () => {
  t = await startTestGateway({ config: LOOPBACK, webhooks: { random: () => 0 } });
  receiver = await startReceiver();
  own = await t.createDomain('own.example');
  admin = (await t.createKey({ scope: 'domain-admin', mail_domain: own.id })).key;
  reader = (await t.createKey()).key;
  quarantineOnly = (await t.createKey({ scope: 'quarantine-only' })).key;
});
afterAll(async () => {
  await t.close();
  await receiver.close();
});

const living: number[] = [];
afterEach(async () => {
  receiver.behave(() => ({}));
  for (const id of living.splice(0)) await t.send('DELETE', `/webhooks/${id}`);
});

let places = 0;
const at = (url: string) => receiver.received.filter(({ path }) => url.endsWith(path));
const live = (url: string) => at(url).filter(({ headers }) => !('webhook-replay' in headers));
const replayed = (url: string) => at(url).filter(({ headers }) => 'webhook-replay' in headers);
/** One of this test alone: it is deleted behind it. */
async function make(fields: object = {}, key?: string) {
  places += 1;
  const made = await subscribe(t, { url: `${receiver.url}/${places}`, ...fields }, key);
  living.push(made.id);
  return made as typeof made & { url: string };
}
async function eventOf(type: string, act: () => Promise<unknown>) {
  const before = await headOf(t);
  await act();
  const event = (await allSince(t, before)).find((one) => one.type === type);
  if (event === undefined) throw new Error(`no ${type}`);
  return event;
}
let domains = 0;
/** Under a name that no restart gives out again. */
const aDomain = () => {
  domains += 1;
  return eventOf('mail_domain.created', () => t.createDomain(`w${domains}.example.net`));
};
let threshold = 0;
const ofOwn = () =>
  eventOf('mail_domain.updated', () => {
    threshold = (threshold % 10) + 0.5;
    return t.send('PATCH', `/domains/${own.id}`, { body: { quarantine_threshold: threshold } });
  });
async function several(n: number) {
  const events: Awaited<ReturnType<typeof aDomain>>[] = [];
  for (let made = 0; made < n; made += 1) events.push(await aDomain());
  return events;
}
const replay = (id: number, body: object, options: object = {}) =>
  recording(t, () =>
    t.send('POST', `/webhooks/${id}/replays`, {
      body: { reason: 'restored', ...body },
      ...options,
    }),
  );
const stateOf = (id: number, replayId: string) => look(t, id, `/replays/${replayId}`);
const completed = (id: number, replayId: string) =>
  eventually(
    () => stateOf(id, replayId),
    ({ state }) => expect(state).toBe('completed'),
  );
const inOrder = (received: readonly Received[]) =>
  received.toSorted((a, b) => Number(a.payload.log.position) - Number(b.payload.log.position));
const next = (position: string) => String(BigInt(position) + 1n);

describe('POST /webhooks/{id}/replays', () => {
  it('202: posts a range again: the same ids, bytes and numbers, with its own header', async () => {
    const { id, url, secret } = await make();
    const events = await several(6);
    await caughtUp(t, id);
    const from = events[1]!.position;
    const to = events[4]!.position;
    const { reply, facts } = await replay(id, {
      from: { position: from },
      to: { position: to },
      reason: 'their database was restored',
    });
    expect([reply.status, reply.body.error, reply.body.message]).toEqual([202, null, 'Under way']);
    const { id: replayId } = reply.body.data;
    expect(reply.body.data).toMatchObject({
      id: expect.stringMatching(/^\d+$/),
      from,
      to,
      event_types: null,
      created_at: expect.stringMatching(/Z$/),
    });
    expect(reply.headers.get('location')).toBe(`/api/v1/webhooks/${id}/replays/${replayId}`);
    expect(facts[0]).toMatchObject({
      type: 'webhook.replay_requested',
      stream: `webhook-${id}`,
      actor: { type: 'api_key', id: '1' },
      data: {
        replay_id: replayId,
        after: String(BigInt(from) - 1n),
        until: String(BigInt(to) - 1n),
        event_types: null,
      },
      disclosed: { reason: 'their database was restored' },
    });
    await completed(id, replayId);
    const first = inOrder(live(url));
    const again = inOrder(replayed(url));
    expect(first.map(({ payload }) => payload.sequence)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(again.map((one) => [one.id, one.body])).toEqual(
      first.slice(1, 4).map((one) => [one.id, one.body]),
    );
    for (const one of again) {
      expect(one.headers['webhook-replay']).toBe(replayId);
      receiver.verify(secret, one);
    }
    expect(await stateOf(id, replayId)).toMatchObject({
      state: 'completed',
      position: String(BigInt(to) - 1n),
      delivered: '3',
      failed: '0',
      ended_at: expect.stringMatching(/Z$/),
    });
    const ended = (await allSince(t, BigInt(to))).find(
      ({ type }) => type === 'webhook.replay_ended',
    );
    expect(ended).toMatchObject({
      actor: { type: 'system' },
      data: { replay_id: replayId, delivered: '3', failed: '0' },
    });
    // In the attempts, too; and live numbers go on.
    const attempts = await look(t, id, `/deliveries/${events[1]!.event_id}/attempts`);
    expect(attempts).toMatchObject([
      { kind: 'live', replay_id: null },
      { kind: 'replay', replay_id: replayId, outcome: 'delivered' },
    ]);
    await aDomain();
    await caughtUp(t, id);
    expect(inOrder(live(url)).at(-1)?.payload.sequence).toBe(7);
  });

  it('202: from the earliest on to the end, of some event types alone', async () => {
    const { id, url } = await make({ event_types: ['mail_domain.created', 'mail_domain.updated'] });
    await several(2);
    await ofOwn();
    await caughtUp(t, id);
    const { reply, facts } = await replay(id, {
      from: 'earliest',
      event_types: ['mail_domain.updated', 'api_key.created'],
    });
    expect(reply.body.data).toMatchObject({
      from: '1',
      event_types: ['mail_domain.updated', 'api_key.created'],
    });
    expect(facts[0]?.data['event_types']).toEqual(['mail_domain.updated', 'api_key.created']);
    await completed(id, reply.body.data.id);
    const wanted = (await allSince(t, 0n)).filter(({ type }) => type === 'mail_domain.updated');
    const again = inOrder(replayed(url));
    expect(again.map((one) => one.id)).toEqual(wanted.map(({ event_id }) => event_id));
    // Before its own beginning nothing has a number.
    expect(again.map(({ payload }) => [payload.epoch, payload.sequence])).toEqual([
      ...wanted.slice(0, -1).map(() => [0, null]),
      [1, 3],
    ]);
  });

  it('202: `*` is all that the subscription has', async () => {
    const { id, url } = await make();
    const [first, second] = await several(2);
    await ofOwn();
    await caughtUp(t, id);
    const { reply } = await replay(id, { from: { position: first!.position }, event_types: ['*'] });
    expect(reply.body.data.event_types).toBeNull();
    await completed(id, reply.body.data.id);
    expect(inOrder(replayed(url)).map((one) => one.id)).toEqual([
      first!.event_id,
      second!.event_id,
    ]);
  });

  it('202: between two times, the first in and the last out', async () => {
    const { id, url } = await make();
    const events = await several(4);
    await caughtUp(t, id);
    const { reply } = await replay(id, {
      from: { at: events[1]!.recorded_at },
      to: { at: events[3]!.recorded_at },
    });
    await completed(id, reply.body.data.id);
    expect(inOrder(replayed(url)).map((one) => one.id)).toEqual(
      events.slice(1, 3).map(({ event_id }) => event_id),
    );
  });

  it('202: a range of which it has nothing ends at its end', async () => {
    const { id, url } = await make({ event_types: ['license.changed'] });
    const { reply } = await replay(id, { from: 'earliest' });
    await completed(id, reply.body.data.id);
    expect(await stateOf(id, reply.body.data.id)).toMatchObject({
      delivered: '0',
      failed: '0',
      position: String(BigInt(reply.body.data.to) - 1n),
    });
    expect(at(url)).toEqual([]);
  });

  it('202: over changes of its event types with the numbers of then', async () => {
    const { id, url } = await make();
    const [first] = await several(2);
    await t.send('PATCH', `/webhooks/${id}`, { body: { event_types: ['mail_domain.updated'] } });
    await several(1);
    await ofOwn();
    await ofOwn();
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBeGreaterThanOrEqual(4),
    );
    await caughtUp(t, id);
    const { reply } = await replay(id, { from: { position: first!.position } });
    await completed(id, reply.body.data.id);
    const numbers = (received: readonly Received[]) =>
      inOrder(received).map(({ payload, body }) => [payload.epoch, payload.sequence, body]);
    expect(numbers(replayed(url))).toEqual(numbers(live(url)));
    expect(numbers(live(url)).map(([epoch, sequence]) => [epoch, sequence])).toEqual([
      [1, 1],
      [1, 2],
      [2, 1],
      [2, 2],
    ]);
  });

  it('202: fetches what an enabling from now on has left out', async () => {
    receiver.behave(() => ({ status: 410 }));
    const { id, url } = await make();
    await aDomain();
    await eventually(
      () => look(t, id),
      ({ status }) => expect(status).toBe('disabled'),
    );
    receiver.behave(() => ({}));
    const missed = await aDomain();
    await t.send('POST', `/webhooks/${id}/enable`, { body: { resume: 'now' } });
    const { reply } = await replay(id, {
      from: { position: missed.position },
      to: { position: next(missed.position) },
    });
    await completed(id, reply.body.data.id);
    expect(
      replayed(url).map(({ payload }) => [payload.id, payload.epoch, payload.sequence]),
    ).toEqual([[missed.event_id, 1, 2]]);
  });

  it('202: of a narrowed one its mail domain’s alone', async () => {
    const { id, url } = await make({ event_types: ['*'] }, admin);
    const { reply, facts } = await replay(id, { from: 'earliest' }, { key: admin });
    expect(reply.status).toBe(202);
    expect(facts[0]?.mail_domains).toEqual([String(own.id)]);
    await completed(id, reply.body.data.id);
    expect(replayed(url).length).toBeGreaterThan(1);
    for (const { payload } of at(url)) expect(payload.data.mail_domains).toEqual([String(own.id)]);
  });

  it('202: what fails is tried again as of this replay, and leaves the retry set alone', async () => {
    const { id, url } = await make();
    const events = await several(3);
    await caughtUp(t, id);
    const bad = events[1]!.event_id;
    receiver.behave((one) =>
      one.id === bad && replayed(url).filter(({ id: same }) => same === bad).length < 2
        ? { status: 500 }
        : {},
    );
    const { reply } = await replay(id, { from: { position: events[0]!.position } });
    const { id: replayId } = reply.body.data;
    await eventually(
      () => stateOf(id, replayId),
      (state) => expect(state).toMatchObject({ state: 'running', delivered: '2', failed: '0' }),
    );
    expect(await look(t, id, '/deliveries?status=retrying')).toEqual([]);
    await completed(id, replayId);
    expect(await stateOf(id, replayId)).toMatchObject({ delivered: '3', failed: '0' });
    expect(replayed(url).filter((one) => one.id === bad)).toHaveLength(2);
  });

  it('202: waits while the webhook is held, also over a restart', async () => {
    const { id, url } = await make();
    const events = await several(3);
    await caughtUp(t, id);
    await t.send('POST', `/webhooks/${id}/pause`);
    const { reply } = await replay(id, { from: { position: events[0]!.position } });
    const { id: replayId } = reply.body.data;
    expect(reply.body.data).toMatchObject({ state: 'running', delivered: '0', ended_at: null });
    t = await t.restart();
    expect(await stateOf(id, replayId)).toMatchObject({ state: 'running', delivered: '0' });
    expect(replayed(url)).toEqual([]);
    await t.send('POST', `/webhooks/${id}/resume`);
    await completed(id, replayId);
    expect(inOrder(replayed(url)).map((one) => one.id)).toEqual(
      events.map(({ event_id }) => event_id),
    );
  });

  it('202: once for its Idempotency-Key', async () => {
    const { id } = await make({ enabled: false });
    const options = { headers: { 'Idempotency-Key': randomUUID() } };
    const first = await replay(id, { from: 'earliest' }, options);
    const again = await replay(id, { from: 'earliest' }, options);
    expect([again.reply.status, again.reply.body]).toEqual([202, first.reply.body]);
    expect(again.facts).toEqual([]);
    expect(await look(t, id, '/replays')).toHaveLength(1);
  });

  it.each([
    ['no start', {}, 'from'],
    ['no reason', { from: 'earliest', reason: undefined }, 'reason'],
    ['an empty reason', { from: 'earliest', reason: '' }, 'reason'],
    ['a reason that is too long', { from: 'earliest', reason: 'x'.repeat(1_001) }, 'reason'],
    ['a reason with a key', { from: 'earliest', reason: `nmg_${'a'.repeat(64)}` }, 'reason'],
    ['a start from now', { from: 'now' }, 'from'],
    ['a start at a number', { from: { position: 3 } }, 'from.position'],
    ['a start beyond the log', { from: { position: '999999999' } }, 'from'],
    ['an end beyond the log', { from: 'earliest', to: { position: '999999999' } }, 'to'],
    ['an end at the earliest', { from: 'earliest', to: 'earliest' }, 'to'],
    ['nothing between', { from: { position: '5' }, to: { position: '5' } }, 'to'],
    ['an end before the start', { from: { position: '5' }, to: { position: '2' } }, 'to'],
    ['an end at the beginning', { from: 'earliest', to: { position: '1' } }, 'to'],
    ['a start that is yet to come', { from: { at: '2999-01-01T00:00:00Z' } }, 'to'],
    ['no event types', { from: 'earliest', event_types: [] }, 'event_types'],
    ['an unknown event type', { from: 'earliest', event_types: ['x.y'] }, 'event_types.0'],
    [
      'an event type of webhooks',
      { from: 'earliest', event_types: ['webhook.created'] },
      'event_types.0',
    ],
    ['an unknown member', { from: 'earliest', rate: 5 }, 'rate'],
  ])('400: %s', async (_, body, path) => {
    const { id } = await make({ enabled: false });
    const { reply, facts } = await replay(id, body);
    expect(told(reply)).toEqual([400, 'validation_failed']);
    expect(issuesOf(reply)).toContain(path);
    expect(facts).toEqual([]);
    expect(await look(t, id, '/replays')).toEqual([]);
  });

  it('409: more than ten at a time', async () => {
    const { id } = await make({ enabled: false });
    const ids: string[] = [];
    for (let n = 0; n < 10; n += 1) {
      const { reply } = await replay(id, { from: 'earliest' });
      expect(reply.status).toBe(202);
      ids.push(reply.body.data.id);
    }
    const { reply, facts } = await replay(id, { from: 'earliest' });
    expect([told(reply), facts]).toEqual([[409, 'state_conflict'], []]);
    await t.send('DELETE', `/webhooks/${id}/replays/${ids[4]}`);
    expect((await replay(id, { from: 'earliest' })).reply.status).toBe(202);
  });
});

describe('GET /webhooks/{id}/replays', () => {
  it('200: the first first, and one by one', async () => {
    const { id } = await make({ enabled: false });
    const first = (await replay(id, { from: 'earliest' })).reply.body.data;
    const second = (await replay(id, { from: { position: '3' } })).reply.body.data;
    const list = await t.send('GET', `/webhooks/${id}/replays`, { key: reader });
    expect(list.body).toEqual({ data: [first, second], error: null, message: 'OK' });
    for (const one of [first, second]) {
      const reply = await t.send('GET', `/webhooks/${id}/replays/${one.id}`, { key: reader });
      expect(reply.body).toEqual({ data: one, error: null, message: 'OK' });
    }
  });
});

describe('DELETE /webhooks/{id}/replays/{replay_id}', () => {
  const cancel = (id: number, replayId: string, options: object = {}) =>
    recording(t, () => t.send('DELETE', `/webhooks/${id}/replays/${replayId}`, options));

  it('200: ends one where it is; the live events are not touched', async () => {
    const { id, url } = await make();
    await several(2);
    await caughtUp(t, id);
    await t.send('POST', `/webhooks/${id}/pause`);
    const { id: replayId } = (await replay(id, { from: 'earliest' })).reply.body.data;
    const { reply, facts } = await cancel(id, replayId);
    expect(reply.status).toBe(200);
    expect(reply.body).toMatchObject({
      error: null,
      message: 'Cancelled',
      data: { id: replayId, state: 'cancelled', delivered: '0', ended_at: expect.any(String) },
    });
    expect(facts).toMatchObject([
      {
        type: 'webhook.replay_cancelled',
        stream: `webhook-${id}`,
        data: { replay_id: replayId },
      },
    ]);
    await aDomain();
    await t.send('POST', `/webhooks/${id}/resume`);
    await caughtUp(t, id);
    expect([live(url).length, replayed(url).length]).toEqual([3, 0]);
    expect(await stateOf(id, replayId)).toMatchObject({ state: 'cancelled' });
  });

  it('200: one that is under way; what it has begun may still end', async () => {
    const { id, url } = await make();
    await several(1);
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    await caughtUp(t, id);
    receiver.behave(async ({ headers }) => {
      if ('webhook-replay' in headers) await gate;
      return {};
    });
    const { id: replayId } = (await replay(id, { from: 'earliest' })).reply.body.data;
    await eventually(
      () => replayed(url).length,
      // A quarter of the slots, so that live events have room.
      (n) => expect(n).toBe(4),
    );
    const { reply } = await cancel(id, replayId);
    expect(reply.body.data).toMatchObject({ state: 'cancelled' });
    await aDomain();
    await eventually(
      () => live(url).length,
      (n) => expect(n).toBe(2),
    );
    open();
    await aDomain();
    await caughtUp(t, id);
    expect([live(url).length, replayed(url).length]).toEqual([3, 4]);
  });

  it('200: again, and of one that is over, records nothing', async () => {
    const { id } = await make();
    const done = (await replay(id, { from: 'earliest' })).reply.body.data.id;
    await completed(id, done);
    const first = await cancel(id, done);
    expect([first.reply.status, first.reply.body.data.state, first.facts]).toEqual([
      200,
      'completed',
      [],
    ]);
    await t.send('POST', `/webhooks/${id}/pause`);
    const other = (await replay(id, { from: 'earliest' })).reply.body.data.id;
    await cancel(id, other);
    const again = await cancel(id, other);
    expect([again.reply.status, again.reply.body.data.state, again.facts]).toEqual([
      200,
      'cancelled',
      [],
    ]);
  });
});

describe('every route of replays', () => {
  const routes = [
    ['POST', '/replays', true],
    ['GET', '/replays', false],
    ['GET', '/replays/1', false],
    ['DELETE', '/replays/1', true],
  ] as const;
  const ask = (method: string, id: number, path: string, key?: string) =>
    recording(t, () =>
      t.send(method, `/webhooks/${id}${path}`, {
        ...(key === undefined ? {} : { key }),
        ...(method === 'POST' ? { body: { from: 'earliest', reason: 'x' } } : {}),
      }),
    );

  it.each(routes)('403: %s %s with a key that may not', async (method, path, isWrite) => {
    const { id } = await make({ enabled: false });
    for (const key of [quarantineOnly, ...(isWrite ? [reader] : [])]) {
      const { reply, facts } = await ask(method, id, path, key);
      expect([told(reply), facts]).toEqual([[403, 'scope_forbidden'], []]);
    }
  });

  it.each(routes)(
    '404: %s %s of one that is not there, or not for this key',
    async (method, path) => {
      const { id } = await make({ enabled: false });
      const nothing = await t.send('GET', '/webhooks/999999');
      for (const target of [id, 999_999]) {
        const { reply, facts } = await ask(method, target, path, admin);
        expect([reply.status, reply.text, facts]).toEqual([404, nothing.text, []]);
      }
    },
  );

  it('404: a replay that is not there, or is another webhook’s', async () => {
    const [one, other] = [await make({ enabled: false }), await make({ enabled: false })];
    const foreign = (await replay(other.id, { from: 'earliest' })).reply.body.data.id;
    for (const replayId of [foreign, '999999']) {
      for (const method of ['GET', 'DELETE']) {
        const { reply, facts } = await ask(method, one.id, `/replays/${replayId}`);
        expect([told(reply), facts]).toEqual([[404, 'not_found'], []]);
      }
    }
    expect(await stateOf(other.id, foreign)).toMatchObject({ state: 'running' });
    expect(told((await ask('GET', one.id, '/replays/x')).reply)).toEqual([
      400,
      'validation_failed',
    ]);
  });
});
