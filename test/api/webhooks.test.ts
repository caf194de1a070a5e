import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isWebhookType, WEBHOOK_TYPES } from '../../src/projections/webhook-catalogue.ts';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { allSince, headOf, recording, typesOf } from '../support/recorded.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import { caughtUp, eventually, issuesOf, look, subscribe, told } from '../support/webhooks.ts';

let t: TestGateway;
let receiver: Receiver;
let own: { id: number; name: string };
let foreign: { id: number; name: string };
/** A domain-admin of `own`. */
let admin: string;
/** A full-admin that is narrowed to `own`. */
let narrowed: string;
let reader: string;
let quarantineOnly: string;
beforeAll(async () => {
  t = await startTestGateway({ config: LOOPBACK });
  receiver = await startReceiver();
  own = await t.createDomain('own.example');
  foreign = await t.createDomain('foreign.example');
  admin = (await t.createKey({ scope: 'domain-admin', mail_domain: own.id })).key;
  narrowed = (await t.createKey({ scope: 'full-admin', mail_domain: own.id })).key;
  reader = (await t.createKey()).key;
  quarantineOnly = (await t.createKey({ scope: 'quarantine-only' })).key;
});
afterAll(async () => {
  await t.close();
  await receiver.close();
});

/** A place at the receiver that nobody else posts to. */
let places = 0;
const aUrl = () => {
  places += 1;
  return `${receiver.url}/${places}`;
};
const at = (url: string) => receiver.received.filter(({ path }) => url.endsWith(path));
const post = (body: object, key?: string, headers: Record<string, string> = {}) =>
  recording(t, () =>
    t.send('POST', '/webhooks', { body, headers, ...(key === undefined ? {} : { key }) }),
  );
const body = (fields: object = {}) => ({
  url: aUrl(),
  event_types: ['mail_domain.created'],
  ...fields,
});
/** One that sends nothing, for tests of what is answered. */
const held = (fields: object = {}, key?: string) =>
  subscribe(t, body({ enabled: false, ...fields }), key);

