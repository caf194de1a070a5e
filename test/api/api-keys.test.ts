import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { flushWindows, headOf, recording, typesOf } from '../support/recorded.ts';
import { type StoppedClock, stoppedClock } from '../support/stopped-clock.ts';

let t: TestGateway;
let clock: StoppedClock;
beforeAll(async () => {
  clock = stoppedClock();
  t = await startTestGateway({ clock });
});
afterAll(() => t.close());

const HOUR_MS = 3_600_000;
const inAnHour = () => new Date(clock.nowMs() + HOUR_MS).toISOString();
const issuesOf = (data: { issues: { path: string }[] }) => data.issues.map(({ path }) => path);

describe('POST /auth/api-keys', () => {
  it('201: answers with the key, once, and records what it is without its name', async () => {
    const { reply, facts } = await recording(t, () =>
      t.send('POST', '/auth/api-keys', {
        body: { name: 'SIEM forwarder', scope: 'read-only' },
        headers: { 'X-Request-Id': 'req-create' },
      }),
    );
    expect(reply.status).toBe(201);
    const { data } = reply.body;
    expect(reply.body).toMatchObject({ error: null, message: 'Created' });
    expect(data).toMatchObject({
      name: 'SIEM forwarder',
      scope: 'read-only',
      mail_domain: null,
      rate_limit_per_minute: 100,
      burst: 1_000,
      status: 'active',
      expires_at: null,
      revoked_at: null,
      last_used_at: null,
      first_used_at: null,
      predecessor: null,
      owner: { type: 'api_key', id: '1' },
      rate_limit: { capacity: 1_000, remaining: 1_000, denied_last_hour: 0 },
    });
    expect(reply.headers.get('location')).toBe(`/api/v1/auth/api-keys/${data.id}`);
    expect(reply.headers.get('etag')).toBe('"0"');
    expect(typesOf(facts)).toEqual(['api_key.created']);
    expect(facts[0]).toMatchObject({
      actor: { type: 'api_key', id: '1' },
      resource: { type: 'api_key', id: String(data.id) },
      stream: `api_key-${data.id}`,
      revision: '0',
      request_id: 'req-create',
      outcome: 'success',
      mail_domains: [],
      data: { scope: 'read-only', rate_limit_per_minute: 100, mail_domain: null },
      disclosed: { name: 'SIEM forwarder', key_prefix: data.key_prefix },
    });
    const { disclosed, ...line } = facts[0]!;
    expect(disclosed['ip']).toBe('127.0.0.1');
    expect(JSON.stringify(line)).not.toMatch(/SIEM|nmg_|127\.0\.0\.1/);
  });

  it('201: the key is nmg_, 28 random bytes in hex, and the CRC-32 of both', async () => {
    const { key } = await t.createKey();
    expect(key).toMatch(/^nmg_[0-9a-f]{64}$/);
    expect(key.slice(60)).toBe(crc32(key.slice(0, 60)).toString(16).padStart(8, '0'));
  });

  it('201: narrows any scope to a mail domain, by name in any form or by id', async () => {
    const { id, name } = await t.createDomain('bücher.example');
    expect(name).toBe('xn--bcher-kva.example');
    for (const mail_domain of ['BÜCHER.example.', 'xn--bcher-kva.EXAMPLE', id]) {
      for (const scope of ['read-only', 'quarantine-only', 'domain-admin', 'full-admin']) {
        const { reply, facts } = await recording(t, () =>
          t.send('POST', '/auth/api-keys', { body: { name: 'x', scope, mail_domain } }),
        );
        expect(reply.body.data).toMatchObject({ scope, mail_domain: name, mail_domain_id: id });
        expect(facts[0]?.mail_domains).toEqual([String(id)]);
      }
    }
  });

  it('201: takes an expiry with any offset and answers in UTC', async () => {
    const at = new Date(clock.nowMs() + HOUR_MS);
    const local = new Date(at.getTime() + 2 * HOUR_MS).toISOString().replace('Z', '+02:00');
    const reply = await t.send('POST', '/auth/api-keys', {
      body: { name: 'x', scope: 'read-only', expires_at: local },
    });
    expect(reply.status).toBe(201);
    expect(Date.parse(reply.body.data.expires_at)).toBe(at.getTime());
    expect(reply.body.data.expires_at).toMatch(/Z$/);
  });

  it.each([
    ['no name', { scope: 'read-only' }, 'name'],
    ['no scope', { name: 'x' }, 'scope'],
    ['a domain-admin without a mail domain', { name: 'x', scope: 'domain-admin' }, 'mail_domain'],
    [
      'an expiry in the past',
      { name: 'x', scope: 'read-only', expires_at: '2020-01-01T00:00:00Z' },
      'expires_at',
    ],
    ['a member of the answer (15.3.3)', { name: 'x', scope: 'read-only', id: 1 }, 'id'],
    [
      'an owner (15.3.3)',
      { name: 'x', scope: 'read-only', owner: { type: 'api_key', id: '1' } },
      'owner',
    ],
    ['a key (15.3.3)', { name: 'x', scope: 'read-only', key: `nmg_${'a'.repeat(64)}` }, 'key'],
  ])('400: %s', async (_, body, path) => {
    const { reply, facts } = await recording(t, () => t.send('POST', '/auth/api-keys', { body }));
    expect(reply.status).toBe(400);
    expect(reply.body.error).toBe('validation_failed');
    expect(issuesOf(reply.body.data)).toContain(path);
    expect(facts).toEqual([]);
  });

  it('400: an expiry that is now', async () => {
    const body = { name: 'x', scope: 'read-only', expires_at: clock.text() };
    expect((await t.send('POST', '/auth/api-keys', { body })).status).toBe(400);
  });

  it.each(['nowhere.example', 999_999, 'not a domain'])('422: mail domain %s', async (given) => {
    const { reply, facts } = await recording(t, () =>
      t.send('POST', '/auth/api-keys', {
        body: { name: 'x', scope: 'read-only', mail_domain: given },
      }),
    );
    expect(reply.status).toBe(422);
    expect(reply.body.error).toBe('unknown_mail_domain');
    expect(facts).toEqual([]);
  });

  it('403: nobody makes a key beyond their own (8.2.1), and each try is an event', async () => {
    const own = await t.createDomain();
    const maker = await t.createKey({
      scope: 'domain-admin',
      mail_domain: own.name,
      rate_limit_per_minute: 100,
      expires_at: inAnHour(),
    });
    const allowed = {
      name: 'x',
      scope: 'domain-admin',
      mail_domain: own.name,
      rate_limit_per_minute: 100,
      expires_at: inAnHour(),
    };
    const before = await headOf(t);
    for (const beyond of [
      { scope: 'full-admin' },
      { scope: 'read-only', mail_domain: null },
      { rate_limit_per_minute: 101 },
      { expires_at: new Date(clock.nowMs() + 2 * HOUR_MS).toISOString() },
      { expires_at: null },
    ]) {
      const body = { ...allowed, ...beyond };
      const reply = await t.send('POST', '/auth/api-keys', { key: maker.key, body });
      expect([reply.status, reply.body.error]).toEqual([403, 'beyond_own_authority']);
      expect(reply.headers.get('x-accepted-scopes')).not.toBeNull();
    }
    const within = await t.send('POST', '/auth/api-keys', { key: maker.key, body: allowed });
    expect(within.status).toBe(201);
    expect(within.body.data.owner).toEqual({ type: 'api_key', id: String(maker.id) });
    const windows = await flushWindows(t, before);
    const denied = windows.find(
      ({ type, actor }) => type === 'api_key.denied' && actor.id === String(maker.id),
    );
    expect(denied).toMatchObject({
      data: { reason: 'beyond_own_authority', count: 5 },
      outcome: 'denied',
      disclosed: { addresses: ['127.0.0.1'] },
    });
  });

  it('422: for a narrowed maker a foreign mail domain is as unknown as none', async () => {
    const own = await t.createDomain();
    const foreign = await t.createDomain();
    const maker = await t.createKey({ scope: 'domain-admin', mail_domain: own.name });
    const ask = (mail_domain: string) =>
      t.send('POST', '/auth/api-keys', {
        key: maker.key,
        body: { name: 'x', scope: 'read-only', mail_domain },
      });
    const replies = [await ask(foreign.name), await ask('nowhere.example')];
    expect(replies.map(({ status }) => status)).toEqual([422, 422]);
    expect(replies[0]?.text).toBe(replies[1]?.text);
  });
});

