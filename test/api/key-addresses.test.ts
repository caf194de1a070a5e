import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { apiKeysProjection } from '../../src/projections/api-keys.ts';
import { rebuildProjection } from '../../src/projections/rebuild.ts';
import { asAdmin } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { flushWindows, headOf, recording, typesOf } from '../support/recorded.ts';
import { fillLog, openExport } from '../support/slow-export.ts';

const OFFICE = '192.0.2.0/24';
const INSIDE = '192.0.2.77';
const OUTSIDE = '198.51.100.9';

/** Behind a proxy on loopback, so that a test says where a request comes from. */
let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway({ config: { trustedProxies: ['127.0.0.1'] } });
});
afterAll(() => t.close());

const from = (address: string) => ({ 'X-Forwarded-For': address });
const use = (key: string, address: string, at: TestGateway = t) =>
  at.send('GET', '/auth/api-keys', { key, headers: from(address) });
const statusesOf = async (key: string, ...addresses: string[]) => {
  const statuses: number[] = [];
  for (const address of addresses) statuses.push((await use(key, address)).status);
  return statuses;
};
const create = (allowed_cidrs: unknown, options: object = {}) =>
  t.send('POST', '/auth/api-keys', {
    body: { name: 'x', scope: 'read-only', allowed_cidrs },
    ...options,
  });
const viewOf = async (id: number) => (await t.send('GET', `/auth/api-keys/${id}`)).body.data;
const change = (id: number, allowed_cidrs: unknown, options: object = {}) =>
  t.send('PATCH', `/auth/api-keys/${id}`, { body: { allowed_cidrs }, ...options });

const full = { name: 'maker', scope: 'full-admin' };