describe('POST /webhooks', () => {
  it('201: answers with the secret, and records where and what for outside the line', async () => {
    const wanted = body({ description: 'ticket system', event_types: ['api_key.created'] });
    const { reply, facts } = await post(wanted, undefined, { 'X-Request-Id': 'req-hook' });
    expect(reply.status).toBe(201);
    expect(reply.body).toMatchObject({ error: null, message: 'Created' });
    const { data } = reply.body;
    expect(data).toEqual({
      id: expect.any(Number),
      url: wanted.url,
      description: 'ticket system',
      event_types: ['api_key.created'],
      mail_domain: null,
      ordering: 'none',
      enabled: true,
      status: 'active',
      disabled_cause: null,
      epoch: 1,
      secrets: [{ fingerprint: expect.stringMatching(/^[0-9a-f]{8}$/), until: null }],
      failing_since: null,
      created_at: expect.stringMatching(/Z$/),
      updated_at: data.created_at,
      secret: expect.stringMatching(/^whsec_[A-Za-z0-9+/]{43}=$/),
    });
    expect(reply.headers.get('location')).toBe(`/api/v1/webhooks/${data.id}`);
    expect(reply.headers.get('etag')).toBe('"0"');
    expect(facts).toMatchObject([
      {
        type: 'webhook.created',
        stream: `webhook-${data.id}`,
        revision: '0',
        resource: { type: 'webhook', id: String(data.id) },
        actor: { type: 'api_key', id: '1' },
        request_id: 'req-hook',
        outcome: 'success',
        mail_domains: [],
        data: {
          event_types: ['api_key.created'],
          ordering: 'none',
          mail_domain: null,
          start_after: null,
          enabled: true,
          secret: data.secrets[0].fingerprint,
        },
        disclosed: { url: wanted.url, description: 'ticket system' },
      },
    ]);
    const { disclosed: _, ...line } = facts[0]!;
    expect(JSON.stringify(line)).not.toMatch(/127\.0\.0\.1|hook\/|ticket|whsec/);
  });

  it('201: held, ordered, and for everything', async () => {
    const { reply } = await post(body({ enabled: false, ordering: 'key', event_types: ['*'] }));
    expect(reply.body.data).toMatchObject({
      status: 'paused',
      enabled: false,
      ordering: 'key',
      event_types: ['*'],
      description: null,
    });
  });

  it('201: every type of the catalogue by its name', async () => {
    const { reply } = await post(body({ enabled: false, event_types: WEBHOOK_TYPES }));
    expect(reply.body.data.event_types).toEqual(WEBHOOK_TYPES);
  });

  it('201: for one mail domain by name in any form or by id', async () => {
    for (const mail_domain of [own.name, 'OWN.example.', own.id]) {
      const { reply, facts } = await post(body({ enabled: false, mail_domain }));
      expect(reply.body.data.mail_domain).toBe(own.name);
      expect(facts).toMatchObject([
        { mail_domains: [String(own.id)], data: { mail_domain: String(own.id) } },
      ]);
    }
  });

  it('201: a narrowed key’s is bound to its mail domain, asked for or not', async () => {
    for (const key of [admin, narrowed]) {
      for (const fields of [{}, { mail_domain: own.name }, { mail_domain: null }]) {
        const { reply, facts } = await post(body({ enabled: false, ...fields }), key);
        expect([reply.status, reply.body.data.mail_domain]).toEqual([201, own.name]);
        expect(facts[0]?.mail_domains).toEqual([String(own.id)]);
      }
    }
  });

  it('201: the same again for its Idempotency-Key, without the secret and without an event', async () => {
    const headers = { 'Idempotency-Key': randomUUID() };
    const wanted = body({ enabled: false });
    const first = await post(wanted, undefined, headers);
    const again = await post(wanted, undefined, headers);
    const { secret, ...rest } = first.reply.body.data;
    expect(secret).toMatch(/^whsec_/);
    expect(again.reply.status).toBe(201);
    expect(again.reply.body).toEqual({ ...first.reply.body, data: rest });
    expect(again.reply.headers.get('idempotency-replayed')).toBe('true');
    expect(again.facts).toEqual([]);
    const other = await post(body({ enabled: false }), undefined, headers);
    expect(told(other.reply)).toEqual([422, 'idempotency_mismatch']);
  });

  it.each([
    ['no url', { url: undefined }, 'url'],
    ['a url that is no text', { url: 7 }, 'url'],
    ['an empty url', { url: '' }, 'url'],
    ['a url with a control character', { url: 'https://a.example/\t' }, 'url'],
    ['a url with a space behind', { url: 'https://a.example/ ' }, 'url'],
    ['a url with an API key in it', { url: `https://a.example/?k=nmg_${'a'.repeat(64)}` }, 'url'],
    ['a url that is too long', { url: `https://a.example/${'a'.repeat(2_031)}` }, 'url'],
    ['no event types', { event_types: undefined }, 'event_types'],
    ['none of them', { event_types: [] }, 'event_types'],
    ['an event type alone', { event_types: 'mail_domain.created' }, 'event_types'],
    ['an unknown event type', { event_types: ['mail_domain.burnt'] }, 'event_types.0'],
    ['an event type with a star', { event_types: ['mail_domain.*'] }, 'event_types.0'],
    ['a star among others', { event_types: ['*', 'mail_domain.created'] }, 'event_types'],
    ['two stars', { event_types: ['*', '*'] }, 'event_types'],
    [
      'one event type twice',
      { event_types: ['mail_domain.created', 'mail_domain.created'] },
      'event_types',
    ],
    ['a description with a key', { description: `nmg_${'b'.repeat(64)}` }, 'description'],
    ['a description that is too long', { description: 'x'.repeat(1_001) }, 'description'],
    ['an empty description', { description: '' }, 'description'],
    ['an unknown ordering', { ordering: 'random' }, 'ordering'],
    ['an unknown start', { start: 'tomorrow' }, 'start'],
    ['a start at two places', { start: { position: '1', at: '2026-01-01T00:00:00Z' } }, 'start.at'],
    ['a start at a number', { start: { position: 1 } }, 'start.position'],
    ['a start before the log', { start: { position: '-1' } }, 'start.position'],
    ['a start at no time', { start: { at: 'yesterday' } }, 'start.at'],
    ['enabled as text', { enabled: 'yes' }, 'enabled'],
    ['a mail domain of another kind', { mail_domain: {} }, 'mail_domain'],
    ['an unknown member', { colour: 'blue' }, 'colour'],
    ['a member of the answer', { status: 'active' }, 'status'],
    ['an id', { id: 1 }, 'id'],
  ])('400: %s', async (_, fields, path) => {
    const { reply, facts } = await post(body({ enabled: false, ...fields }));
    expect(told(reply)).toEqual([400, 'validation_failed']);
    expect(issuesOf(reply)).toContain(path);
    expect(facts).toEqual([]);
  });

  it.each(
    ['webhook.created', 'webhook.ping', 'audit.read', 'audit.exported', 'session.started'].map(
      (type) => [type],
    ),
  )('400: %s, which is for nobody', async (type) => {
    const { reply } = await post(body({ enabled: false, event_types: [type] }));
    expect([reply.status, issuesOf(reply)]).toEqual([400, ['event_types.0']]);
  });

  it('403: a key that only reads, or acts on the quarantine alone', async () => {
    for (const key of [reader, quarantineOnly]) {
      const { reply, facts } = await post(body(), key);
      expect(told(reply)).toEqual([403, 'scope_forbidden']);
      expect(reply.body.data).toBeNull();
      expect(reply.headers.get('x-accepted-scopes')).toBe('domain-admin, full-admin');
      expect(facts).toEqual([]);
    }
  });

  it('422: a mail domain that is unknown, or unknown to a narrowed key', async () => {
    const unknown = await post(body({ mail_domain: 'nowhere.example' }));
    expect(told(unknown.reply)).toEqual([422, 'unknown_mail_domain']);
    for (const mail_domain of [999_999, 'no domain']) {
      expect((await post(body({ mail_domain }))).reply.text).toBe(unknown.reply.text);
    }
    for (const key of [admin, narrowed]) {
      for (const mail_domain of [foreign.name, foreign.id, 'nowhere.example']) {
        const { reply, facts } = await post(body({ mail_domain }), key);
        expect([reply.status, reply.text]).toEqual([422, unknown.reply.text]);
        expect(facts).toEqual([]);
      }
    }
  });

  it('409: one more than there may be', async () => {
    await t.database.pool.query(
      `insert into webhooks (id, revision, status, url, ordering, epochs, secrets, created_at, updated_at)
       select 1000000 + n, 0, 'paused', 'x', 'none',
         '[{"epoch": 1, "after": "0", "event_types": ["*"], "skips": false}]', '[]', now(), now()
       from generate_series(1, 1000) n`,
    );
    const { reply, facts } = await post(body({ enabled: false }));
    await t.database.pool.query('delete from webhooks where id > 1000000');
    expect(told(reply)).toEqual([409, 'state_conflict']);
    expect(facts).toEqual([]);
  });
});

