import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { recording, typesOf } from '../support/recorded.ts';

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
});
afterAll(() => t.close());

const DEFAULTS = {
  direction: 'inbound',
  active: true,
  backend_servers: [],
  quarantine_threshold: 12,
  reject_threshold: 18,
  dkim_active: false,
  dmarc_reporting: false,
  tenant_id: null,
  quarantine_retention_days: 30,
};
const WHOLE = {
  direction: 'outbound',
  active: false,
  backend_servers: ['mx1.example.com:25', '[2001:db8::1]:2525', '192.0.2.1:65535'],
  quarantine_threshold: 5.5,
  reject_threshold: 6,
  dkim_active: true,
  dmarc_reporting: true,
  tenant_id: 'acme',
  quarantine_retention_days: 7,
};
const post = (body: object) => recording(t, () => t.send('POST', '/domains', { body }));

describe('POST /domains', () => {
  it('201: with defaults, and its names outside the line', async () => {
    const { reply, facts } = await post({ name: 'first.example' });
    expect(reply.status).toBe(201);
    const { id, created_at, updated_at, ...rest } = reply.body.data;
    expect(rest).toEqual({ name: 'first.example', ...DEFAULTS });
    expect(created_at).toBe(updated_at);
    expect(reply.body.message).toBe('Created');
    expect(reply.headers.get('location')).toBe(`/api/v1/domains/${id}`);
    expect(reply.headers.get('etag')).toBe('"0"');
    expect(facts).toMatchObject([
      {
        type: 'mail_domain.created',
        resource: { type: 'mail_domain', id: String(id) },
        mail_domains: [String(id)],
        recorded_at: created_at,
        disclosed: { name: 'first.example', backend_servers: [] },
      },
    ]);
    const { disclosed: _, ...line } = facts[0]!;
    expect(JSON.stringify(line)).not.toContain('first');
  });

  it('201: with everything, and shown so', async () => {
    const { reply, facts } = await post({ name: 'whole.example', ...WHOLE });
    expect(reply.body.data).toMatchObject({ name: 'whole.example', ...WHOLE });
    expect((await t.send('GET', `/domains/${reply.body.data.id}`)).body.data).toEqual(
      reply.body.data,
    );
    expect(facts[0]?.disclosed['backend_servers']).toEqual(WHOLE.backend_servers);
    expect(JSON.stringify(facts[0]?.data)).not.toContain('mx1');
  });

  it.each([
    ['EXAMPLE.Org', 'example.org'],
    ['final.dot.example.', 'final.dot.example'],
    ['bücher.example', 'xn--bcher-kva.example'],
    ['例え.テスト', 'xn--r8jz45g.xn--zckzah'],
    ['full。width.example', 'full.width.example'],
    ['faß.example', 'xn--fa-hia.example'],
    ['a-b.c-d.example', 'a-b.c-d.example'],
  ])('201: %s is %s', async (given, name) => {
    const { reply } = await post({ name: given });
    expect(reply.body.data?.name).toBe(name);
  });

  it('409: a name that is taken, in any spelling', async () => {
    await post({ name: 'täken.example' });
    for (const name of ['täken.example', 'TÄKEN.example.', 'xn--tken-loa.example']) {
      const { reply, facts } = await post({ name });
      expect([reply.status, reply.body.error]).toEqual([409, 'already_exists']);
      expect(facts).toEqual([]);
    }
  });

  it('409: of ten at once one wins', async () => {
    const replies = await Promise.all(
      Array.from({ length: 10 }, () =>
        t.send('POST', '/domains', { body: { name: 'race.example' } }),
      ),
    );
    expect(replies.map(({ status }) => status).toSorted()).toEqual([201, ...Array(9).fill(409)]);
  });

  it('201: a name that was given up becomes another mail domain', async () => {
    const first = (await post({ name: 'again.example' })).reply.body.data;
    const key = await t.createKey({ mail_domain: first.id });
    await t.send('DELETE', `/domains/${first.id}`);
    const second = (await post({ name: 'again.example' })).reply;
    expect(second.status).toBe(201);
    expect(second.body.data.id).not.toBe(first.id);
    expect((await t.send('GET', '/domains', { key: key.key })).status).toBe(401);
    expect((await t.send('GET', `/domains/${first.id}`)).status).toBe(404);
  });

  it.each([
    'nodots',
    'user@example.com',
    'example.com/path',
    'example.com:25',
    'example.com?x',
    'example.com#x',
    'example.com\\x',
    'ex%61mple.com',
    'under_score.example',
    '-lead.example',
    'trail-.example',
    'two..dots.example',
    '192.0.2.1',
    '0x7f.1',
    '[::1]',
    'exa mple.com',
    `${'a'.repeat(64)}.example`,
    `${'a.'.repeat(126)}example`,
    '*.example.com',
    '.',
  ])('400: %s is no name of a DNS domain', async (name) => {
    const { reply, facts } = await post({ name });
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(reply.body.data.issues[0].path).toBe('name');
    expect(facts).toEqual([]);
  });

  it.each<[string, object]>([
    ['name', {}],
    ['id', { name: 'x.example', id: 5 }],
    ['created_at', { name: 'x.example', created_at: '2026-01-01T00:00:00Z' }],
    ['direction', { name: 'x.example', direction: 'both' }],
    ['active', { name: 'x.example', active: 'true' }],
    ['backend_servers', { name: 'x.example', backend_servers: 'mx:25' }],
    ['backend_servers', { name: 'x.example', backend_servers: Array(21).fill('mx:25') }],
    ['backend_servers.0', { name: 'x.example', backend_servers: ['mx'] }],
    ['backend_servers.0', { name: 'x.example', backend_servers: ['mx:0'] }],
    ['backend_servers.0', { name: 'x.example', backend_servers: ['mx:65536'] }],
    ['backend_servers.0', { name: 'x.example', backend_servers: ['mx\r\nX:25'] }],
    ['quarantine_threshold', { name: 'x.example', quarantine_threshold: 19 }],
    ['quarantine_threshold', { name: 'x.example', quarantine_threshold: '5' }],
    ['reject_threshold', { name: 'x.example', reject_threshold: 1_001 }],
    ['tenant_id', { name: 'x.example', tenant_id: '' }],
    ['quarantine_retention_days', { name: 'x.example', quarantine_retention_days: 0 }],
    ['quarantine_retention_days', { name: 'x.example', quarantine_retention_days: 1.5 }],
  ])('400: %s in %j', async (path, body) => {
    const { reply, facts } = await post(body);
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(reply.body.data.issues.map((issue: { path: string }) => issue.path)).toContain(path);
    expect(facts).toEqual([]);
  });
});

