import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type Reply,
  startTestGateway,
  type TestClock,
  type TestGateway,
  testClock,
} from '../support/gateway.ts';
import { allSince, headOf, recording } from '../support/recorded.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import {
  caughtUp,
  eventually,
  issuesOf,
  look,
  subscribe,
  told,
  verifyThen,
} from '../support/webhooks.ts';

let t: TestGateway;
let clock: TestClock;
let receiver: Receiver;
let own: { id: number; name: string };
let admin: string;
let reader: string;
let quarantineOnly: string;
beforeAll(async () => {
  clock = testClock();
  t = await startTestGateway({ clock, config: LOOPBACK, webhooks: { random: () => 0 } });
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

let domains = 0;
/** Under a name that no restart gives out again. */
const newDomain = () => {
  domains += 1;
  return t.createDomain(`w${domains}.example.net`);
};
let places = 0;
const at = (url: string) => receiver.received.filter(({ path }) => url.endsWith(path));
/** One of this test alone: it is deleted behind it. */
async function make(fields: object = {}, key?: string) {
  places += 1;
  const made = await subscribe(t, { url: `${receiver.url}/${places}`, ...fields }, key);
  living.push(made.id);
  return made as typeof made & { url: string };
}
/** Does something that is recorded, and gives the event of this type. */
async function eventOf(type: string, act: () => Promise<unknown>) {
  const before = await headOf(t);
  await act();
  const event = (await allSince(t, before)).find((one) => one.type === type);
  if (event === undefined) throw new Error(`no ${type}`);
  return event;
}
const aDomain = () => eventOf('mail_domain.created', () => newDomain());
let threshold = 0;
const ofOwn = () =>
  eventOf('mail_domain.updated', () => {
    threshold = (threshold % 10) + 0.5;
    return t.send('PATCH', `/domains/${own.id}`, { body: { quarantine_threshold: threshold } });
  });
const resend = (id: number, eventId: string, options: object = {}) =>
  recording(t, () => t.send('POST', `/webhooks/${id}/deliveries/${eventId}/resend`, options));
const attemptsOf = (id: number, eventId: string) => look(t, id, `/deliveries/${eventId}/attempts`);
const ABORT = { status: 400, headers: { 'webhook-delivery': 'abort-message' } };

describe('GET /webhooks/{id}/deliveries', () => {
  it('200: what was posted, event by event, the latest first', async () => {
    const { id, url, secrets } = await make();
    const events = [await aDomain(), await aDomain(), await aDomain()];
    await caughtUp(t, id);
    const reply = await t.send('GET', `/webhooks/${id}/deliveries`, { key: reader });
    expect(reply.body).toMatchObject({ error: null, message: 'OK' });
    expect(reply.headers.get('x-has-more')).toBe('false');
    const posted = new Map(at(url).map((one) => [one.id, one]));
    expect(reply.body.data).toEqual(
      events.toReversed().map(({ event_id, position }) => ({
        event_id,
        type: 'mail_domain.created',
        position,
        status: 'delivered',
        attempts: 1,
        next_attempt_at: null,
        last_attempt: {
          started_at: expect.stringMatching(/Z$/),
          kind: 'live',
          attempt: 1,
          outcome: 'delivered',
          status: 200,
          ms: expect.any(Number),
          body_sha256: posted.get(event_id)?.digest,
          signed_by: [secrets[0].fingerprint],
          peer: reply.body.data[0].last_attempt.peer,
          replay_id: null,
          error: null,
          response: null,
        },
      })),
    );
  });

  it('200: pages to the end, each event once', async () => {
    const { id } = await make();
    const events: string[] = [];
    for (let n = 0; n < 5; n += 1) events.unshift((await aDomain()).event_id);
    await caughtUp(t, id);
    for (const limit of [1, 2, 5, 6]) {
      const seen: string[] = [];
      let pages = 0;
      let next: string | undefined = `/webhooks/${id}/deliveries?limit=${limit}`;
      while (next !== undefined) {
        const reply: Reply = await t.send('GET', next);
        seen.push(...reply.body.data.map((one: { event_id: string }) => one.event_id));
        next = /^<\/api\/v1(.*)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
        expect(reply.headers.get('x-has-more')).toBe(String(next !== undefined));
        pages += 1;
      }
      expect([limit, seen]).toEqual([limit, events]);
      // A page that ends the list says so.
      expect([limit, pages]).toEqual([limit, Math.ceil(5 / limit)]);
    }
  });

  it('200: by type, by status and since when', async () => {
    const { id, url } = await make({ event_types: ['mail_domain.created', 'mail_domain.updated'] });
    const [first, second] = [await aDomain(), await ofOwn()];
    await caughtUp(t, id);
    receiver.behave(({ path }) => (url.endsWith(path) ? { status: 500 } : {}));
    const third = await aDomain();
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(3),
    );
    receiver.behave(({ id: event }) => (event === third.event_id ? { status: 500 } : {}));
    const fourth = await ofOwn();
    const by = async (query: string) =>
      (await look(t, id, `/deliveries?${query}`)).map((one: { event_id: string }) => one.event_id);
    const ids = [fourth, third, second, first].map(({ event_id }) => event_id);
    await eventually(
      () => by(''),
      (found) => expect(found).toEqual(ids),
    );
    // Something has arrived behind it, so it is this event’s own failure.
    await eventually(
      () => by('status=retrying'),
      (found) => expect(found).toEqual([ids[1]]),
    );
    expect(await by('type=mail_domain.created')).toEqual([ids[1], ids[3]]);
    expect(await by('type=mail_domain.updated&status=delivered')).toEqual([ids[0], ids[2]]);
    expect(await by('status=delivered')).toEqual([ids[0], ids[2], ids[3]]);
    expect(await by('status=parked')).toEqual([]);
    expect(await by('type=api_key.created')).toEqual([]);
    expect(await by(`since=${second.recorded_at}`)).toEqual(ids.slice(0, 3));
    expect(await by('since=2999-01-01T00:00:00Z')).toEqual([]);
    const [waiting] = await look(t, id, '/deliveries?status=retrying');
    expect(waiting).toMatchObject({
      attempts: 1,
      next_attempt_at: expect.stringMatching(/Z$/),
      last_attempt: { outcome: 'http_error', status: 500 },
    });
    expect(Date.parse(waiting.next_attempt_at)).toBeGreaterThan(
      Date.parse(waiting.last_attempt.started_at),
    );
    const filtered = await t.send('GET', `/webhooks/${id}/deliveries?status=delivered&limit=1`);
    expect(filtered.headers.get('link')).toContain('status=delivered');
    expect(filtered.headers.get('link')).toContain('limit=1');
  });

  it('200: what its endpoint said is for unnarrowed full-admin keys alone', async () => {
    const { id, url } = await make({ event_types: ['mail_domain.updated'] }, admin);
    receiver.behave(() => ({ status: 500, body: 'an internal page' }));
    await ofOwn();
    await eventually(
      () => look(t, id, '/deliveries'),
      (found) => expect(found).toHaveLength(1),
    );
    const { event_id } = (await look(t, id, '/deliveries'))[0];
    expect(at(url)).toHaveLength(1);
    for (const path of ['', `/${event_id}/attempts`]) {
      const full = await t.send('GET', `/webhooks/${id}/deliveries${path}`);
      expect(full.text).toContain('an internal page');
      for (const key of [admin, reader]) {
        const reply = await t.send('GET', `/webhooks/${id}/deliveries${path}`, { key });
        expect(reply.status).toBe(200);
        expect(reply.text).not.toContain('an internal page');
      }
    }
  });

  it('200: nor is a narrowed key told which address that was, as in a ping', async () => {
    const port = new URL(receiver.url).port;
    const { id } = await make(
      { event_types: ['mail_domain.updated'], url: `http://localhost:${port}/named` },
      admin,
    );
    const { event_id } = await ofOwn();
    await eventually(
      () => look(t, id, '/deliveries'),
      (found) => expect(found).toHaveLength(1),
    );
    for (const path of ['', `/${event_id}/attempts`]) {
      const reply = await t.send('GET', `/webhooks/${id}/deliveries${path}`, { key: admin });
      expect(reply.text).not.toContain('127.0.0.1');
    }
  });

  it.each([
    'status=lost',
    'type=',
    'since=yesterday',
    'limit=0',
    'limit=1001',
    'cursor=5',
    'cursor=i5',
    'colour=blue',
  ])('400: %s', async (query) => {
    const { id } = await make({ enabled: false });
    const reply = await t.send('GET', `/webhooks/${id}/deliveries?${query}`);
    expect([told(reply), issuesOf(reply)]).toEqual([
      [400, 'validation_failed'],
      [query.split('=')[0]],
    ]);
  });
});

describe('every route of deliveries', () => {
  const event = '019683b4-a5c8-8b61-85a5-e437be5c0fe5';
  const routes = [
    ['GET', '/deliveries'],
    ['GET', `/deliveries/${event}/attempts`],
    ['POST', `/deliveries/${event}/resend`],
    ['GET', '/parked'],
  ] as const;

  it.each(routes)('403: %s %s with a key for the quarantine alone', async (method, path) => {
    const { id } = await make({ enabled: false });
    const reply = await t.send(method, `/webhooks/${id}${path}`, { key: quarantineOnly });
    expect(told(reply)).toEqual([403, 'scope_forbidden']);
  });

  it.each(routes)(
    '404: %s %s of one that is not there, or not for this key',
    async (method, path) => {
      const { id } = await make({ enabled: false });
      const nothing = await t.send('GET', '/webhooks/999999');
      for (const target of [id, 999_999]) {
        const reply = await t.send(method, `/webhooks/${target}${path}`, { key: admin });
        expect([reply.status, reply.text]).toEqual([404, nothing.text]);
      }
    },
  );
});

describe('GET /webhooks/{id}/deliveries/{event_id}/attempts', () => {
  it('200: every try, the first first, with the same bytes in each', async () => {
    const { id, url } = await make();
    const already = receiver.received.length;
    receiver.behave((_, index) => (index - already < 2 ? { status: 500, body: 'no' } : {}));
    const { event_id, position } = await aDomain();
    await eventually(
      () => attemptsOf(id, event_id),
      (found) => expect(found).toHaveLength(1),
    );
    clock.advance(5_000);
    await eventually(
      () => attemptsOf(id, event_id),
      (found) => expect(found).toHaveLength(2),
    );
    clock.advance(300_000);
    await eventually(
      () => attemptsOf(id, event_id),
      (found) => expect(found).toHaveLength(3),
    );
    const found = await attemptsOf(id, event_id);
    expect(found).toMatchObject([
      { attempt: 1, outcome: 'http_error', status: 500, response: 'no', kind: 'live' },
      { attempt: 2, outcome: 'http_error', status: 500, response: 'no' },
      { attempt: 3, outcome: 'delivered', status: 200, response: null, kind: 'retry' },
    ]);
    const times = found.map(({ started_at }: { started_at: string }) => started_at);
    expect(times).toEqual(times.toSorted());
    const digests = found.map(({ body_sha256 }: { body_sha256: string }) => body_sha256);
    expect(at(url).map(({ digest }) => digest)).toEqual(digests);
    expect(new Set(digests).size).toBe(1);
    expect(new Set(at(url).map((one) => one.id))).toEqual(new Set([event_id]));
    expect(await look(t, id, '/deliveries')).toMatchObject([
      { event_id, position, status: 'delivered', attempts: 3, next_attempt_at: null },
    ]);
  });

  it('200: none of one that it has not had yet', async () => {
    const { id } = await make({ enabled: false });
    const { event_id } = await aDomain();
    expect(await attemptsOf(id, event_id)).toEqual([]);
  });

  it('400: an id that is none', async () => {
    const { id } = await make({ enabled: false });
    for (const bad of ['1', 'x', randomUUID().toUpperCase(), `ping_${randomUUID()}`]) {
      const reply = await t.send('GET', `/webhooks/${id}/deliveries/${bad}/attempts`);
      expect([told(reply), issuesOf(reply)]).toEqual([[400, 'validation_failed'], ['event_id']]);
    }
  });

  it('404: an event that is unknown, or is not among its own', async () => {
    const { id } = await make({ enabled: false });
    const { event_id: ofOther } = await ofOwn();
    const { event_id: withheld } = await eventOf('webhook.created', () => make({ enabled: false }));
    const narrow = await make({ enabled: false, event_types: ['*'] }, admin);
    const { event_id: foreign } = await aDomain();
    for (const [target, event] of [
      [id, randomUUID()],
      [id, ofOther],
      [id, withheld],
      [narrow.id, foreign],
    ]) {
      for (const [method, what] of [
        ['GET', 'attempts'],
        ['POST', 'resend'],
      ] as const) {
        const { reply, facts } = await recording(t, () =>
          t.send(method, `/webhooks/${target}/deliveries/${event}/${what}`),
        );
        expect([told(reply), facts]).toEqual([[404, 'not_found'], []]);
      }
    }
  });
});

describe('POST /webhooks/{id}/deliveries/{event_id}/resend', () => {
  it('202: posts a delivered event again, the same id and the same bytes', async () => {
    const { id, url, secret } = await make();
    const { event_id, position } = await aDomain();
    await caughtUp(t, id);
    const { reply, facts } = await resend(id, event_id);
    expect([reply.status, reply.body]).toEqual([
      202,
      { data: { event_id, position }, error: null, message: 'Under way' },
    ]);
    expect(facts).toMatchObject([
      {
        type: 'webhook.resend_requested',
        stream: `webhook_notes-${id}`,
        resource: { type: 'webhook', id: String(id) },
        actor: { type: 'api_key', id: '1' },
        data: { event_id, position },
      },
    ]);
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(2),
    );
    const [first, second] = at(url);
    expect([second?.id, second?.digest, second?.body]).toEqual([
      first?.id,
      first?.digest,
      first?.body,
    ]);
    expect(first?.payload.sequence).toBe(1);
    expect(second?.headers['webhook-replay']).toBeUndefined();
    verifyThen(receiver, secret, second!);
    await caughtUp(t, id);
    const tries = await attemptsOf(id, event_id);
    expect(tries).toMatchObject([
      { kind: 'live' },
      { kind: 'retry', attempt: 1, outcome: 'delivered' },
    ]);
    expect(tries[1].body_sha256).toBe(tries[0].body_sha256);
    expect(tries[1].body_sha256).toBe(first?.digest);
    // Its numbers go on as if nothing had been.
    await aDomain();
    await caughtUp(t, id);
    expect(at(url).at(-1)?.payload.sequence).toBe(2);
  });

  it('202: at once one that waits for its next try, and its tries count from the start', async () => {
    const { id, url } = await make();
    let isBad = true;
    const { event_id } = await (async () => {
      receiver.behave(() => (isBad ? { status: 500 } : {}));
      return aDomain();
    })();
    const tried = (n: number) =>
      eventually(
        () => attemptsOf(id, event_id),
        (found) => expect(found).toHaveLength(n),
      );
    await tried(1);
    clock.advance(5_000);
    await tried(2);
    await eventually(
      () => look(t, id, '/deliveries'),
      ([one]) => expect(one.status).toBe('retrying'),
    );
    isBad = false;
    // Without it, five minutes by the clock would have to pass, which stands still for them.
    await resend(id, event_id);
    await tried(3);
    await caughtUp(t, id);
    expect((await attemptsOf(id, event_id)).at(-1)).toMatchObject({
      attempt: 1,
      outcome: 'delivered',
    });
    expect(at(url)).toHaveLength(3);
  });

  it('202: one that was parked, which is parked no more', async () => {
    const { id, url } = await make();
    receiver.behave(() => ABORT);
    const { event_id } = await aDomain();
    await eventually(
      () => look(t, id, '/parked'),
      (found) => expect(found).toHaveLength(1),
    );
    receiver.behave(() => ({}));
    expect((await resend(id, event_id)).reply.status).toBe(202);
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(2),
    );
    await caughtUp(t, id);
    expect(await look(t, id, '/parked')).toEqual([]);
    expect(await look(t, id, '/deliveries')).toMatchObject([{ event_id, status: 'delivered' }]);
    expect((await look(t, id, '/stats')).parked).toBe(0);
  });

  it('202: parked again when it is refused again, with an event each time', async () => {
    const { id } = await make();
    receiver.behave(() => ABORT);
    const before = await headOf(t);
    const { event_id } = await aDomain();
    const parkings = async () =>
      (await allSince(t, before)).filter(({ type }) => type === 'webhook.event_parked');
    await eventually(parkings, (found) => expect(found).toHaveLength(1));
    clock.advance(1_000);
    await resend(id, event_id);
    await eventually(parkings, (found) => expect(found).toHaveLength(2));
    await eventually(
      () => look(t, id, '/parked'),
      (found) => expect(found).toMatchObject([{ event_id, tries: 1 }]),
    );
    expect(await attemptsOf(id, event_id)).toHaveLength(2);
    // That it was once asked for does not keep it parked when it arrives by a replay.
    receiver.behave(() => ({}));
    const body = { from: 'earliest', reason: 'mended' };
    expect((await t.send('POST', `/webhooks/${id}/replays`, { body })).status).toBe(202);
    await eventually(
      () => look(t, id, '/parked'),
      (found) => expect(found).toEqual([]),
    );
  });

  it('202: one from before it began, which has no number', async () => {
    const { event_id } = await aDomain();
    const { id, url } = await make();
    await resend(id, event_id);
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(1),
    );
    expect(at(url)[0]?.payload).toMatchObject({ id: event_id, sequence: null, epoch: 0 });
  });

  it('202: of one that is held, once it goes on', async () => {
    const { id, url } = await make();
    const { event_id } = await aDomain();
    await caughtUp(t, id);
    await t.send('POST', `/webhooks/${id}/pause`);
    expect((await resend(id, event_id)).reply.status).toBe(202);
    expect(at(url)).toHaveLength(1);
    await t.send('POST', `/webhooks/${id}/resume`);
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(2),
    );
  });

  it('202: once for its Idempotency-Key', async () => {
    const { id, url } = await make();
    const { event_id } = await aDomain();
    await caughtUp(t, id);
    const options = { headers: { 'Idempotency-Key': randomUUID() } };
    const first = await resend(id, event_id, options);
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(2),
    );
    const again = await resend(id, event_id, options);
    expect([again.reply.status, again.reply.body]).toEqual([202, first.reply.body]);
    expect(again.facts).toEqual([]);
    await aDomain();
    await caughtUp(t, id);
    expect(at(url)).toHaveLength(3);
  });

  it('400: with a body that says something', async () => {
    const { id } = await make({ enabled: false });
    const { event_id } = await aDomain();
    const { reply, facts } = await resend(id, event_id, { body: { now: true } });
    expect([told(reply), facts]).toEqual([[400, 'validation_failed'], []]);
  });

  it('403: a key that only reads', async () => {
    const { id } = await make({ enabled: false });
    const { event_id } = await aDomain();
    const { reply, facts } = await resend(id, event_id, { key: reader });
    expect([told(reply), facts]).toEqual([[403, 'scope_forbidden'], []]);
  });
});