describe('where a subscription starts', () => {
  /** What stands in the log for a subscriber to everything. */
  const deliverable = async (after = 0n) =>
    (await allSince(t, after)).filter(({ type }) => isWebhookType(type));
  const numbersOf = (url: string) => at(url).map(({ payload }) => payload.sequence);
  const positionsOf = (url: string) => at(url).map(({ payload }) => payload.log.position);
  const ascending = (texts: readonly string[]) => [...texts].sort((a, b) => Number(a) - Number(b));

  it('now: behind its own creation, with sequence 1', async () => {
    await t.createDomain();
    const url = aUrl();
    const { id } = await subscribe(t, { url });
    const { id: domain } = await t.createDomain();
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(1),
    );
    await caughtUp(t, id);
    expect(at(url).map(({ payload }) => [payload.sequence, payload.data.resource.id])).toEqual([
      [1, String(domain)],
    ]);
    await t.send('DELETE', `/webhooks/${id}`);
  });

  it('earliest: with all that the log holds and a subscriber may have, numbered without a gap', async () => {
    const wanted = await deliverable();
    const url = aUrl();
    const { id } = await subscribe(t, { url, event_types: ['*'], start: 'earliest' });
    await caughtUp(t, id);
    await t.send('POST', `/webhooks/${id}/pause`);
    const positions = ascending(positionsOf(url));
    expect(positions.slice(0, wanted.length)).toEqual(wanted.map(({ position }) => position));
    expect(ascending(numbersOf(url).map(String)).map(Number)).toEqual(
      positions.map((_, n) => n + 1),
    );
    const { received } = receiver;
    expect(received.filter(({ payload }) => /^(webhook|audit)\./.test(payload.type))).toEqual([]);
    await t.send('DELETE', `/webhooks/${id}`);
  });

  it('at a position: with the event that stands there', async () => {
    const found = (await allSince(t, 0n)).filter(({ type }) => type === 'mail_domain.created');
    const from = found.at(-2)!;
    const url = aUrl();
    const start = { position: from.position };
    const { id } = await subscribe(t, { url, start });
    await caughtUp(t, id);
    expect(ascending(positionsOf(url))).toEqual(found.slice(-2).map(({ position }) => position));
    await t.send('DELETE', `/webhooks/${id}`);
  });

  it('at a time: with the first that was recorded at or behind it', async () => {
    const found = (await allSince(t, 0n)).filter(({ type }) => type === 'mail_domain.created');
    for (const n of [found.length - 2, 0]) {
      const url = aUrl();
      const start = { at: found[n]!.recorded_at };
      const { id } = await subscribe(t, { url, start });
      await caughtUp(t, id);
      expect(ascending(positionsOf(url))).toEqual(found.slice(n).map(({ position }) => position));
      await t.send('DELETE', `/webhooks/${id}`);
    }
  });

  it('at the first position, and at 0, is from the beginning', async () => {
    for (const position of ['0', '1']) {
      const { reply, facts } = await post(body({ enabled: false, start: { position } }));
      expect(reply.status).toBe(201);
      expect(facts[0]?.data['start_after']).toBe('0');
    }
  });

  it('just behind the end of the log is taken, further is 400', async () => {
    const next = (await headOf(t)) + 1n;
    const taken = await post(body({ enabled: false, start: { position: String(next) } }));
    expect(taken.reply.status).toBe(201);
    expect(taken.facts[0]?.data['start_after']).toBe(String(next - 1n));
    for (const position of [String((await headOf(t)) + 2n), '9223372036854775807']) {
      const { reply, facts } = await post(body({ start: { position } }));
      expect([reply.status, issuesOf(reply)]).toEqual([400, ['start']]);
      expect(facts).toEqual([]);
    }
  });

  it('at a time that is yet to come is beyond the log, too: 400', async () => {
    // Taken for now, it would be told of what is recorded before that time.
    const { reply, facts } = await post(body({ start: { at: '2999-01-01T00:00:00Z' } }));
    expect([reply.status, facts]).toEqual([400, []]);
  });

  it('of a narrowed one, at the beginning, tells it of its mail domain alone', async () => {
    const url = aUrl();
    const { id } = await subscribe(t, { url, event_types: ['*'], start: 'earliest' }, admin);
    await caughtUp(t, id);
    const wanted = (await deliverable()).filter(({ mail_domains }) =>
      mail_domains.includes(String(own.id)),
    );
    expect(wanted.length).toBeGreaterThan(2);
    expect(ascending(positionsOf(url))).toEqual(wanted.map(({ position }) => position));
    for (const { payload } of at(url)) expect(payload.data.mail_domains).toEqual([String(own.id)]);
    await t.send('DELETE', `/webhooks/${id}`);
  });
});