describe('POST /auth/api-keys with allowed_cidrs', () => {
  it('201: shows the list in its one form, and keeps it out of the line', async () => {
    const given = ['192.0.2.0/24', '2001:DB8::/32', '::ffff:198.51.100.7', '192.0.2.0/24'];
    const { reply, facts } = await recording(t, () => create(given));
    expect(reply.status).toBe(201);
    const wanted = ['192.0.2.0/24', '2001:db8::/32', '198.51.100.7/32'];
    expect(reply.body.data.allowed_cidrs).toEqual(wanted);
    expect((await viewOf(reply.body.data.id)).allowed_cidrs).toEqual(wanted);
    expect(typesOf(facts)).toEqual(['api_key.created']);
    const { disclosed, ...line } = facts[0]!;
    expect(line.data).toMatchObject({ restricted: true });
    expect(disclosed['allowed_cidrs']).toEqual(wanted);
    expect(JSON.stringify(line)).not.toMatch(/192\.0|2001:|198\.51/);
  });

  it('201: is readable in the audit log, and in its evidence', async () => {
    const { id } = (await create([OFFICE])).body.data;
    const { body } = await t.send('GET', `/audit/logs?resource=api_key:${id}`);
    expect(body.data[0]).toMatchObject({
      type: 'api_key.created',
      data: { restricted: true, allowed_cidrs: [OFFICE] },
      erased: [],
      withheld: [],
    });
  });

  it.each([
    ['no list', undefined],
    ['null', null],
  ])('201: %s is from anywhere, and the line says nothing of it', async (_, given) => {
    const { reply, facts } = await recording(t, () => create(given));
    expect(reply.body.data.allowed_cidrs).toBeNull();
    expect(facts[0]?.data).not.toHaveProperty('restricted');
    expect(await statusesOf(reply.body.data.key, INSIDE, OUTSIDE)).toEqual([200, 200]);
  });

  it('201: takes 64 blocks', async () => {
    const blocks = Array.from({ length: 64 }, (_, n) => `10.0.${n}.0/24`);
    const reply = await create(blocks);
    expect(reply.body.data.allowed_cidrs).toEqual(blocks);
    expect(await statusesOf(reply.body.data.key, '10.0.63.255', '10.0.64.0')).toEqual([200, 401]);
  });

  it.each([
    ['an empty list', [], 'allowed_cidrs', /nobody can use/],
    ['65 blocks', Array(65).fill(OFFICE), 'allowed_cidrs', /64/],
    ['text', OFFICE, 'allowed_cidrs', /array/],
    ['a number in the list', [OFFICE, 7], 'allowed_cidrs.1', /string/],
    ['a name', ['office.example'], 'allowed_cidrs.0', /^must be an address or a block/],
    ['a short address', ['192.0.2/24'], 'allowed_cidrs.0', /^must be an address or a block/],
    ['an octal address', ['192.0.02.0/24'], 'allowed_cidrs.0', /^must be an address or a block/],
    ['a mask', ['192.0.2.0/255.255.255.0'], 'allowed_cidrs.0', /^must be an address or a block/],
    ['a zone', ['fe80::1%eth0'], 'allowed_cidrs.0', /^must be an address or a block/],
    ['a prefix too long', ['192.0.2.0/33'], 'allowed_cidrs.0', /at most \/32/],
    ['a prefix too long for IPv6', ['::/129'], 'allowed_cidrs.0', /at most \/128/],
    ['host bits', ['192.0.2.7/24'], 'allowed_cidrs.0', /the network is 192\.0\.2\.0\/24/],
    ['very long text', ['1'.repeat(65)], 'allowed_cidrs.0', /64/],
  ])('400: %s', async (_, given, path, message) => {
    const { reply, facts } = await recording(t, () => create(given));
    expect(reply.status).toBe(400);
    expect(reply.body.error).toBe('validation_failed');
    expect(reply.body.data.issues).toEqual([{ path, message: expect.stringMatching(message) }]);
    expect(facts).toEqual([]);
  });

  it('403: a key with addresses makes none that reaches further, and one that does not', async () => {
    const maker = await t.createKey({ ...full, allowed_cidrs: [OFFICE] });
    const by = { key: maker.key, headers: from(INSIDE) };
    for (const wider of [undefined, null, ['192.0.0.0/16'], [INSIDE, OUTSIDE], ['::/0']]) {
      const { reply, facts } = await recording(t, () => create(wider, by));
      expect(reply.status).toBe(403);
      expect(reply.body.error).toBe('beyond_own_authority');
      expect(reply.body.message).toContain('allowed_cidrs');
      expect(facts).toEqual([]);
    }
    expect((await create(['192.0.2.64/26'], by)).status).toBe(201);
  });
});

