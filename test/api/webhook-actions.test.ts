import { createServer } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { allSince, headOf, recording } from '../support/recorded.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import { caughtUp, eventually, issuesOf, look, subscribe, told } from '../support/webhooks.ts';

let t: TestGateway;
let receiver: Receiver;
/** Is told of every mail domain that is made: what it has, others would have had. */
let witness: Receiver;
let own: { id: number; name: string };
let admin: string;
let narrowed: string;
let reader: string;
let quarantineOnly: string;
beforeAll(async () => {
  t = await startTestGateway({ config: LOOPBACK, webhooks: { random: () => 0, timeoutMs: 400 } });
  receiver = await startReceiver();
  witness = await startReceiver();
  await subscribe(t, { url: witness.url });
  own = await t.createDomain('own.example');
  admin = (await t.createKey({ scope: 'domain-admin', mail_domain: own.id })).key;
  narrowed = (await t.createKey({ scope: 'full-admin', mail_domain: own.id })).key;
  reader = (await t.createKey()).key;
  quarantineOnly = (await t.createKey({ scope: 'quarantine-only' })).key;
});
afterAll(async () => {
  await t.close();
  await receiver.close();
  await witness.close();
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
const aUrl = () => {
  places += 1;
  return `${receiver.url}/${places}`;
};
const at = (url: string) => receiver.received.filter(({ path }) => url.endsWith(path));
/** One of this test alone: it is deleted behind it. */
async function make(fields: object = {}, key?: string) {
  const made = await subscribe(t, { url: aUrl(), ...fields }, key);
  living.push(made.id);
  return made as typeof made & { url: string };
}
const act = (
  id: number,
  action: string,
  { key, etag, body }: { key?: string; etag?: string; body?: object } = {},
) =>
  recording(t, () =>
    t.send('POST', `/webhooks/${id}/${action}`, {
      ...(key === undefined ? {} : { key }),
      ...(body === undefined ? {} : { body }),
      ...(etag === undefined ? {} : { headers: { 'If-Match': etag } }),
    }),
  );
async function tickAndWait(times = 1): Promise<void> {
  const before = witness.received.length;
  for (let n = 0; n < times; n += 1) await newDomain();
  await witness.until(before + times);
}
const sequencesOf = (url: string) =>
  at(url)
    .map(({ payload }) => payload.sequence)
    .sort((a, b) => a - b);
/** One whose endpoint has said that it is gone, with the one event that it did not take. */
async function disabled(fields: object = {}) {
  receiver.behave(() => ({ status: 410 }));
  const made = await make(fields);
  await tickAndWait();
  await eventually(
    () => look(t, made.id),
    (one) => expect(one.status).toBe('disabled'),
  );
  receiver.behave(() => ({}));
  return made;
}

describe.each([
  ['pause', 'Paused', 'webhook.paused'],
  ['resume', 'Resumed', 'webhook.resumed'],
  ['enable', 'Enabled', 'webhook.enabled'],
] as const)('POST /webhooks/{id}/%s', (action, message, type) => {
  /** In a state that the action changes. */
  const ready = (fields: object = {}) =>
    action === 'enable' ? disabled(fields) : make({ enabled: action === 'pause', ...fields });

  it('200: with an event, and with none when it is so already', async () => {
    const { id } = await ready({ mail_domain: null });
    const { reply, facts } = await act(id, action);
    expect([reply.status, reply.body.error, reply.body.message]).toEqual([200, null, message]);
    expect(reply.body.data).toMatchObject({
      id,
      status: action === 'pause' ? 'paused' : 'active',
      enabled: action !== 'pause',
      disabled_cause: null,
    });
    expect(reply.body.data).not.toHaveProperty('secret');
    const own = facts.filter(({ stream }) => stream === `webhook-${id}`);
    expect(own).toMatchObject([
      {
        type,
        actor: { type: 'api_key', id: '1' },
        data: action === 'enable' ? { resume: 'cursor' } : {},
      },
    ]);
    expect(reply.headers.get('etag')).toBe(`"${own[0]?.revision}"`);
    const again = await act(id, action);
    expect([again.reply.status, again.reply.body.data]).toEqual([200, reply.body.data]);
    expect(again.facts.filter(({ stream }) => stream === `webhook-${id}`)).toEqual([]);
  });

  it('400: a member that it does not have', async () => {
    const { id } = await make({ enabled: false });
    const { reply, facts } = await act(id, action, { body: { now: true } });
    expect([told(reply), issuesOf(reply)]).toEqual([[400, 'validation_failed'], ['now']]);
    expect(facts).toEqual([]);
  });

  it('403: a key that only reads, or acts on the quarantine alone', async () => {
    const { id } = await make({ enabled: false });
    for (const key of [reader, quarantineOnly]) {
      const { reply, facts } = await act(id, action, { key });
      expect([told(reply), facts]).toEqual([[403, 'scope_forbidden'], []]);
    }
  });

  it('404: one that is not there, or not for this key', async () => {
    const nothing = await t.send('GET', '/webhooks/999999');
    const { id } = await make({ enabled: false });
    for (const key of [admin, narrowed]) {
      for (const target of [id, 999_999]) {
        const { reply, facts } = await act(target, action, { key });
        expect([reply.status, reply.text, facts]).toEqual([404, nothing.text, []]);
      }
    }
  });

  it('409: from a state that it does not lead out of', async () => {
    const { id } = action === 'enable' ? await make({ enabled: false }) : await disabled();
    const { reply, facts } = await act(id, action);
    expect(told(reply)).toEqual([409, 'state_conflict']);
    expect(reply.body.message).toContain(action === 'enable' ? 'resume it' : 'disabled');
    expect(facts.filter(({ type: found }) => found === type)).toEqual([]);
  });

  it('412: changed since', async () => {
    const { id } = await ready();
    const etag = (await t.send('GET', `/webhooks/${id}`)).headers.get('etag') ?? '';
    const stale = await act(id, action, { etag: '"77"' });
    expect([told(stale.reply), stale.facts]).toEqual([[412, 'stale'], []]);
    expect((await act(id, action, { etag })).reply.status).toBe(200);
  });
});

describe('a pause', () => {
  it('holds everything from its answer on, and a resume delivers it without a gap', async () => {
    const { id, url } = await make();
    await tickAndWait(3);
    await caughtUp(t, id);
    expect((await act(id, 'pause')).reply.status).toBe(200);
    await tickAndWait(30);
    expect(at(url)).toHaveLength(3);
    expect((await look(t, id, '/stats')).oldest_waiting_at).not.toBeNull();
    await act(id, 'resume');
    await caughtUp(t, id);
    expect(sequencesOf(url)).toEqual(Array.from({ length: 33 }, (_, n) => n + 1));
    expect(new Set(at(url).map(({ payload }) => payload.epoch))).toEqual(new Set([1]));
  });

  it('holds retries, too', async () => {
    receiver.behave(() => ({ status: 500 }));
    const { id, url } = await make();
    await tickAndWait();
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(1),
    );
    await act(id, 'pause');
    receiver.behave(() => ({}));
    await tickAndWait();
    expect(at(url)).toHaveLength(1);
    await t.send('POST', `/webhooks/${id}/deliveries/${at(url)[0]?.id}/resend`);
    await tickAndWait();
    expect(at(url)).toHaveLength(1);
    await act(id, 'resume');
    await eventually(
      () => sequencesOf(url),
      (found) => expect(found).toEqual(expect.arrayContaining([1, 2, 3])),
    );
  });

  it('outlives a restart', async () => {
    const { id, url } = await make();
    await act(id, 'pause');
    await tickAndWait();
    t = await t.restart();
    expect(await look(t, id)).toMatchObject({ status: 'paused' });
    expect(at(url)).toEqual([]);
    await act(id, 'resume');
    await caughtUp(t, id);
    expect(sequencesOf(url)).toEqual([1]);
  });
});

describe('one that was disabled', () => {
  it('says why, in the log, too, and keeps what it has not had', async () => {
    const before = await headOf(t);
    const { id, url } = await disabled();
    expect(await look(t, id)).toMatchObject({
      status: 'disabled',
      enabled: false,
      disabled_cause: 'gone',
    });
    const facts = (await allSince(t, before)).filter(({ type }) => type === 'webhook.disabled');
    expect(facts).toMatchObject([
      { resource: { type: 'webhook', id: String(id) }, data: { cause: 'gone' } },
    ]);
    expect(facts[0]?.actor.type).toBe('system');
    await newDomain();
    await act(id, 'enable', { body: { resume: 'cursor' } });
    await caughtUp(t, id);
    expect([...new Set(sequencesOf(url))]).toEqual([1, 2]);
    // The first again: the same bytes as those that were refused.
    const first = at(url).filter(({ payload }) => payload.sequence === 1);
    expect(first.length).toBeGreaterThan(1);
    expect(new Set(first.map(({ digest }) => digest)).size).toBe(1);
  });

  it('enabled from now on leaves out what it has not had, in a new epoch', async () => {
    const { id, url } = await disabled();
    const before = at(url).length;
    const { reply } = await act(id, 'enable', { body: { resume: 'now' } });
    expect(reply.body.data).toMatchObject({ status: 'active', epoch: 2 });
    await tickAndWait(2);
    await caughtUp(t, id);
    expect(
      at(url)
        .slice(before)
        .map(({ payload }) => [payload.epoch, payload.sequence])
        .sort(),
    ).toEqual([
      [2, 1],
      [2, 2],
    ]);
  });

  it('by its receiver’s wish has had what it answered', async () => {
    receiver.behave(() => ({ headers: { 'webhook-delivery': 'disable' } }));
    const { id, url } = await make();
    await tickAndWait();
    await eventually(
      () => look(t, id),
      (one) => expect([one.status, one.disabled_cause]).toEqual(['disabled', 'receiver']),
    );
    await tickAndWait();
    receiver.behave(() => ({}));
    await act(id, 'enable');
    await caughtUp(t, id);
    expect(sequencesOf(url)).toEqual([1, 2]);
  });

  it('400: is enabled from nowhere else', async () => {
    const { id } = await make({ enabled: false });
    for (const resume of ['earliest', null, 1]) {
      const { reply } = await act(id, 'enable', { body: { resume } });
      expect([told(reply), issuesOf(reply)]).toEqual([[400, 'validation_failed'], ['resume']]);
    }
  });
});

/** A port at which nobody listens. */
async function deadPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

describe('POST /webhooks/{id}/ping', () => {
  it('200: posts a signed message that is no event, and says how it fared', async () => {
    const { id, url, secret } = await make();
    const { reply, facts } = await act(id, 'ping');
    expect(reply.body).toMatchObject({ error: null, message: 'OK' });
    expect(reply.body.data).toEqual({
      delivered: true,
      outcome: 'delivered',
      status: 200,
      ms: expect.any(Number),
      addresses: ['127.0.0.1'],
      connected_to: '127.0.0.1',
      tls: null,
      error: null,
      response: null,
    });
    const [ping] = at(url);
    receiver.verify(secret, ping!);
    expect(ping?.payload).toEqual({
      type: 'webhook.ping',
      timestamp: expect.stringMatching(/^\d{4}-.*Z$/),
      id: ping?.id,
      data: { webhook_id: String(id) },
    });
    expect(facts).toMatchObject([
      {
        type: 'webhook.pinged',
        stream: `webhook_notes-${id}`,
        resource: { type: 'webhook', id: String(id) },
        actor: { type: 'api_key', id: '1' },
        data: { outcome: 'delivered', status: 200 },
      },
    ]);
    expect(await look(t, id, '/deliveries')).toEqual([]);
    expect((await look(t, id, '/stats')).last_day).toEqual([]);
  });

  it('200: of one that is paused, or disabled, too', async () => {
    for (const { id, url } of [await make({ enabled: false }), await disabled()]) {
      const before = at(url).length;
      const { reply } = await act(id, 'ping');
      expect(reply.body.data).toMatchObject({ delivered: true, status: 200 });
      expect(at(url)).toHaveLength(before + 1);
    }
  });

  it('200: a refusal with its beginning, without keys that stand in it', async () => {
    const { id } = await make({ enabled: false });
    receiver.behave(() => ({ status: 500, body: `no\r\nsuch nmg_${'a'.repeat(64)} table` }));
    const { reply, facts } = await act(id, 'ping');
    expect(reply.body.data).toMatchObject({
      delivered: false,
      outcome: 'http_error',
      status: 500,
      connected_to: '127.0.0.1',
      error: null,
      response: 'no such nmg_[redacted] table',
    });
    expect(facts[0]).toMatchObject({
      type: 'webhook.pinged',
      data: { outcome: 'http_error', status: 500 },
    });
  });

  it('200: a redirect, which is not followed', async () => {
    const { id, url } = await make({ enabled: false });
    const elsewhere = aUrl();
    receiver.behave(() => ({ status: 307, headers: { location: elsewhere } }));
    const { reply } = await act(id, 'ping');
    expect(reply.body.data).toMatchObject({ delivered: false, outcome: 'redirect', status: 307 });
    expect([at(url).length, at(elsewhere).length]).toEqual([1, 0]);
  });

  it('200: a refused connection', async () => {
    const url = `http://127.0.0.1:${await deadPort()}/`;
    const { id } = await make({ enabled: false, url });
    const { reply, facts } = await act(id, 'ping');
    expect(reply.body.data).toMatchObject({
      delivered: false,
      outcome: 'connect',
      status: null,
      addresses: ['127.0.0.1'],
      connected_to: null,
      tls: null,
      error: expect.stringContaining('ECONNREFUSED'),
      response: null,
    });
    expect(facts[0]?.data).toEqual({ outcome: 'connect', status: null });
  });

  it('200: a name that nobody knows', async () => {
    const { id } = await make({ enabled: false, url: 'http://nobody.invalid:8080/' });
    const { reply } = await act(id, 'ping');
    expect(reply.body.data).toMatchObject({ delivered: false, outcome: 'dns', addresses: [] });
  });

  it('200: no answer in time', async () => {
    const { id } = await make({ enabled: false });
    receiver.behave(() => ({ silent: true }));
    const { reply } = await act(id, 'ping');
    expect(reply.body.data).toMatchObject({
      delivered: false,
      outcome: 'timeout',
      status: null,
      connected_to: '127.0.0.1',
      error: 'ETIMEDOUT',
    });
  });

  it('200: a server without TLS where TLS is wanted', async () => {
    const url = `https://127.0.0.1:${receiver.port}/`;
    const { id } = await make({ enabled: false, url });
    const { reply } = await act(id, 'ping');
    expect(reply.body.data).toMatchObject({ delivered: false, outcome: 'tls', tls: null });
  });

  it('200: to a narrowed key neither addresses nor what was answered are told', async () => {
    const url = `http://localhost:${await deadPort()}/`;
    for (const key of [admin, narrowed]) {
      const refusing = await make({ enabled: false }, key);
      receiver.behave(() => ({ status: 500, body: 'internal page' }));
      const { reply } = await act(refusing.id, 'ping', { key });
      expect(reply.body.data).toMatchObject({ delivered: false, outcome: 'http_error' });
      expect(reply.body.data).toMatchObject({ addresses: [], connected_to: null, response: null });
      expect(reply.text).not.toMatch(/internal page|127\.0\.0\.1/);
      const dead = await make({ enabled: false, url }, key);
      const failed = await act(dead.id, 'ping', { key });
      expect(failed.reply.body.data).toMatchObject({ outcome: 'connect', addresses: [] });
      expect(failed.reply.text).not.toContain('127.0.0.1');
    }
  });

  it('403: a key that only reads, or acts on the quarantine alone: nothing is posted', async () => {
    const { id, url } = await make({ enabled: false });
    for (const key of [reader, quarantineOnly]) {
      const { reply, facts } = await act(id, 'ping', { key });
      expect([told(reply), facts]).toEqual([[403, 'scope_forbidden'], []]);
    }
    expect(at(url)).toEqual([]);
  });

  it('404: one that is not there, or not for this key: nothing is posted', async () => {
    const { id, url } = await make({ enabled: false });
    for (const target of [id, 999_999]) {
      const { reply, facts } = await act(target, 'ping', { key: admin });
      expect([told(reply), facts]).toEqual([[404, 'not_found'], []]);
    }
    expect(at(url)).toEqual([]);
  });
});

describe('GET /webhooks/{id}/stats', () => {
  it('200: of one that has everything', async () => {
    const { id } = await make();
    await tickAndWait(3);
    await caughtUp(t, id);
    const found = await look(t, id, '/stats', reader);
    expect(found).toMatchObject({
      epoch: 1,
      sequence: 3,
      oldest_waiting_at: null,
      retrying: 0,
      parked: 0,
      in_flight: 0,
      breaker: 'closed',
      quiet_until: null,
      last_day: [{ outcome: 'delivered', attempts: 3 }],
    });
    const { p50_ms, p99_ms } = found.last_day[0];
    expect(p50_ms).toBeLessThanOrEqual(p99_ms);
    expect(BigInt(found.position) <= BigInt(found.head)).toBe(true);
    expect(BigInt(found.head)).toBe(await headOf(t));
  });

  it('200: of one that is behind, since when', async () => {
    const { id } = await make({ enabled: false });
    await newDomain();
    const [waiting] = (await allSince(t, 0n))
      .filter(({ type }) => type === 'mail_domain.created')
      .slice(-1);
    await newDomain();
    expect(await look(t, id, '/stats')).toMatchObject({
      oldest_waiting_at: waiting?.recorded_at,
      sequence: 0,
    });
  });

  it('200: of one whose event types were changed, only what it will have is waiting', async () => {
    const { id } = await make({ enabled: false });
    await t.send('PATCH', `/webhooks/${id}`, { body: { event_types: ['mail_domain.updated'] } });
    const { id: domain } = await newDomain();
    expect((await look(t, id, '/stats')).oldest_waiting_at).toBeNull();
    await t.send('PATCH', `/domains/${domain}`, { body: { quarantine_threshold: 3 } });
    const [updated] = (await allSince(t, 0n))
      .filter(({ type }) => type === 'mail_domain.updated')
      .slice(-1);
    expect((await look(t, id, '/stats')).oldest_waiting_at).toBe(updated?.recorded_at);
  });

  it('200: quiet for as long as its receiver has asked', async () => {
    receiver.behave(() => ({ status: 429, headers: { 'retry-after': '3600' } }));
    const { id } = await make();
    const before = Date.now();
    await tickAndWait();
    await eventually(
      () => look(t, id, '/stats'),
      ({ quiet_until }) => expect(quiet_until).not.toBeNull(),
    );
    const { quiet_until, oldest_waiting_at } = await look(t, id, '/stats');
    expect(Date.parse(quiet_until) - before).toBeGreaterThanOrEqual(3_600_000);
    expect(oldest_waiting_at).not.toBeNull();
  });

  it('403: a key for the quarantine alone', async () => {
    const { id } = await make({ enabled: false });
    expect(told(await t.send('GET', `/webhooks/${id}/stats`, { key: quarantineOnly }))).toEqual([
      403,
      'scope_forbidden',
    ]);
  });

  it('404: one that is not there, or not for this key', async () => {
    const { id } = await make({ enabled: false });
    for (const target of [id, 999_999]) {
      const reply = await t.send('GET', `/webhooks/${target}/stats`, { key: admin });
      expect(told(reply)).toEqual([404, 'not_found']);
    }
  });
});