describe('GET /webhooks', () => {
  const idsOf = (reply: Reply): number[] => reply.body.data.map(({ id }: { id: number }) => id);

  it('200: newest first, by cursor, to the end; and nowhere a secret', async () => {
    const made: number[] = [];
    for (let n = 0; n < 5; n += 1) made.unshift((await held()).id);
    const seen: number[] = [];
    let next: string | undefined = '/webhooks?limit=2';
    while (next !== undefined) {
      const reply: Reply = await t.send('GET', next, { key: reader });
      expect(reply.body).toMatchObject({ error: null, message: 'OK' });
      expect(reply.text).not.toContain('whsec_');
      for (const one of reply.body.data) expect(Object.keys(one)).not.toContain('secret');
      seen.push(...idsOf(reply));
      next = /^<\/api\/v1(.*)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
      expect(reply.headers.get('x-has-more')).toBe(String(next !== undefined));
    }
    expect(seen.slice(0, 5)).toEqual(made);
    expect(seen).toEqual([...new Set(seen)].sort((a, b) => b - a));
    expect(seen).toEqual(idsOf(await t.send('GET', '/webhooks?limit=1000')));
  });

  it('200: a narrowed key sees those of its mail domain alone', async () => {
    const all = await held();
    const others = await held({ mail_domain: foreign.id });
    const mine = [await held({}, admin), await held({ mail_domain: own.id })];
    const readsOwn = await t.createKey({ mail_domain: own.id });
    for (const key of [admin, narrowed, readsOwn.key]) {
      const ids = idsOf(await t.send('GET', '/webhooks?limit=1000', { key }));
      expect(ids.slice(0, 2)).toEqual(mine.map(({ id }) => id).reverse());
      expect(ids).not.toContain(all.id);
      expect(ids).not.toContain(others.id);
    }
  });

  it('403: a key for the quarantine alone', async () => {
    const reply = await t.send('GET', '/webhooks', { key: quarantineOnly });
    expect(told(reply)).toEqual([403, 'scope_forbidden']);
  });

  it.each(['cursor=x', 'limit=0', 'limit=1001', 'colour=blue'])('400: %s', async (query) => {
    const reply = await t.send('GET', `/webhooks?${query}`);
    expect(told(reply)).toEqual([400, 'validation_failed']);
    expect(issuesOf(reply)).toEqual([query.split('=')[0]]);
  });
});