describe('a key with addresses', () => {
  it('200 and 401: opens from within, at the edges too, and from nowhere else', async () => {
    const { key } = (await create(['192.0.2.64/26', '2001:db8:0:8000::/49'])).body.data;
    const inside = ['192.0.2.64', '192.0.2.127', '2001:db8:0:8000::', '2001:db8:0:ffff:ffff::'];
    expect(await statusesOf(key, ...inside)).toEqual([200, 200, 200, 200]);
    const outside = ['192.0.2.63', '192.0.2.128', '2001:db8:0:7fff:ffff::', '2001:db8:1::'];
    expect(await statusesOf(key, ...outside)).toEqual([401, 401, 401, 401]);
    expect(await statusesOf(key, '::ffff:192.0.2.100', '127.0.0.1')).toEqual([200, 401]);
  });

  it('401: is answered from elsewhere as an unknown key is, and tells its owner why', async () => {
    const { id, key } = (await create([OFFICE])).body.data;
    const before = await headOf(t);
    const refused = await use(key, OUTSIDE);
    const unknown = await use(`nmg_${'0'.repeat(64)}`, OUTSIDE);
    expect(refused.status).toBe(401);
    expect(refused.text).toBe(unknown.text);
    const names = (reply: typeof refused) => [...reply.headers.keys()].sort();
    expect(names(refused)).toEqual(names(unknown));
    const denied = (await flushWindows(t, before)).filter(
      ({ resource }) => resource.id === String(id),
    );
    expect(denied).toHaveLength(1);
    expect(denied[0]).toMatchObject({
      type: 'api_key.denied',
      actor: { type: 'api_key', id: String(id) },
      outcome: 'denied',
      data: { reason: 'address', count: 1 },
      disclosed: { addresses: [OUTSIDE] },
    });
    const { windows } = (await t.send('GET', `/auth/api-keys/${id}/activity`)).body.data;
    expect(windows).toEqual([expect.objectContaining({ requests: 0, denied: 1 })]);
  });

  it('401: costs the key nothing, and is no use of it', async () => {
    const body = {
      name: 'x',
      scope: 'read-only',
      allowed_cidrs: [OFFICE],
      rate_limit_per_minute: 1,
    };
    const { id, key } = (await t.send('POST', '/auth/api-keys', { body })).body.data;
    expect(await statusesOf(key, ...Array<string>(12).fill(OUTSIDE))).toEqual(Array(12).fill(401));
    const view = await viewOf(id);
    expect(view.rate_limit).toEqual({ capacity: 10, remaining: 10, denied_last_hour: 0 });
    expect([view.last_used_at, view.first_used_at]).toEqual([null, null]);
    // The control: as many from within empty the bucket.
    const within = await statusesOf(key, ...Array<string>(12).fill(INSIDE));
    expect(within.filter((status) => status === 200).length).toBeLessThan(12);
    expect(await statusesOf(key, OUTSIDE)).toEqual([401]);
  });

  it('401: comes before 403 for a scope that does not allow the act', async () => {
    const { key } = (await create([OFFICE])).body.data;
    const write = (address: string) =>
      t.send('POST', '/domains', { key, headers: from(address), body: { name: 'a.example' } });
    expect((await write(INSIDE)).status).toBe(403);
    expect((await write(OUTSIDE)).status).toBe(401);
  });

  it('401: is not saved by a connection that was let in from elsewhere', async () => {
    const { key } = (await create([OFFICE])).body.data;
    const order = [INSIDE, OUTSIDE, INSIDE, OUTSIDE];
    expect(await statusesOf(key, ...order)).toEqual([200, 401, 200, 401]);
  });

  it('opens /metrics from within alone', async () => {
    const { key } = (await create([OFFICE])).body.data;
    const read = (address: string) =>
      t.send('GET', '//metrics', { key, headers: from(address) }).then(({ status }) => status);
    expect([await read(INSIDE), await read(OUTSIDE)]).toEqual([200, 401]);
  });
});

describe('an untrusted X-Forwarded-For', () => {
  it('neither opens a key with addresses nor closes it (test 16, 4.1.3)', async () => {
    const direct = await startTestGateway();
    const made = async (allowed_cidrs: string[]) => direct.createKey({ allowed_cidrs });
    const own = await made(['127.0.0.1']);
    const foreign = await made([OFFICE]);
    expect((await use(own.key, OUTSIDE, direct)).status).toBe(200);
    expect((await use(foreign.key, INSIDE, direct)).status).toBe(401);
    await direct.close();
  });
});