describe('GET /auth/api-keys', () => {
  it('200: newest first, and nowhere a key (14.2.6)', async () => {
    const older = await t.createKey();
    const newer = await t.createKey();
    const reply = await t.send('GET', '/auth/api-keys?limit=1000');
    expect(reply.status).toBe(200);
    const ids: number[] = reply.body.data.map(({ id }: { id: number }) => id);
    expect(ids.indexOf(newer.id)).toBe(0);
    expect(ids.indexOf(older.id)).toBe(1);
    expect(ids).toEqual(ids.toSorted((a, b) => b - a));
    expect(reply.headers.get('x-has-more')).toBe('false');
    expect(reply.text).not.toMatch(/nmg_[0-9a-f]{17}/);
    expect(reply.body.data.every((key: object) => !('key' in key))).toBe(true);
  });

  it('200: pages by cursor without gap or repetition while keys are made', async () => {
    const whole = await t.send('GET', '/auth/api-keys?limit=1000');
    const seen: number[] = [];
    let next = '/auth/api-keys?limit=3';
    for (let page = 0; page < 100; page += 1) {
      const reply = await t.send('GET', next);
      seen.push(...reply.body.data.map(({ id }: { id: number }) => id));
      await (page === 1 ? t.createKey() : null);
      const link = /^<([^>]+)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
      expect(reply.headers.get('x-has-more')).toBe(String(link !== undefined));
      if (link === undefined) break;
      expect(link).toContain(reply.headers.get('x-next-cursor'));
      next = link.slice('/api/v1'.length);
    }
    expect(seen).toEqual(whole.body.data.map(({ id }: { id: number }) => id));
  });

  it('200: a full-admin sees all, others the keys of their owner', async () => {
    const maker = await t.createKey({ scope: 'full-admin' });
    const body = { name: 'x', scope: 'read-only' };
    const theirs = (await t.send('POST', '/auth/api-keys', { key: maker.key, body })).body.data;
    const ours = await t.createKey();
    const idsSeenBy = async (key: string) =>
      (await t.send('GET', '/auth/api-keys?limit=1000', { key })).body.data.map(
        ({ id }: { id: number }) => id,
      );
    expect(await idsSeenBy(theirs.key)).toEqual([theirs.id]);
    expect(await idsSeenBy(ours.key)).toContain(maker.id);
    expect(await idsSeenBy(ours.key)).not.toContain(theirs.id);
    expect(await idsSeenBy(maker.key)).toEqual(await idsSeenBy(t.bootstrapKey));
  });

  it('200: a domain-admin sees all keys of its mail domain and no other', async () => {
    const [own, foreign] = [await t.createDomain(), await t.createDomain()];
    const admin = await t.createKey({ scope: 'domain-admin', mail_domain: own.name });
    const reader = await t.createKey({ mail_domain: own.name });
    await t.createKey({ mail_domain: foreign.name });
    const reply = await t.send('GET', '/auth/api-keys', { key: admin.key });
    expect(reply.body.data.map(({ id }: { id: number }) => id)).toEqual([reader.id, admin.id]);
  });

  it.each([
    'limit=0',
    'limit=1001',
    'limit=x',
    'cursor=',
    'cursor=i0',
    'cursor=5',
    'offset=1',
    'limit=1&limit=1',
  ])('400: ?%s', async (query) => {
    const reply = await t.send('GET', `/auth/api-keys?${query}`);
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
  });
});