describe('GET /webhooks/{id}', () => {
  it('200: as it was made, with its revision and without its secret', async () => {
    const { secret, ...rest } = await held({ description: 'x' });
    const reply = await t.send('GET', `/webhooks/${rest.id}`, { key: reader });
    expect(reply.body).toEqual({ data: rest, error: null, message: 'OK' });
    expect(reply.headers.get('etag')).toMatch(/^"0-/);
    expect(reply.text).not.toContain(secret);
  });

  it('403: a key for the quarantine alone', async () => {
    const { id } = await held();
    expect(told(await t.send('GET', `/webhooks/${id}`, { key: quarantineOnly }))).toEqual([
      403,
      'scope_forbidden',
    ]);
  });

  it('404: one that is not there, or not for this key', async () => {
    const nothing = await t.send('GET', '/webhooks/999999');
    expect(nothing.body).toMatchObject({ data: null, error: 'not_found' });
    for (const { id } of [await held(), await held({ mail_domain: foreign.id })]) {
      for (const key of [admin, narrowed]) {
        const reply = await t.send('GET', `/webhooks/${id}`, { key });
        expect([reply.status, reply.text]).toEqual([404, nothing.text]);
      }
    }
  });

  it.each(['0', '-1', 'x', '1.5', '01', '99999999999999999999'])('400: %s', async (id) => {
    expect(told(await t.send('GET', `/webhooks/${id}`))).toEqual([400, 'validation_failed']);
  });
});

describe('PATCH /webhooks/{id}', () => {
  const patch = (id: number, changes: object, options: { key?: string; etag?: string } = {}) =>
    recording(t, () =>
      t.send('PATCH', `/webhooks/${id}`, {
        body: changes,
        ...(options.key === undefined ? {} : { key: options.key }),
        headers: {
          'Content-Type': 'application/merge-patch+json',
          ...(options.etag === undefined ? {} : { 'If-Match': options.etag }),
        },
      }),
    );

  it('200: changes what is named, records it, and leaves the rest', async () => {
    const { id, url, created_at } = await held({ description: 'one' });
    const moved = aUrl();
    const first = await patch(id, { url: moved }, { etag: '"0"' });
    expect(first.reply.body).toMatchObject({
      error: null,
      message: 'Updated',
      data: { url: moved, description: 'one', created_at, epoch: 1 },
    });
    expect(first.reply.headers.get('etag')).toBe('"1"');
    expect(first.facts).toMatchObject([
      {
        type: 'webhook.updated',
        data: { event_types: ['mail_domain.created'], ordering: 'none', begins_epoch: false },
        disclosed: { url: moved, description: 'one' },
      },
    ]);
    expect(JSON.stringify(first.facts[0]!.data)).not.toContain(moved);
    const second = await patch(id, { description: null, ordering: 'key' });
    expect(second.reply.body.data).toMatchObject({
      url: moved,
      description: null,
      ordering: 'key',
    });
    const third = await patch(id, { url });
    expect(third.reply.body.data).toMatchObject({ url, description: null, ordering: 'key' });
    expect(third.reply.text).not.toContain('"secret":');
  });

  it('200: records nothing when nothing is other', async () => {
    const { id, url } = await held({ description: 'same' });
    for (const same of [{}, { url }, { description: 'same' }, { ordering: 'none' }]) {
      const { reply, facts } = await patch(id, same);
      expect([reply.status, reply.headers.get('etag'), facts]).toEqual([200, '"0"', []]);
    }
  });

  it('200: two at once, each keeps what the other has changed', async () => {
    for (let round = 0; round < 8; round += 1) {
      const { id } = await held({ description: 'before' });
      const url = aUrl();
      const both = await Promise.all([
        t.send('PATCH', `/webhooks/${id}`, { body: { url } }),
        t.send('PATCH', `/webhooks/${id}`, { body: { description: 'after' } }),
      ]);
      expect(both.map(({ status }) => status)).toEqual([200, 200]);
      expect(await look(t, id)).toMatchObject({ url, description: 'after' });
    }
  });

  it.each([
    ['an unknown member', { enabled: true }, 'enabled'],
    ['a mail domain', { mail_domain: 1 }, 'mail_domain'],
    ['a secret', { secret: 'x' }, 'secret'],
    ['no url', { url: null }, 'url'],
    ['a url with a key', { url: `https://a.example/nmg_${'a'.repeat(64)}` }, 'url'],
    ['no event types', { event_types: [] }, 'event_types'],
    ['an unknown event type', { event_types: ['x.y'] }, 'event_types.0'],
    ['a star among others', { event_types: ['*', 'api_key.used'] }, 'event_types'],
    ['webhook.deleted', { event_types: ['webhook.deleted'] }, 'event_types.0'],
    ['an unknown ordering', { ordering: null }, 'ordering'],
    ['an empty description', { description: '' }, 'description'],
  ])('400: %s', async (_, changes, path) => {
    const { id } = await held();
    const { reply, facts } = await patch(id, changes);
    expect(told(reply)).toEqual([400, 'validation_failed']);
    expect(issuesOf(reply)).toContain(path);
    expect(facts).toEqual([]);
  });

  it('403: a key that only reads', async () => {
    const { id } = await held();
    const { reply, facts } = await patch(id, { ordering: 'key' }, { key: reader });
    expect([reply.status, facts]).toEqual([403, []]);
  });

  it('404: one that is not there, or not for this key', async () => {
    const ids = [999_999, (await held()).id, (await held({ mail_domain: foreign.id })).id];
    for (const id of ids) {
      const { reply, facts } = await patch(id, { ordering: 'key' }, { key: admin });
      expect([told(reply), facts]).toEqual([[404, 'not_found'], []]);
    }
  });

  it('412: changed since', async () => {
    const { id } = await held();
    await patch(id, { ordering: 'key' });
    for (const etag of ['"0"', '"2"']) {
      const { reply, facts } = await patch(id, { ordering: 'none' }, { etag });
      expect([told(reply), facts]).toEqual([[412, 'stale'], []]);
    }
    expect((await patch(id, { ordering: 'none' }, { etag: '"1"' })).reply.status).toBe(200);
  });

  it('422: a URL that may not be called, and nothing is changed', async () => {
    const { id, url } = await held();
    for (const refused of ['http://10.0.0.1/', 'http://u:p@127.0.0.1/', 'ftp://127.0.0.1/']) {
      const { reply, facts } = await patch(id, { url: refused, ordering: 'key' });
      expect([told(reply), issuesOf(reply)]).toEqual([[422, 'target_refused'], ['url']]);
      expect(facts).toEqual([]);
    }
    expect(await look(t, id)).toMatchObject({ url, ordering: 'none' });
  });

  it('a new URL counts at once', async () => {
    const [before, after] = [aUrl(), aUrl()];
    const { id } = await subscribe(t, { url: before });
    await patch(id, { url: after });
    await t.createDomain();
    await caughtUp(t, id);
    expect([at(before).length, at(after).length]).toEqual([0, 1]);
    await t.send('DELETE', `/webhooks/${id}`);
  });

  it('other event types begin epoch 2 at the very position of the change', async () => {
    const url = aUrl();
    const { id } = await subscribe(t, { url, event_types: ['mail_domain.created'] });
    const tick = await t.createDomain();
    // Of the new types, but recorded before they were asked for.
    await t.send('PATCH', `/domains/${tick.id}`, { body: { quarantine_threshold: 3 } });
    await t.createDomain();
    const { reply, facts } = await patch(id, { event_types: ['mail_domain.updated'] });
    expect(reply.body.data).toMatchObject({ epoch: 2, event_types: ['mail_domain.updated'] });
    expect(facts[0]?.data).toMatchObject({ begins_epoch: true });
    // Of the old types, and too late for them.
    await t.createDomain();
    for (const quarantine_threshold of [4, 5]) {
      await t.send('PATCH', `/domains/${tick.id}`, { body: { quarantine_threshold } });
    }
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBeGreaterThanOrEqual(4),
    );
    await caughtUp(t, id);
    const change = BigInt(facts[0]?.position ?? 0);
    const seen = at(url)
      .map(({ payload }) => payload)
      .sort((a, b) => Number(a.log.position) - Number(b.log.position));
    expect(seen.map(({ type, epoch, sequence }) => [type, epoch, sequence])).toEqual([
      ['mail_domain.created', 1, 1],
      ['mail_domain.created', 1, 2],
      ['mail_domain.updated', 2, 1],
      ['mail_domain.updated', 2, 2],
    ]);
    for (const { epoch, log } of seen) expect(BigInt(log.position) > change).toBe(epoch === 2);
    await t.send('DELETE', `/webhooks/${id}`);
  });

  it('changes of event types while held count where they stand, as if nobody had waited', async () => {
    const url = aUrl();
    const { id } = await held({ url });
    const { id: domain } = await t.createDomain();
    await patch(id, { event_types: ['mail_domain.updated'] });
    await t.createDomain();
    await t.send('PATCH', `/domains/${domain}`, { body: { quarantine_threshold: 3 } });
    await patch(id, { event_types: ['mail_domain.created'] });
    await t.createDomain();
    await t.send('POST', `/webhooks/${id}/resume`);
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBeGreaterThanOrEqual(3),
    );
    await caughtUp(t, id);
    const seen = at(url)
      .map(({ payload }) => payload)
      .sort((a, b) => Number(a.log.position) - Number(b.log.position));
    expect(seen.map(({ type, epoch, sequence }) => [type, epoch, sequence])).toEqual([
      ['mail_domain.created', 1, 1],
      ['mail_domain.updated', 2, 1],
      ['mail_domain.created', 3, 1],
    ]);
    await t.send('DELETE', `/webhooks/${id}`);
  });
});