describe('PATCH /auth/api-keys/{id} with allowed_cidrs', () => {
  it('200: sets a list, replaces it and takes it away, for the next request', async () => {
    const { id, key } = await t.createKey();
    expect(await statusesOf(key, OUTSIDE)).toEqual([200]);
    const set = await recording(t, () => change(id, [OFFICE]));
    expect(set.reply.body.data.allowed_cidrs).toEqual([OFFICE]);
    expect(set.facts[0]).toMatchObject({
      type: 'api_key.updated',
      data: { restricted: true },
      disclosed: { allowed_cidrs: [OFFICE] },
    });
    expect(await statusesOf(key, INSIDE, OUTSIDE)).toEqual([200, 401]);
    await change(id, [OUTSIDE]);
    expect(await statusesOf(key, INSIDE, OUTSIDE)).toEqual([401, 200]);
    const away = await recording(t, () => change(id, null));
    expect(away.reply.body.data.allowed_cidrs).toBeNull();
    expect(away.facts[0]?.data).toMatchObject({ restricted: false });
    expect(away.facts[0]?.disclosed).not.toHaveProperty('allowed_cidrs');
    expect(await statusesOf(key, INSIDE, OUTSIDE)).toEqual([200, 200]);
  });

  it('200: another change leaves the list, and does not tell it again', async () => {
    const { id, key } = await t.createKey({ allowed_cidrs: [OFFICE] });
    const { facts } = await recording(t, () =>
      t.send('PATCH', `/auth/api-keys/${id}`, { body: { rate_limit_per_minute: 700 } }),
    );
    expect(facts[0]?.data).not.toHaveProperty('restricted');
    expect(facts[0]?.disclosed).not.toHaveProperty('allowed_cidrs');
    expect((await viewOf(id)).allowed_cidrs).toEqual([OFFICE]);
    expect(await statusesOf(key, INSIDE, OUTSIDE)).toEqual([200, 401]);
  });

  it('400: nobody locks out the key that they call with', async () => {
    const own = await t.createKey(full);
    const by = { key: own.key, headers: from(INSIDE) };
    const { reply, facts } = await recording(t, () => change(own.id, [OUTSIDE], by));
    expect(reply.status).toBe(400);
    expect(reply.body.data.issues).toEqual([
      { path: 'allowed_cidrs', message: expect.stringContaining('your own key') },
    ]);
    expect(facts).toEqual([]);
    expect((await change(own.id, [OFFICE], by)).status).toBe(200);
    // Another's key may be given any list.
    const other = await t.createKey();
    expect((await change(other.id, ['192.0.2.8'], by)).status).toBe(200);
  });

  it.each([
    ['an empty list', []],
    ['host bits', ['192.0.2.7/24']],
  ])('400: %s', async (_, given) => {
    const { id } = await t.createKey();
    const { reply, facts } = await recording(t, () => change(id, given));
    expect([reply.status, facts]).toEqual([400, []]);
  });

  it('403: a key with addresses does not widen itself, nor touch one that reaches further', async () => {
    const own = await t.createKey({ ...full, allowed_cidrs: [OFFICE] });
    const by = { key: own.key, headers: from(INSIDE) };
    const wider = await t.createKey();
    for (const [id, given] of [
      [own.id, null],
      [own.id, ['192.0.0.0/16']],
      [wider.id, ['192.0.0.0/16']],
    ] as const) {
      const { reply, facts } = await recording(t, () => change(id, given, by));
      expect([reply.status, reply.body.error]).toEqual([403, 'beyond_own_authority']);
      expect(facts).toEqual([]);
    }
    const rename = { body: { name: 'taken over' } };
    const path = `/auth/api-keys/${wider.id}`;
    expect((await t.send('PATCH', path, { ...by, ...rename })).status).toBe(403);
  });

  it('cuts the exports that go where the key may not be used from any more', async () => {
    await fillLog(t, 20_000);
    const { id, key } = await t.createKey();
    const running = await openExport(t, key);
    const control = await openExport(t, key);
    await change(id, ['127.0.0.1']);
    const whole = await control.drain();
    expect([whole.ended, whole.text.includes('"trailer"')]).toEqual(['whole', true]);
    await change(id, [OFFICE]);
    const { ended, text } = await running.drain();
    expect([ended, text.includes('"trailer"')]).toEqual(['reset', false]);
  });
});

