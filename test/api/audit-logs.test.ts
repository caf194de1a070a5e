import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sealedThrough } from '../../src/api/audit-export.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { allSince, headOf, type Recorded } from '../support/recorded.ts';
import { type StoppedClock, stoppedClock } from '../support/stopped-clock.ts';

type Line = { position: string; type: string; resource: any } & Record<string, any>;

let t: TestGateway;
let clock: StoppedClock;
let own: { id: number; name: string };
let foreign: { id: number; name: string };
let gone: { id: number; name: string };
let deleted: { id: number; key: string };
let admin: { id: number; key: string };
let events: Recorded[];

beforeAll(async () => {
  clock = stoppedClock();
  t = await startTestGateway({ clock });
  own = await t.createDomain('own.example', { backend_servers: ['mx.own.example:25'] });
  foreign = await t.createDomain('foreign.example', { backend_servers: ['mx.foreign.example:25'] });
  gone = await t.createDomain('gone.example');
  admin = await t.createKey({ name: 'own admin', scope: 'domain-admin', mail_domain: own.name });
  await t.createKey({ name: 'foreign reader', mail_domain: foreign.name });
  deleted = await t.createKey({ name: 'to be forgotten' });
  await t.send('PATCH', `/domains/${own.id}`, { key: admin.key, body: { active: false } });
  await t.send('PATCH', `/domains/${foreign.id}`, { body: { active: false } });
  await t.send('POST', '/domains', { key: deleted.key, body: { name: 'refused.example' } });
  const revoked = await t.createKey({ name: 'leaked' });
  await t.send('POST', `/auth/api-keys/${revoked.id}/revoke`, {
    body: { reason: 'found in a log' },
  });
  await t.send('DELETE', `/domains/${gone.id}`);
  await t.send('DELETE', `/auth/api-keys/${deleted.id}`);
  await t.gateway.context.activity.flush(true);
  for (const key of [t.bootstrapKey, admin.key])
    await t.send('GET', '/audit/logs?limit=1', { key });
  events = await allSince(t, 0n);
});
afterAll(() => t.close());

const read = async (query: string, key = t.bootstrapKey): Promise<Line[]> => {
  const reply = await t.send('GET', `/audit/logs?limit=10000&${query}`, { key });
  expect([query, reply.status]).toEqual([query, 200]);
  return reply.body.data;
};
const positionsOf = (lines: readonly { position: string }[]) =>
  lines.map(({ position }) => position);
const find = (type: string, id: number | string) =>
  events.find((event) => event.type === type && event.resource.id === String(id))!;