describe('GET /domains', () => {
  it('200: newest first, by cursor', async () => {
    for (let n = 0; n < 5; n += 1) await t.createDomain();
    const whole = await t.send('GET', '/domains?limit=1000');
    const ids: number[] = whole.body.data.map(({ id }: { id: number }) => id);
    expect(ids).toEqual(ids.toSorted((a, b) => b - a));
    const seen: number[] = [];
    let query = 'limit=2';
    for (let page = 0; page < 100; page += 1) {
      const reply = await t.send('GET', `/domains?${query}`);
      seen.push(...reply.body.data.map(({ id }: { id: number }) => id));
      if (reply.headers.get('x-has-more') === 'false') break;
      query = `limit=2&cursor=${reply.headers.get('x-next-cursor')}`;
    }
    expect(seen).toEqual(ids);
  });

  it('200: a narrowed key sees its own alone', async () => {
    const { id, name } = await t.createDomain();
    const { key } = await t.createKey({ mail_domain: name });
    const reply = await t.send('GET', '/domains', { key });
    expect(reply.body.data.map((item: { id: number }) => item.id)).toEqual([id]);
  });
});

describe('GET /domains/{id}', () => {
  it('200: with its revision as ETag', async () => {
    const { id, name } = await t.createDomain();
    const reply = await t.send('GET', `/domains/${id}`);
    expect(reply.body).toMatchObject({ error: null, message: 'OK', data: { id, name } });
    expect(reply.headers.get('etag')).toBe('"0"');
  });

  it('404: one that is not there', async () => {
    const reply = await t.send('GET', '/domains/999999');
    expect(reply.body).toMatchObject({ data: null, error: 'not_found' });
  });
});