describe('what `*` stands for', () => {
  it('has nothing of webhooks and of reading the log, whatever is done with them', async () => {
    const url = aUrl();
    const { id } = await subscribe(t, { url, event_types: ['*'] });
    const { id: other } = await held();
    await t.send('POST', `/webhooks/${other}/ping`);
    await t.send('POST', `/webhooks/${other}/secret/rotate`);
    await t.send('DELETE', `/webhooks/${other}`);
    await t.send('GET', '/audit/logs', { headers: { Accept: 'application/x-ndjson' } });
    const key = await t.createKey();
    await caughtUp(t, id);
    const withheld = (await allSince(t, 0n)).filter(({ type }) => /^(webhook|audit)\./.test(type));
    expect(typesOf(withheld)).toEqual(expect.arrayContaining(['webhook.pinged', 'audit.exported']));
    const types = at(url).map(({ payload }) => payload.type);
    expect(types).toContain('api_key.created');
    expect(types.filter((type) => !isWebhookType(type))).toEqual([]);
    const created = at(url).find(({ payload }) => payload.type === 'api_key.created');
    expect(created?.payload).toMatchObject({
      sequence: 1,
      data: { resource: { id: String(key.id) } },
    });
    await t.send('DELETE', `/webhooks/${id}`);
  });
});