describe('GET /auth/api-keys/{id}', () => {
  it('200: shows what the list shows, with its revision in the ETag', async () => {
    const { id } = await t.createKey({ name: 'one' });
    const reply = await t.send('GET', `/auth/api-keys/${id}`);
    const list = await t.send('GET', '/auth/api-keys');
    expect(reply.body.data).toEqual(list.body.data[0]);
    expect(reply.headers.get('etag')).toMatch(/^"0-/);
  });

  it('404: a key that never was, or was deleted', async () => {
    const { id } = await t.createKey();
    await t.send('DELETE', `/auth/api-keys/${id}`);
    const replies = [
      await t.send('GET', `/auth/api-keys/${id}`),
      await t.send('GET', '/auth/api-keys/999999'),
    ];
    expect(replies.map(({ status }) => status)).toEqual([404, 404]);
    expect(replies[0]?.text).toBe(replies[1]?.text);
    expect(replies[0]?.body).toMatchObject({ data: null, error: 'not_found' });
  });
});

describe('PATCH /auth/api-keys/{id}', () => {
  it('200: changes what is given, as application/json or a merge patch', async () => {
    const { id } = await t.createKey({ rate_limit_per_minute: 100 });
    const path = `/auth/api-keys/${id}`;
    const first = await recording(t, () => t.send('PATCH', path, { body: { name: 'renamed' } }));
    expect(first.reply.body).toMatchObject({ message: 'Updated', data: { name: 'renamed' } });
    expect(first.reply.headers.get('etag')).toBe('"1"');
    expect(first.facts).toMatchObject([
      {
        type: 'api_key.updated',
        data: { rate_limit_per_minute: 100, expires_at: null },
        disclosed: { name: 'renamed' },
      },
    ]);
    const expires_at = inAnHour();
    const second = await recording(t, () =>
      t.send('PATCH', path, {
        body: { rate_limit_per_minute: 600, expires_at },
        headers: { 'Content-Type': 'application/merge-patch+json' },
      }),
    );
    expect(second.reply.body.data).toMatchObject({
      name: 'renamed',
      rate_limit_per_minute: 600,
      burst: 6_000,
    });
    expect(Date.parse(second.reply.body.data.expires_at)).toBe(Date.parse(expires_at));
    expect(typesOf(second.facts)).toEqual(['api_key.updated']);
    const third = await t.send('PATCH', path, { body: { expires_at: null } });
    expect(third.body.data.expires_at).toBeNull();
  });

  it('200: records nothing when nothing changes', async () => {
    const { id } = await t.createKey({ rate_limit_per_minute: 100 });
    for (const body of [{}, { rate_limit_per_minute: 100, expires_at: null }]) {
      const { reply, facts } = await recording(t, () =>
        t.send('PATCH', `/auth/api-keys/${id}`, { body }),
      );
      expect(reply.status).toBe(200);
      expect(facts).toEqual([]);
    }
  });

  it('200: a new limit holds from the next request', async () => {
    const { id, key } = await t.createKey({ rate_limit_per_minute: 1 });
    for (let n = 0; n < 10; n += 1) await t.send('GET', '/domains', { key });
    expect((await t.send('GET', '/domains', { key })).status).toBe(429);
    await t.send('PATCH', `/auth/api-keys/${id}`, { body: { rate_limit_per_minute: 60_000 } });
    clock.advance(1);
    expect((await t.send('GET', '/domains', { key })).status).toBe(200);
  });

  it('412: under an ETag that is no longer true', async () => {
    const { id } = await t.createKey();
    const path = `/auth/api-keys/${id}`;
    const patch = (ifMatch: string, name: string) =>
      t.send('PATCH', path, { body: { name }, headers: { 'If-Match': ifMatch } });
    expect((await patch('"0"', 'first')).status).toBe(200);
    const { reply, facts } = await recording(t, () => patch('"0"', 'second'));
    expect([reply.status, reply.body.error]).toEqual([412, 'stale']);
    expect(facts).toEqual([]);
    expect((await patch('*', 'third')).body.data.name).toBe('third');
    expect((await patch('"two"', 'fourth')).status).toBe(400);
  });

  it.each([
    ['scope', { scope: 'full-admin' }],
    ['id', { id: 1 }],
    ['revoked_at', { revoked_at: null }],
    ['status', { status: 'active' }],
    ['owner', { owner: { type: 'api_key', id: '9' } }],
    ['mail_domain', { mail_domain: null }],
    ['key', { key: 'x' }],
    ['rate_limit_per_minute', { rate_limit_per_minute: 0 }],
    ['rate_limit_per_minute', { rate_limit_per_minute: 1_000_001 }],
    ['expires_at', { expires_at: '2020-01-01T00:00:00Z' }],
    ['name', { name: null }],
  ])('400: %s cannot be set so (15.3.3)', async (path, body) => {
    const { id } = await t.createKey();
    const { reply, facts } = await recording(t, () =>
      t.send('PATCH', `/auth/api-keys/${id}`, { body }),
    );
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(issuesOf(reply.body.data)).toEqual([path]);
    expect(facts).toEqual([]);
  });

  it('403: nobody raises a key beyond their own (8.2.1)', async () => {
    const own = await t.createDomain();
    const fields = { mail_domain: own.name, rate_limit_per_minute: 100, expires_at: inAnHour() };
    const maker = await t.createKey({ ...fields, scope: 'domain-admin' });
    const same = await t.createKey(fields);
    const higher = await t.createKey({ ...fields, scope: 'full-admin' });
    const patch = (id: number, body: object) =>
      recording(t, () => t.send('PATCH', `/auth/api-keys/${id}`, { key: maker.key, body }));
    for (const [id, body] of [
      [same.id, { rate_limit_per_minute: 101 }],
      [same.id, { expires_at: null }],
      [maker.id, { rate_limit_per_minute: 101 }],
      [maker.id, { expires_at: new Date(clock.nowMs() + 2 * HOUR_MS).toISOString() }],
      [higher.id, { name: 'mine now' }],
    ] as const) {
      const { reply, facts } = await patch(id, body);
      expect([reply.status, reply.body.error]).toEqual([403, 'beyond_own_authority']);
      expect(facts).toEqual([]);
    }
    expect((await patch(same.id, { name: 'still mine' })).reply.status).toBe(200);
  });

  it('409: a key that has ended', async () => {
    const { id } = await t.createKey();
    await t.send('POST', `/auth/api-keys/${id}/revoke`);
    const { reply, facts } = await recording(t, () =>
      t.send('PATCH', `/auth/api-keys/${id}`, { body: { name: 'x' } }),
    );
    expect([reply.status, reply.body.error]).toEqual([409, 'state_conflict']);
    expect(facts).toEqual([]);
  });

  it('404: a key that is not there', async () => {
    const reply = await t.send('PATCH', '/auth/api-keys/999999', { body: { name: 'x' } });
    expect([reply.status, reply.body.error]).toEqual([404, 'not_found']);
  });
});

describe('POST /auth/api-keys/{id}/revoke', () => {
  it('200: ends the key at once, with its reason as a personal value', async () => {
    const { id, key } = await t.createKey();
    const { reply, facts } = await recording(t, () =>
      t.send('POST', `/auth/api-keys/${id}/revoke`, { body: { reason: 'leaked' } }),
    );
    expect(reply.body).toMatchObject({ message: 'Revoked', data: { id, status: 'revoked' } });
    expect(reply.body.data.revoked_at).toBe(facts[0]?.recorded_at);
    expect(facts).toMatchObject([
      { type: 'api_key.revoked', resource: { id: String(id) }, disclosed: { reason: 'leaked' } },
    ]);
    expect(JSON.stringify(facts[0]?.data)).not.toContain('leaked');
    expect((await t.send('GET', '/domains', { key })).status).toBe(401);
  });

  it('200: without a body, and again, which records nothing', async () => {
    const { id } = await t.createKey();
    const first = await recording(t, () => t.send('POST', `/auth/api-keys/${id}/revoke`));
    const again = await recording(t, () => t.send('POST', `/auth/api-keys/${id}/revoke`));
    expect([first.reply.status, again.reply.status]).toEqual([200, 200]);
    expect(typesOf(first.facts)).toEqual(['api_key.revoked']);
    expect(again.facts).toEqual([]);
    expect(again.reply.body.data).toEqual(first.reply.body.data);
  });

  it('200: a key may end itself', async () => {
    const own = await t.createDomain();
    const { id, key } = await t.createKey({ scope: 'domain-admin', mail_domain: own.name });
    expect((await t.send('POST', `/auth/api-keys/${id}/revoke`, { key })).status).toBe(200);
    expect((await t.send('GET', '/domains', { key })).status).toBe(401);
  });

  it('403: a key of a higher scope (8.2.1)', async () => {
    const own = await t.createDomain();
    const admin = await t.createKey({ scope: 'domain-admin', mail_domain: own.name });
    const higher = await t.createKey({ scope: 'full-admin', mail_domain: own.name });
    for (const [method, suffix] of [
      ['POST', '/revoke'],
      ['DELETE', ''],
      ['POST', '/rotate'],
    ] as const) {
      const { reply, facts } = await recording(t, () =>
        t.send(method, `/auth/api-keys/${higher.id}${suffix}`, { key: admin.key }),
      );
      expect([reply.status, reply.body.error]).toEqual([403, 'beyond_own_authority']);
      expect(facts).toEqual([]);
    }
    expect((await t.send('GET', '/domains', { key: higher.key })).status).toBe(200);
  });

  it('404: a key that is not there', async () => {
    expect((await t.send('POST', '/auth/api-keys/999999/revoke')).status).toBe(404);
  });

  it('412: under an ETag that is no longer true', async () => {
    const { id, key } = await t.createKey();
    const reply = await t.send('POST', `/auth/api-keys/${id}/revoke`, {
      headers: { 'If-Match': '"9"' },
    });
    expect([reply.status, reply.body.error]).toEqual([412, 'stale']);
    expect((await t.send('GET', '/domains', { key })).status).toBe(200);
  });
});

describe('DELETE /auth/api-keys/{id}', () => {
  it('200: ends the key and takes it out of every list', async () => {
    const { id, key } = await t.createKey();
    const { reply, facts } = await recording(t, () => t.send('DELETE', `/auth/api-keys/${id}`));
    expect(reply.status).toBe(200);
    expect(reply.body).toEqual({ data: null, error: null, message: 'Deleted' });
    expect(facts).toMatchObject([{ type: 'api_key.deleted', resource: { id: String(id) } }]);
    expect((await t.send('GET', '/domains', { key })).status).toBe(401);
    const list = await t.send('GET', '/auth/api-keys?limit=1000');
    expect(list.body.data.map((item: { id: number }) => item.id)).not.toContain(id);
  });

  it('200: also of a key that has ended', async () => {
    const { id } = await t.createKey();
    await t.send('POST', `/auth/api-keys/${id}/revoke`);
    expect((await t.send('DELETE', `/auth/api-keys/${id}`)).status).toBe(200);
  });

  it('404: again, and every other write to it', async () => {
    const { id } = await t.createKey();
    await t.send('DELETE', `/auth/api-keys/${id}`);
    const before = await headOf(t);
    for (const [method, suffix, body] of [
      ['DELETE', '', undefined],
      ['PATCH', '', { name: 'x' }],
      ['POST', '/revoke', undefined],
      ['POST', '/rotate', undefined],
    ] as const) {
      expect((await t.send(method, `/auth/api-keys/${id}${suffix}`, { body })).status).toBe(404);
    }
    expect(await headOf(t)).toBe(before);
  });

  it('412: under an ETag that is no longer true, and nothing is deleted', async () => {
    const { id, key } = await t.createKey();
    const { reply, facts } = await recording(t, () =>
      t.send('DELETE', `/auth/api-keys/${id}`, { headers: { 'If-Match': '"9"' } }),
    );
    expect([reply.status, reply.body.error]).toEqual([412, 'stale']);
    expect(facts).toEqual([]);
    expect((await t.send('GET', '/domains', { key })).status).toBe(200);
  });
});

describe('GET /auth/api-keys/{id}/activity', () => {
  it('200: when it was active, what it did and from where', async () => {
    const { id, key } = await t.createKey({ rate_limit_per_minute: 1 });
    const firstMinute = Math.floor(clock.nowMs() / 60_000) * 60_000;
    for (let n = 0; n < 11; n += 1) await t.send('GET', '/domains', { key });
    await t.send('POST', '/domains', { key, body: { name: 'x.example' } });
    const open = await t.send('GET', `/auth/api-keys/${id}/activity`);
    const window = {
      from: new Date(firstMinute).toISOString(),
      to: new Date(firstMinute + 60_000).toISOString(),
      requests: 12,
      denied: 1,
      rate_limited: 1,
      addresses: ['127.0.0.1'],
    };
    expect(open.body.data).toMatchObject({
      key_id: id,
      active_until: null,
      ended_by: null,
      windows: [window],
    });
    // Once its minute is over the window is an event, and is shown as it was.
    clock.advance(60_000);
    await t.gateway.context.activity.flush();
    const closed = await t.send('GET', `/auth/api-keys/${id}/activity`);
    expect(closed.body.data).toEqual(open.body.data);
    await t.send('POST', `/auth/api-keys/${id}/revoke`);
    const ended = await t.send('GET', `/auth/api-keys/${id}/activity`);
    const { events, active_from, active_until } = ended.body.data;
    expect(events).toMatchObject([
      { type: 'api_key.created', at: active_from },
      { type: 'api_key.revoked', at: active_until },
    ]);
    expect(ended.body.data.ended_by).toBe('revoked');
  });

  it('200: refusals after the end are shown too', async () => {
    const { id, key } = await t.createKey();
    await t.send('POST', `/auth/api-keys/${id}/revoke`);
    for (let n = 0; n < 3; n += 1) await t.send('GET', '/domains', { key });
    const deniedOf = async () =>
      (await t.send('GET', `/auth/api-keys/${id}/activity`)).body.data.windows.reduce(
        (sum: number, { denied }: { denied: number }) => sum + denied,
        0,
      );
    expect(await deniedOf()).toBe(3);
    clock.advance(60_000);
    await t.gateway.context.activity.flush();
    expect(await deniedOf()).toBe(3);
  });

  it('200: of a deleted key for those who read everything; 404 for others', async () => {
    const own = await t.createDomain();
    const { id } = await t.createKey({ mail_domain: own.name });
    await t.send('DELETE', `/auth/api-keys/${id}`);
    const path = `/auth/api-keys/${id}/activity`;
    const reply = await t.send('GET', path);
    expect(reply.body.data).toMatchObject({ key_id: id, ended_by: 'deleted' });
    expect(reply.body.data.events.map(({ type }: { type: string }) => type)).toEqual([
      'api_key.created',
      'api_key.deleted',
    ]);
    const statusFor = async (fields: object) =>
      (await t.send('GET', path, { key: (await t.createKey(fields)).key })).status;
    expect(await statusFor({ scope: 'read-only' })).toBe(200);
    expect(await statusFor({ scope: 'read-only', mail_domain: own.name })).toBe(404);
    expect(await statusFor({ scope: 'quarantine-only' })).toBe(404);
    expect(await statusFor({ scope: 'domain-admin', mail_domain: own.name })).toBe(404);
    expect(await statusFor({ scope: 'full-admin', mail_domain: own.name })).toBe(404);
  });

  it('404: a key that never was', async () => {
    expect((await t.send('GET', '/auth/api-keys/999999/activity')).status).toBe(404);
  });
});

describe('GET /auth/api-keys/{id}/activity, where the database has a later clock', () => {
  let late: TestGateway;
  let lateClock: StoppedClock;
  beforeAll(async () => {
    lateClock = stoppedClock(HOUR_MS / 2);
    late = await startTestGateway({ clock: lateClock });
  });
  afterAll(() => late.close());

  it('200: a key that was revoked has ended', async () => {
    const { id } = await late.createKey();
    const revoked = await late.send('POST', `/auth/api-keys/${id}/revoke`);
    const reply = await late.send('GET', `/auth/api-keys/${id}/activity`);
    expect(reply.body.data).toMatchObject({
      ended_by: 'revoked',
      active_until: revoked.body.data.revoked_at,
    });
  });

  it('200: narrows its windows to from and to', async () => {
    const { id, key } = await late.createKey();
    await late.send('GET', '/domains', { key });
    const minute = Math.floor(lateClock.nowMs() / 60_000) * 60_000;
    lateClock.advance(60_000);
    const windowsOf = async (query: string) =>
      (await late.send('GET', `/auth/api-keys/${id}/activity?${query}`)).body.data.windows.length;
    const iso = (ms: number) => new Date(ms).toISOString();
    for (const isFlushed of [false, true]) {
      if (isFlushed) await late.gateway.context.activity.flush();
      expect(await windowsOf(`from=${iso(minute)}&to=${iso(minute + 1)}`)).toBe(1);
      expect(await windowsOf(`from=${iso(minute + 60_000)}`)).toBe(0);
      expect(await windowsOf(`to=${iso(minute)}`)).toBe(0);
    }
  });
});

describe('last_used_at', () => {
  it('is exact to the millisecond, also for a refused request', async () => {
    const { id, key } = await t.createKey();
    const use = async () => (await t.send('GET', `/auth/api-keys/${id}`)).body.data;
    expect(await use()).toMatchObject({ first_used_at: null, last_used_at: null });
    const first = clock.text();
    await t.send('GET', '/domains', { key });
    clock.advance(17);
    await t.send('POST', '/domains', { key, body: { name: 'x.example' } });
    expect(await use()).toMatchObject({ first_used_at: first, last_used_at: clock.text() });
    clock.advance(5);
    await t.send('GET', '/domains', { key: `${key.slice(0, -1)}${key.endsWith('0') ? '1' : '0'}` });
    expect((await use()).last_used_at).not.toBe(clock.text());
  });
});