describe.each(['PUT', 'PATCH'])('%s /domains/{id}', (method) => {
  const change = (id: number, body: object, headers: Record<string, string> = {}) =>
    recording(t, () => t.send(method, `/domains/${id}`, { body, headers }));

  it('200: changes what is given and leaves the rest', async () => {
    const { id, name } = await t.createDomain();
    const first = await change(id, { quarantine_threshold: 8 });
    expect(first.reply.body).toMatchObject({
      message: 'Updated',
      data: { ...DEFAULTS, id, name, quarantine_threshold: 8 },
    });
    expect(first.reply.headers.get('etag')).toBe('"1"');
    expect(first.facts).toMatchObject([
      { type: 'mail_domain.updated', mail_domains: [String(id)] },
    ]);
    expect(first.facts[0]?.disclosed).not.toHaveProperty('backend_servers');
    const second = await change(id, { backend_servers: ['mx:25'], tenant_id: 'acme' });
    expect(second.facts[0]?.disclosed['backend_servers']).toEqual(['mx:25']);
    const third = await change(id, { tenant_id: null });
    expect(third.reply.body.data).toMatchObject({ tenant_id: null, backend_servers: ['mx:25'] });
    expect((await t.send('GET', `/domains/${id}`)).body.data).toEqual(third.reply.body.data);
  });

  it('200: takes a whole object as it was read, and records nothing when it is the same', async () => {
    const { id } = await t.createDomain();
    const read = (await t.send('GET', `/domains/${id}`)).body.data;
    const same = await change(id, read);
    expect(same.reply.body.data).toEqual(read);
    expect(same.facts).toEqual([]);
    const changed = await change(id, { ...read, active: false });
    expect(changed.reply.body.data).toMatchObject({ active: false });
    expect(typesOf(changed.facts)).toEqual(['mail_domain.updated']);
  });

  it('200: takes application/merge-patch+json', async () => {
    const { id } = await t.createDomain();
    const type = { 'Content-Type': 'application/merge-patch+json' };
    expect((await change(id, { active: false }, type)).reply.body.data.active).toBe(false);
  });

  it.each<[string, object]>([
    ['id', { id: 1 }],
    ['name', { name: 'other.example' }],
    ['created_at', { created_at: '2026-01-01T00:00:00.000000Z' }],
    ['updated_at', { updated_at: '2026-01-01T00:00:00.000000Z' }],
    ['active', { active: null }],
    ['quarantine_threshold', { quarantine_threshold: 18.5 }],
    ['stream', { stream: 'x' }],
  ])('400: %s as in %j', async (path, body) => {
    const { id } = await t.createDomain();
    const { reply, facts } = await change(id, body);
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(reply.body.data.issues[0].path).toBe(path);
    expect(facts).toEqual([]);
  });

  it('412: under an ETag that is no longer true', async () => {
    const { id } = await t.createDomain();
    expect((await change(id, { active: false }, { 'If-Match': '"0"' })).reply.status).toBe(200);
    const { reply, facts } = await change(id, { active: true }, { 'If-Match': '"0"' });
    expect([reply.status, reply.body.error]).toEqual([412, 'stale']);
    expect(facts).toEqual([]);
  });

  it('404: one that is not there', async () => {
    expect((await change(999_999, { active: false })).reply.status).toBe(404);
  });
});

describe('DELETE /domains/{id}', () => {
  it('200: and the keys that are bound to it are revoked at once', async () => {
    const { id, name } = await t.createDomain();
    const bound = await t.createKey({ scope: 'domain-admin', mail_domain: name });
    const rotated = await t.createKey({ mail_domain: name });
    const rotation = await t.send('POST', `/auth/api-keys/${rotated.id}/rotate`, {
      body: { grace_seconds: 60 },
    });
    const free = await t.createKey();
    const { reply, facts } = await recording(t, () => t.send('DELETE', `/domains/${id}`));
    expect(reply.body).toEqual({ data: null, error: null, message: 'Deleted' });
    expect(typesOf(facts)).toEqual(['mail_domain.deleted', ...Array(3).fill('api_key.revoked')]);
    expect(new Set(facts.map((fact) => fact.correlation_id)).size).toBe(1);
    expect(facts.every((fact) => fact.mail_domains[0] === String(id))).toBe(true);
    for (const key of [bound.key, rotated.key, rotation.body.data.key]) {
      expect((await t.send('GET', '/domains', { key })).status).toBe(401);
    }
    expect((await t.send('GET', '/domains', { key: free.key })).status).toBe(200);
    expect((await t.send('GET', `/auth/api-keys/${bound.id}`)).body.data.status).toBe('revoked');
  });

  it('412: under an ETag that is no longer true', async () => {
    const { id } = await t.createDomain();
    const { reply, facts } = await recording(t, () =>
      t.send('DELETE', `/domains/${id}`, { headers: { 'If-Match': '"9"' } }),
    );
    expect([reply.status, reply.body.error]).toEqual([412, 'stale']);
    expect(facts).toEqual([]);
  });

  it('404: again', async () => {
    const { id } = await t.createDomain();
    await t.send('DELETE', `/domains/${id}`);
    const { reply, facts } = await recording(t, () => t.send('DELETE', `/domains/${id}`));
    expect(reply.status).toBe(404);
    expect(facts).toEqual([]);
  });
});