describe('GET /webhooks/{id}/parked', () => {
  it('200: what its receiver wants never again, and the log tells of each', async () => {
    const { id, url } = await make({ mail_domain: null });
    receiver.behave(() => ABORT);
    const before = await headOf(t);
    const { event_id, position, stream } = await aDomain();
    await eventually(
      () => look(t, id, '/parked'),
      (found) => expect(found).toHaveLength(1),
    );
    expect(await look(t, id, '/parked', reader)).toEqual([
      {
        event_id,
        position,
        tries: 1,
        last_outcome: 'aborted_by_receiver',
        first_failed_at: expect.stringMatching(/Z$/),
        key: stream,
      },
    ]);
    const parkings = (await allSince(t, before)).filter(
      ({ type }) => type === 'webhook.event_parked',
    );
    expect(parkings).toMatchObject([
      {
        resource: { type: 'webhook', id: String(id) },
        actor: { type: 'system' },
        outcome: 'failure',
        data: { event_id, position, tries: 1, cause: 'aborted_by_receiver' },
      },
    ]);
    expect(await look(t, id, '/deliveries')).toMatchObject([
      {
        event_id,
        status: 'parked',
        attempts: 1,
        next_attempt_at: null,
        last_attempt: { outcome: 'aborted_by_receiver', status: 400 },
      },
    ]);
    expect(await look(t, id, '/stats')).toMatchObject({
      parked: 1,
      retrying: 0,
      breaker: 'closed',
    });
    // It holds up nobody, and is not tried again, however long it is.
    receiver.behave(() => ({}));
    clock.advance(86_400_000);
    await aDomain();
    await caughtUp(t, id);
    expect(at(url).map(({ payload }) => payload.sequence)).toEqual([1, 2]);
  });

  it('200: the earliest first, by pages', async () => {
    const { id } = await make();
    receiver.behave(() => ABORT);
    const events: string[] = [];
    for (let n = 0; n < 5; n += 1) events.push((await aDomain()).event_id);
    await eventually(
      () => look(t, id, '/parked'),
      (found) => expect(found).toHaveLength(5),
    );
    const seen: string[] = [];
    let next: string | undefined = `/webhooks/${id}/parked?limit=2`;
    let pages = 0;
    while (next !== undefined) {
      const reply: Reply = await t.send('GET', next);
      seen.push(...reply.body.data.map((one: { event_id: string }) => one.event_id));
      next = /^<\/api\/v1(.*)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
      expect(reply.headers.get('x-has-more')).toBe(String(next !== undefined));
      pages += 1;
    }
    expect([seen, pages]).toEqual([events, 3]);
  });

  it('outlives a restart', async () => {
    const { id, url } = await make();
    receiver.behave(() => ABORT);
    const { event_id } = await aDomain();
    await eventually(
      () => look(t, id, '/parked'),
      (found) => expect(found).toHaveLength(1),
    );
    receiver.behave(() => ({}));
    t = await t.restart();
    expect(await look(t, id, '/parked')).toMatchObject([{ event_id }]);
    expect((await look(t, id, '/stats')).parked).toBe(1);
    await t.createDomain('after-restart.example');
    await caughtUp(t, id);
    expect(at(url).map(({ payload }) => payload.sequence)).toEqual([1, 2]);
  });

  it.each(['limit=0', 'cursor=x', 'status=parked'])('400: %s', async (query) => {
    const { id } = await make({ enabled: false });
    const reply = await t.send('GET', `/webhooks/${id}/parked?${query}`);
    expect([told(reply), issuesOf(reply)]).toEqual([
      [400, 'validation_failed'],
      [query.split('=')[0]],
    ]);
  });
});