describe('GET /audit/logs', () => {
  it('200: every event once, ascending, each a line of exactly these members', async () => {
    const reply = await t.send('GET', '/audit/logs?limit=10000');
    expect(reply.body).toMatchObject({ error: null, message: 'OK' });
    expect(positionsOf(reply.body.data)).toEqual(positionsOf(events));
    for (const line of reply.body.data) {
      expect(Object.keys(line).toSorted()).toEqual([
        'actor',
        'cursor',
        'data',
        'erased',
        'event_id',
        'mail_domains',
        'occurred_at',
        'outcome',
        'position',
        'recorded_at',
        'request_id',
        'resource',
        'revision',
        'schema_version',
        'source',
        'stream',
        'type',
        'withheld',
      ]);
      expect(line.cursor).toMatch(/^[a-z]/i);
      expect(line.recorded_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
      // With its quotes: a cursor may hold the letters by chance.
      expect(JSON.stringify(line)).not.toContain('"_sd"');
      expect(line.withheld).toEqual([]);
    }
  });

  it('200: has names and disclosed values in their place, mail domains by name', async () => {
    const lines = await read('');
    const created = lines.find(
      (line) => line.type === 'mail_domain.created' && line.resource.id === String(own.id),
    );
    expect(created).toMatchObject({
      actor: { type: 'api_key', id: '1', name: 'bootstrap' },
      resource: { type: 'mail_domain', id: String(own.id), name: 'own.example' },
      mail_domains: ['own.example'],
      data: { id: String(own.id), backend_servers: ['mx.own.example:25'] },
      source: { node: 'node-1', ip: '127.0.0.1' },
      outcome: 'success',
      erased: [],
    });
    const key = lines.find(
      (line) => line.type === 'api_key.created' && line.resource.id === String(admin.id),
    );
    expect(key?.['resource']).toMatchObject({
      name: 'own admin',
      key_prefix: admin.key.slice(0, 20),
    });
    const revoked = lines.find((line) => line.type === 'api_key.revoked');
    expect(revoked?.['data']).toEqual({ reason: 'found in a log' });
  });

  it('200: names what was erased', async () => {
    const lines = await read(`resource=api_key:${deleted.id}`);
    expect(lines.length).toBeGreaterThan(2);
    for (const line of lines) {
      expect(line['resource']).toEqual({ type: 'api_key', id: String(deleted.id), name: null });
      expect(line['erased']).toContain('resource.name');
    }
    const denied = lines.find(({ type }) => type === 'api_key.denied');
    expect(denied?.['erased']).toEqual(expect.arrayContaining(['actor.name', 'resource.name']));
    expect(denied?.['data']['addresses']).toEqual(['127.0.0.1']);
  });

  it('200: a narrowed reader sees its mail domain and of others nothing', async () => {
    const lines = await read('', admin.key);
    const visible = events.filter((event) => event.mail_domains.includes(String(own.id)));
    expect(positionsOf(lines)).toEqual(positionsOf(visible));
    expect(visible.length).toBeGreaterThan(3);
    const text = JSON.stringify(lines);
    expect(text).not.toMatch(/foreign|gone|bootstrap/);
    const byStranger = lines.find((line) => line.type === 'mail_domain.created');
    expect(byStranger).toMatchObject({
      actor: { type: 'api_key', id: '1', name: null },
      source: { ip: null, user_agent: null },
      withheld: ['actor.name', 'source.ip', 'source.user_agent'],
      erased: [],
    });
    const byItself = lines.find((line) => line.type === 'mail_domain.updated');
    expect(byItself).toMatchObject({
      actor: { name: 'own admin' },
      source: { ip: '127.0.0.1' },
      withheld: [],
    });
  });

  const filters: [string, (event: Recorded) => boolean][] = [
    ['actor=api_key:1', ({ actor }) => actor.type === 'api_key' && actor.id === '1'],
    [
      'actor=api_key:1,system:mailguard',
      ({ actor }) => actor.id === '1' || actor.type === 'system',
    ],
    ['actor=api_key:999', () => false],
    ['actor_type=system', ({ actor }) => actor.type === 'system'],
    ['actor_type=system,anonymous', ({ actor }) => /system|anonymous/.test(actor.type)],
    [
      'resource=mail_domain:1',
      ({ resource }) => resource.type === 'mail_domain' && resource.id === '1',
    ],
    [
      'resource=mail_domain:1,mail_domain:2',
      ({ resource: r }) => r.type === 'mail_domain' && +r.id < 3,
    ],
    ['resource_type=audit_log', ({ resource }) => resource.type === 'audit_log'],
    ['resource_type=mail_domain,audit_log', ({ resource }) => resource.type !== 'api_key'],
    ['action=api_key.created', ({ type }) => type === 'api_key.created'],
    ['action=api_key.*', ({ type }) => type.startsWith('api_key.')],
    [
      'action=api_key.*,mail_domain.deleted',
      ({ type }) => /^api_key\.|mail_domain.deleted/.test(type),
    ],
    ['action=nothing.*', () => false],
    ['action=nothing.happened', () => false],
    ['outcome=denied', ({ outcome }) => outcome === 'denied'],
    ['outcome=denied,success', () => true],
    ['outcome=failure', () => false],
    ['domain=own.example', ({ mail_domains }) => mail_domains.includes('1')],
    ['domain=OWN.example.', ({ mail_domains }) => mail_domains.includes('1')],
    ['domain=1', ({ mail_domains }) => mail_domains.includes('1')],
    ['domain=3', ({ mail_domains }) => mail_domains.includes('3')],
    ['domain=gone.example', ({ mail_domains }) => mail_domains.includes('3')],
    [
      'domain=1&action=mail_domain.*&actor=api_key:1',
      ({ mail_domains, type, actor }) =>
        mail_domains.includes('1') && type.startsWith('mail_domain.') && actor.id === '1',
    ],
    [
      'resource_type=api_key&outcome=denied&action=*'.replace('&action=*', ''),
      ({ resource, outcome }) => resource.type === 'api_key' && outcome === 'denied',
    ],
    [
      'actor=api_key:1&resource=api_key:2',
      ({ actor, resource }) =>
        actor.id === '1' && resource.type === 'api_key' && resource.id === '2',
    ],
  ];
  it.each(filters)('200: ?%s', async (query, matches) => {
    expect(positionsOf(await read(query))).toEqual(positionsOf(events.filter(matches)));
  });

  it.each(filters)('200: ?%s as a narrowed reader', async (query, matches) => {
    // Other mail domains than its own are as unknown as none.
    if (/domain=(3|gone)/.test(query)) return;
    const visible = events.filter((event) => event.mail_domains.includes(String(own.id)));
    expect(positionsOf(await read(query, admin.key))).toEqual(positionsOf(visible.filter(matches)));
  });

  it('200: from and to are half open, to the microsecond, with any offset', async () => {
    const [first, last] = [find('mail_domain.created', own.id), find('api_key.revoked', 5)];
    const within = (from: string, to: string) =>
      events.filter(({ recorded_at }) => recorded_at >= from && recorded_at < to);
    const from = first.recorded_at;
    const to = last?.recorded_at ?? events.at(-2)!.recorded_at;
    expect(positionsOf(await read(`from=${from}&to=${to}`))).toEqual(positionsOf(within(from, to)));
    expect(positionsOf(await read(`from=${to}`))).toEqual(positionsOf(within(to, '9')));
    expect(await read(`from=${from}&to=${from}`)).toEqual([]);
    const local = new Date(Date.parse(`${from.slice(0, 19)}Z`) + 7_200_000)
      .toISOString()
      .slice(0, 19);
    const withOffset = encodeURIComponent(`${local}.${from.slice(20, 26)}+02:00`);
    expect(positionsOf(await read(`from=${withOffset}&to=${to}`))).toEqual(
      positionsOf(within(from, to)),
    );
  });

  it('200: after= begins behind a known line', async () => {
    const head = await headOf(t);
    expect(positionsOf(await read('after=5'))).toEqual(positionsOf(events.slice(5)));
    expect(positionsOf(await read('after=0'))).toEqual(positionsOf(events));
    expect(await read(`after=${head}`)).toEqual([]);
  });

  it('200: a page says where to go on, whether more is there, and what is final', async () => {
    const reply = await t.send('GET', '/audit/logs?limit=3&action=api_key.*');
    const matching = events.filter(({ type }) => type.startsWith('api_key.'));
    expect(positionsOf(reply.body.data)).toEqual(positionsOf(matching.slice(0, 3)));
    const next = reply.headers.get('x-next-cursor');
    expect(reply.headers.get('x-has-more')).toBe('true');
    expect(reply.body.data.at(-1).cursor).toBe(next);
    const link = /^<\/api\/v1(\/audit\/logs\?.*)>; rel="next"$/.exec(
      reply.headers.get('link') ?? '',
    );
    const followed = await t.send('GET', link?.[1] ?? '');
    expect(positionsOf(followed.body.data)).toEqual(positionsOf(matching.slice(3, 6)));
    const head = await t.gateway.context.log.head();
    expect(reply.headers.get('x-sealed-through')).toBe(sealedThrough(head.recordedAt));
  });

  it('200: the last and the empty page too, and a poller misses nothing', async () => {
    const last = await t.send('GET', '/audit/logs?limit=10000');
    expect(last.headers.get('x-has-more')).toBe('false');
    expect(last.headers.get('link')).toBeNull();
    const cursor = last.headers.get('x-next-cursor');
    const empty = await t.send('GET', `/audit/logs?cursor=${cursor}`);
    expect(empty.body.data).toEqual([]);
    expect(empty.headers.get('x-next-cursor')).toBe(cursor);
    expect(empty.headers.get('x-has-more')).toBe('false');
    expect(empty.headers.get('x-sealed-through')).toMatch(/Z$/);
    const { id } = await t.createKey();
    const more = await t.send('GET', `/audit/logs?cursor=${cursor}`);
    expect(more.body.data).toMatchObject([
      { type: 'api_key.created', resource: { id: String(id) } },
    ]);
  });

  it('200: 100 lines unless said otherwise', async () => {
    const { log } = t.gateway.context;
    const { anEvent } = await import('../support/events.ts');
    await log.append({
      stream: 'test-many',
      expected: 'none',
      events: Array.from({ length: 120 }, () => anEvent()),
    });
    const reply = await t.send('GET', '/audit/logs?resource=test:1');
    expect(reply.body.data).toHaveLength(100);
    expect(reply.headers.get('x-has-more')).toBe('true');
  });

  it('200: form=evidence is what was hashed, byte for byte, and what is disclosed of it', async () => {
    const reply = await t.send('GET', '/audit/logs?form=evidence&limit=10000');
    const { log } = t.gateway.context;
    const stored = await log.readAll({
      after: 0n,
      until: await headOf(t),
      filter: {},
      limit: 10_000,
    });
    const expected = stored.events.map(
      (e) => `{"line":${e.line},"disclosures":[${e.disclosures}]}`,
    );
    expect(reply.text).toBe(`{"data":[${expected.join(',')}],"error":null,"message":"OK"}`);
    expect(reply.headers.get('x-next-cursor')).toMatch(/^c/);
    for (const { line, disclosures } of reply.body.data) {
      const committed = JSON.stringify(line);
      for (const disclosure of disclosures) {
        const digest = createHash('sha256').update(disclosure).digest('base64url');
        expect(committed).toContain(digest);
      }
    }
    const created = reply.body.data.find(
      (item: any) => item.line.resource.id === String(deleted.id),
    );
    expect(created.line.resource._sd).toHaveLength(2);
    expect(
      JSON.stringify(
        created.disclosures.map((d: string) => Buffer.from(d, 'base64url').toString()),
      ),
    ).not.toContain('forgotten');
  });

  it("422: a mail domain that is not there, or not the reader's", async () => {
    for (const [domain, key] of [
      ['nowhere.example', t.bootstrapKey],
      ['gone.example', admin.key],
      ['foreign.example', admin.key],
      [String(foreign.id), admin.key],
      ['not a name', t.bootstrapKey],
    ] as const) {
      const path = `/audit/logs?domain=${encodeURIComponent(domain)}`;
      const reply = await t.send('GET', path, { key });
      expect([domain, reply.status, reply.body.error]).toEqual([
        domain,
        422,
        'unknown_mail_domain',
      ]);
    }
  });
});

describe('audit.read', () => {
  it('is recorded once per reader and hour, before anything is read', async () => {
    const before = await headOf(t);
    const reader = await t.createKey();
    const first = await t.send('GET', '/audit/logs?limit=10000', { key: reader.key });
    const own = first.body.data.filter(
      (line: Line) => line['type'] === 'audit.read' && line['actor'].id === String(reader.id),
    );
    expect(own).toHaveLength(1);
    for (const path of ['/audit/logs', '/audit/logs/1', '/audit/logs?form=evidence']) {
      await t.send('GET', path, { key: reader.key });
    }
    const reads = async () =>
      (await allSince(t, before)).filter(
        ({ type, actor }) => type === 'audit.read' && actor.id === String(reader.id),
      ).length;
    expect(await reads()).toBe(1);
    clock.advance(3_600_000);
    await Promise.all(
      Array.from({ length: 5 }, () => t.send('GET', '/audit/logs/1', { key: reader.key })),
    );
    expect(await reads()).toBe(2);
  });

  it('does not feed a poller with its own reading', async () => {
    await t.gateway.context.activity.flush();
    const reader = await t.createKey();
    const first = await t.send('GET', '/audit/logs?limit=10000', { key: reader.key });
    let cursor = first.headers.get('x-next-cursor');
    for (let poll = 0; poll < 20; poll += 1) {
      const reply = await t.send('GET', `/audit/logs?cursor=${cursor}`, { key: reader.key });
      expect(reply.body.data).toEqual([]);
      cursor = reply.headers.get('x-next-cursor');
    }
  });
});

describe('GET /audit/logs/{position}', () => {
  it('200: the line as the list has it, without a cursor', async () => {
    const [line] = await read('after=3');
    const { cursor: _, ...rest } = line!;
    expect((await t.send('GET', '/audit/logs/4')).body.data).toEqual(rest);
  });

  it('200: form=evidence, byte for byte', async () => {
    const { log } = t.gateway.context;
    const {
      events: [stored],
    } = await log.readAll({ after: 3n, until: 4n, filter: {}, limit: 1 });
    const reply = await t.send('GET', '/audit/logs/4?form=evidence');
    expect(reply.text).toBe(
      `{"data":{"line":${stored?.line},"disclosures":[${stored?.disclosures}]},"error":null,"message":"OK"}`,
    );
  });

  it('404: none there, or one of another mail domain', async () => {
    const { position } = find('mail_domain.created', foreign.id);
    const replies = [
      await t.send('GET', `/audit/logs/${position}`, { key: admin.key }),
      await t.send('GET', '/audit/logs/999999', { key: admin.key }),
    ];
    expect(replies.map(({ status }) => status)).toEqual([404, 404]);
    expect(replies[0]?.text).toBe(replies[1]?.text);
    expect((await t.send('GET', `/audit/logs/${position}`)).status).toBe(200);
  });
});

describe('X-Sealed-Through', () => {
  it.each([
    [null, '1970-01-01T00:00:00.000000Z'],
    ['2026-05-01T07:42:13.004211Z', '2026-05-01T07:42:13.004212Z'],
    ['2026-05-01T07:42:13.999999Z', '2026-05-01T07:42:14.000000Z'],
    ['2026-12-31T23:59:59.999999Z', '2027-01-01T00:00:00.000000Z'],
  ])('after %s is %s', (head, sealed) => {
    expect(sealedThrough(head)).toBe(sealed);
  });
});