describe('the list of a key', () => {
  it('is handed on to its successor, and both are bound by it', async () => {
    const { id, key } = await t.createKey({ allowed_cidrs: [OFFICE] });
    const { reply, facts } = await recording(t, () =>
      t.send('POST', `/auth/api-keys/${id}/rotate`, { body: { grace_seconds: 60 } }),
    );
    const successor = reply.body.data;
    expect(successor.allowed_cidrs).toEqual([OFFICE]);
    expect(facts[0]).toMatchObject({ data: { restricted: true } });
    expect(await statusesOf(successor.key, INSIDE, OUTSIDE)).toEqual([200, 401]);
    expect(await statusesOf(key, INSIDE, OUTSIDE)).toEqual([200, 401]);
  });

  it('403: is not handed on by a key that reaches less far', async () => {
    const maker = await t.createKey({ ...full, allowed_cidrs: [OFFICE] });
    const { id } = await t.createKey();
    const rotating = { key: maker.key, headers: from(INSIDE), body: {} };
    const { reply, facts } = await recording(t, () =>
      t.send('POST', `/auth/api-keys/${id}/rotate`, rotating),
    );
    expect([reply.status, reply.body.error]).toEqual([403, 'beyond_own_authority']);
    expect(facts).toEqual([]);
  });

  it('is nobody else’s to see', async () => {
    const own = await t.createDomain();
    const other = await t.createDomain();
    const { id } = await t.createKey({ mail_domain: own.name, allowed_cidrs: ['203.0.113.0/28'] });
    const stranger = await t.createKey({ scope: 'domain-admin', mail_domain: other.name });
    const reads = ['/auth/api-keys', `/auth/api-keys/${id}`, `/audit/logs?resource=api_key:${id}`];
    for (const path of reads) {
      const seen = await t.send('GET', path, { key: stranger.key });
      // The control: whoever may see the key sees it there.
      const control = await t.send('GET', path);
      expect([seen, control].map(({ text }) => text.includes('203.0.113.0/28'))).toEqual([
        false,
        true,
      ]);
    }
  });

  it('is in no row once its key is deleted', async () => {
    const { id } = await t.createKey({ allowed_cidrs: ['203.0.113.16/28'] });
    await t.send('DELETE', `/auth/api-keys/${id}`);
    const { rows } = await t.database.pool.query('select * from api_keys where id = $1', [id]);
    expect(rows).toMatchObject([{ status: 'deleted', restricted: true, allowed_cidrs: null }]);
    const { rows: left } = await t.database.pool.query(
      `select from eventlog.event_personal p join eventlog.events e using (position)
       where e.resource = $1 and p.identity is not null`,
      [`api_key:${id}`],
    );
    expect(left).toEqual([]);
  });
});

describe('after a restart', () => {
  it('the list still counts; one that is erased, or cannot be read, keeps its key closed', async () => {
    const [kept, erased, broken] = [
      await t.createKey({ allowed_cidrs: [OFFICE] }),
      await t.createKey({ allowed_cidrs: [OFFICE] }),
      await t.createKey({ allowed_cidrs: [OFFICE] }),
    ];
    const url = t.database.url;
    await asAdmin(
      url,
      `update eventlog.event_personal p set identity = null from eventlog.events e
       where e.resource = 'api_key:${erased.id}' and p.position = e.position`,
    );
    // While it runs: the key is read anew, from its own stream.
    await t.gateway.context.liveKeys.changed(erased.id);
    await t.gateway.context.liveKeys.changed(kept.id);
    expect(await statusesOf(erased.key, INSIDE)).toEqual([401]);
    expect(await statusesOf(kept.key, INSIDE, OUTSIDE)).toEqual([200, 401]);
    const { pool, log } = t.gateway.context;
    await rebuildProjection({ pool, log }, apiKeysProjection, { force: true });
    await asAdmin(url, `update api_keys set allowed_cidrs = '["office"]' where id = ${broken.id}`);
    t = await t.restart();
    expect(await statusesOf(kept.key, INSIDE, OUTSIDE)).toEqual([200, 401]);
    expect(await statusesOf(erased.key, INSIDE, OUTSIDE)).toEqual([401, 401]);
    expect(await statusesOf(broken.key, INSIDE, OUTSIDE)).toEqual([401, 401]);
    expect((await viewOf(erased.id)).allowed_cidrs).toEqual([]);
    const { body } = await t.send('GET', `/audit/logs?resource=api_key:${erased.id}`);
    expect(body.data[0].erased).toContain('data.allowed_cidrs');
    // A new list opens it again.
    await change(erased.id, [OFFICE]);
    expect(await statusesOf(erased.key, INSIDE, OUTSIDE)).toEqual([200, 401]);
  });
});