describe('GET /webhook-event-types', () => {
  it('200: the whole catalogue by name, to whoever may read', async () => {
    for (const key of [reader, admin]) {
      const reply = await t.send('GET', '/webhook-event-types', { key });
      expect(reply.body).toMatchObject({ error: null, message: 'OK' });
      const types = reply.body.data.map(({ type }: { type: string }) => type);
      expect(types).toEqual([...types].sort());
      expect(types).toEqual(WEBHOOK_TYPES);
      expect(types.filter((type: string) => /^(webhook|audit|session)\./.test(type))).toEqual([]);
      const byName = new Map(reply.body.data.map((one: { type: string }) => [one.type, one]));
      expect(byName.get('quarantine.released')).toMatchObject({ schema_version: 1, raised: true });
      expect(byName.get('license.changed')).toMatchObject({ raised: false });
    }
  });

  it('200: the schema of one, which its own example satisfies', async () => {
    const reply = await t.send('GET', '/webhook-event-types/mail_domain.created/schema', {
      key: reader,
    });
    expect(reply.body).toMatchObject({
      error: null,
      message: 'OK',
      data: {
        $schema: 'https://json-schema.org/draft/2020-12/schema',
        $id: 'urn:mailguard:webhook:mail_domain.created:1',
        required: expect.arrayContaining(['type', 'timestamp', 'id', 'sequence', 'log', 'data']),
        additionalProperties: false,
      },
    });
    expect(reply.body.data.examples[0]).toMatchObject({ type: 'mail_domain.created' });
  });

  it('404: the schema of a type that nobody may have', async () => {
    for (const type of ['nothing.known', 'webhook.created', 'audit.read', '*', '__proto__']) {
      const reply = await t.send('GET', `/webhook-event-types/${type}/schema`);
      expect([type, ...told(reply)]).toEqual([type, 404, 'not_found']);
    }
  });

  it('403: a key for the quarantine alone', async () => {
    for (const path of ['', '/mail_domain.created/schema']) {
      const reply = await t.send('GET', `/webhook-event-types${path}`, { key: quarantineOnly });
      expect(told(reply)).toEqual([403, 'scope_forbidden']);
    }
  });
});
