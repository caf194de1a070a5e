import { createHash } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { routes } from '../../src/api/routes.ts';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { openSocket, requestHead, sendRaw } from '../support/raw-http.ts';
import { factsSince } from '../support/recorded.ts';

let t: TestGateway;
let target: { key: number; domain: number };
let before: object;
beforeAll(async () => {
  t = await startTestGateway();
  target = { key: (await t.createKey()).id, domain: (await t.createDomain()).id };
  // The first read of an hour is an event of its own.
  await t.send('GET', '/audit/logs');
});
beforeEach(async () => {
  before = await everything();
});
afterAll(() => t.close());

type Route = (typeof routes)[number];
const pathOf = (route: Route, ids: { id?: string; position?: string } = {}): string =>
  `${route.atRoot ? '/' : ''}${route.path}`
    .replace(
      '{id}',
      ids.id ?? String(route.path.startsWith('/domains') ? target.domain : target.key),
    )
    .replace('{position}', ids.position ?? '1');
const send = (route: Route, path: string, options: object = {}) =>
  t.send(route.method.toUpperCase(), path, options);

/** What a refused request must leave as it was: facts of the log, names, and every read model. */
async function everything(): Promise<object> {
  const tables = ['api_keys', 'mail_domains', 'credentials', 'eventlog.subject_names'];
  const rows: string[][] = [(await factsSince(t, 0n)).map(({ event_id }) => event_id)];
  for (const table of tables) {
    const sql = `select t::text from ${table} t order by 1`;
    rows.push((await t.database.pool.query<{ t: string }>(sql)).rows.map((row) => row.t));
  }
  const digest = createHash('sha256').update(JSON.stringify(rows)).digest('hex');
  return { counts: rows.map((list) => list.length), digest };
}

async function expectRefused(reply: Reply, ...statuses: number[]): Promise<void> {
  expect(statuses).toContain(reply.status);
  expect(Object.keys(reply.body)).toEqual(['data', 'error', 'message']);
  expect(reply.body.error).toMatch(/^[a-z_]+$/);
}
const expectUnchanged = async () => expect(await everything()).toEqual(before);

const named = (list: readonly Route[]) => list.map((route) => [route.id, route] as const);
const withBody = named(routes.filter(({ body }) => body !== undefined));
const withQuery = named(routes.filter(({ method }) => method === 'get'));
const withId = named(routes.filter(({ path }) => path.includes('{')));

describe('a body', () => {
  const LEVELS = 10_000;
  const bodies: Record<string, string | Buffer> = {
    'cut off': '{"name":"x"',
    'no JSON': 'name=x',
    'single quotes': "{'name':'x'}",
    'a comment': '{/* */"name":"x"}',
    NaN: '{"rate_limit_per_minute":NaN}',
    'a byte order mark twice': '\ufeff\ufeff{}',
    'two values': '{}{}',
    'a string': '"text"',
    'a number': '5',
    'a list': '[]',
    null: 'null',
    true: 'true',
    'an unknown member': '{"surprise":1}',
    __proto__: '{"__proto__":{"scope":"full-admin"}}',
    '__proto__, escaped': '{"\\u005f_proto__":{"scope":"full-admin"}}',
    '__proto__, inside': '{"name":{"__proto__":{}}}',
    constructor: '{"constructor":{"prototype":{"scope":"full-admin"}}}',
    prototype: '{"prototype":{}}',
    'NUL in a value': '{"name":"a\\u0000b","reason":"a\\u0000b","tenant_id":"a\\u0000b"}',
    'NUL in a name': '{"na\\u0000me":"x"}',
    'half a surrogate pair': '{"name":"\\ud800","reason":"\\ud800","tenant_id":"\\ud800"}',
    'the other half': '{"name":"\\udc00x","reason":"\\udc00x","tenant_id":"\\udc00x"}',
    'half a pair in a name': '{"\\ud800":"x"}',
    'lists in lists': `${'['.repeat(LEVELS)}${']'.repeat(LEVELS)}`,
    'objects in objects': `${'{"a":'.repeat(LEVELS)}1${'}'.repeat(LEVELS)}`,
    'a deep member': `{"name":${'['.repeat(LEVELS)}${']'.repeat(LEVELS)}}`,
    'the deepest that fits': '['.repeat(262_000),
    'a number beyond numbers': `{"rate_limit_per_minute":1e400,"grace_seconds":1e400,"quarantine_threshold":1e400,"reason":1e400}`,
    'a number of digits': `{"rate_limit_per_minute":${'9'.repeat(400)},"grace_seconds":${'9'.repeat(400)},"quarantine_threshold":${'9'.repeat(400)},"reason":1}`,
  };

  it.each(withBody)('%s: nothing malformed gets in (2.2.1, 15.3.6)', async (_, route) => {
    for (const [name, body] of Object.entries(bodies)) {
      const reply = await fetchWith(route, body);
      expect([name, reply.status]).toEqual([name, 400]);
      expect(['bad_request', 'validation_failed']).toContain(reply.body.error);
    }
    await expectUnchanged();
  });

  it.each(withBody)('%s: members of the wrong type', async (_, route) => {
    const shape = (route.body as unknown as { shape: Record<string, unknown> }).shape;
    const wrong = [{}, [], [null], { length: 1 }, ['x', { toString: 'x' }], -0.5, 2 ** 53];
    for (const member of Object.keys(shape)) {
      for (const value of wrong) {
        if (member === 'backend_servers' && Array.isArray(value) && value.length === 0) continue;
        if (member.endsWith('_threshold') && value === -0.5) continue;
        const reply = await fetchWith(route, JSON.stringify({ [member]: value }));
        expect([member, value, reply.status]).toEqual([member, value, 400]);
      }
    }
    await expectUnchanged();
  });

  it.each(withBody)('%s: 413 over 256 KiB, however it comes', async (_, route) => {
    const reply = await fetchWith(route, `{"name":"${'a'.repeat(262_144)}"}`);
    await expectRefused(reply, 413);
    await expectUnchanged();
  });

  it('is UTF-8, or a name would silently become another', async () => {
    const [, create] = withBody.find(([id]) => id === 'createApiKey')!;
    const body = Buffer.from('{"name":"\xff\xfe","scope":"read-only"}', 'latin1');
    expect((await fetchWith(create, body)).status).toBe(400);
    await expectUnchanged();
  });

  it('is not needed where it is optional, and needed elsewhere', async () => {
    for (const [, route] of withBody) {
      if (route.bodyOptional) continue;
      const reply = await send(route, pathOf(route));
      expect([route.id, reply.status, reply.body.error]).toEqual([route.id, 400, 'bad_request']);
    }
    await expectUnchanged();
  });

  async function fetchWith(route: Route, body: string | Buffer): Promise<Reply> {
    const response = await fetch(`${t.url}/api/v1${pathOf(route)}`, {
      method: route.method.toUpperCase(),
      headers: { 'X-API-Key': t.bootstrapKey, 'Content-Type': 'application/json' },
      body: body as string,
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, text, body: JSON.parse(text) };
  }
});

describe('members', () => {
  const instants = [
    '2027-02-30T00:00:00Z',
    '2027-02-29T00:00:00Z',
    '2027-04-31T00:00:00Z',
    '2027-13-01T00:00:00Z',
    '2027-00-01T00:00:00Z',
    '2027-01-00T00:00:00Z',
    '2027-01-01T25:00:00Z',
    '2027-01-01T24:00:00Z',
    '2027-01-01T00:60:00Z',
    '2027-01-01T00:00:00',
    '2027-01-01 00:00:00Z',
    '2027-01-01',
    '2027-01-01T00:00Z',
    '2027-01-01T00:00:00+2:00',
    '2027-01-01T00:00:00+24:00',
    '2027-01-01T00:00:00.1234567Z',
    '20270101T000000Z',
    '1798761600',
    'tomorrow',
    '',
    '-2027-01-01T00:00:00Z',
    '+002027-01-01T00:00:00Z',
    '２０２７-01-01T00:00:00Z',
  ];
  /** Written as RFC 3339 has it, but outside of what the log's clock can say. */
  const beyond = [
    '0000-01-01T00:00:00Z',
    '0000-12-31T23:59:59Z',
    '0001-01-01T00:00:00+23:59',
    '9999-12-31T23:59:59-23:59',
  ];

  it.each([...instants, ...beyond])('expires_at %j', async (expires_at) => {
    const body = { name: 'x', scope: 'read-only', expires_at };
    await expectRefused(await t.send('POST', '/auth/api-keys', { body }), 400);
    const patch = { body: { expires_at } };
    await expectRefused(await t.send('PATCH', `/auth/api-keys/${target.key}`, patch), 400);
    await expectUnchanged();
  });

  it.each(instants)('from and to %j', async (given) => {
    const text = encodeURIComponent(given);
    for (const path of ['/audit/logs', `/auth/api-keys/${target.key}/activity`]) {
      await expectRefused(await t.send('GET', `${path}?from=${text}`), 400);
      await expectRefused(await t.send('GET', `${path}?to=${text}`), 400);
    }
  });

  it.each([
    ['/auth/api-keys/1/activity', 'from', 'to'],
    ['/audit/logs', 'from', 'to'],
    ['/audit/logs', 'occurred_from', 'occurred_to'],
    ['/mail/quarantine', 'since', 'until'],
    ['/mail/quarantine', 'min_score', 'max_score'],
  ])('%s?%s=&%s= the wrong way round, and not one point', async (path, first, last) => {
    const [low, high] = first.endsWith('score')
      ? ['-1.5', '10']
      : ['2027-01-01T23:30:00Z', '2027-01-02T00:00:00Z'];
    for (const Accept of ['application/json', 'text/csv', '*/*']) {
      const headers = { Accept };
      const reply = await t.send('GET', `${path}?${first}=${high}&${last}=${low}`, { headers });
      if (Accept === 'text/csv' && reply.status === 406) continue;
      await expectRefused(reply, 400);
      const issue = { path: last, message: `must not be before ${first}` };
      expect(reply.body.data.issues).toEqual([issue]);
    }
    expect((await t.send('GET', `${path}?${first}=${low}&${last}=${low}`)).status).toBe(200);
    expect((await t.send('GET', `${path}?${first}=${low}&${last}=${high}`)).status).toBe(200);
  });

  it('a bulk filter whose range is the wrong way round', async () => {
    const ranges = [
      ['min_score', 'max_score', { min_score: 10, max_score: 9.5 }],
      ['since', 'until', { since: '2027-01-02T00:00:00Z', until: '2027-01-01T00:00:00Z' }],
    ] as const;
    for (const [first, last, filter] of ranges) {
      const body = { action: 'discard', filter };
      const reply = await t.send('POST', '/mail/quarantine/bulk', { body });
      await expectRefused(reply, 400);
      const issue = { path: `filter.${last}`, message: `must not be before ${first}` };
      expect(reply.body.data.issues).toEqual([issue]);
    }
  });

  it.each<[string, string, object, string, RegExp]>([
    [
      'what it may be, where it is none of several',
      '/mail/quarantine/bulk',
      { action: 'discard', filter: { reason: ['spam'] } },
      'filter.reason',
      /string.*; or: .*number/,
    ],
    [
      'what is wrong inside the one that it comes nearest to',
      '/webhooks',
      { url: 'https://a.example/', event_types: ['*'], start: { at: 'noon' } },
      'start.at',
      /RFC 3339/,
    ],
  ])('is told %s', async (_, path, body, at, message) => {
    const reply = await t.send('POST', path, { body });
    await expectRefused(reply, 400);
    expect(reply.body.data.issues).toEqual([{ path: at, message: expect.stringMatching(message) }]);
  });

  it.each([...beyond, '0001-01-01T00:00:00Z', '9999-12-31T23:59:59.999999Z'])(
    'from and to %s are no bug',
    async (given) => {
      const text = encodeURIComponent(given);
      for (const path of ['/audit/logs', `/auth/api-keys/${target.key}/activity`]) {
        for (const bound of ['from', 'to']) {
          const reply = await t.send('GET', `${path}?${bound}=${text}`);
          expect([path, bound, [200, 400].includes(reply.status)]).toEqual([path, bound, true]);
        }
      }
    },
  );

  it.each([
    '',
    ' x',
    'x ',
    'a\nb',
    'a\r\nX-Evil: 1',
    'a\tb',
    'a\u001b[31mb',
    'a\u007fb',
    'a\u0085b',
    'x'.repeat(201),
  ])('name %j (1.2.1, 16.4.1)', async (name) => {
    const body = { name, scope: 'read-only' };
    await expectRefused(await t.send('POST', '/auth/api-keys', { body }), 400);
    await expectRefused(
      await t.send('PATCH', `/auth/api-keys/${target.key}`, { body: { name } }),
      400,
    );
    await expectUnchanged();
  });

  it.each([0, -1, 1.5, 1_000_001, 2 ** 53, 1e21, '100', null, true])(
    'rate_limit_per_minute %j',
    async (rate_limit_per_minute) => {
      const body = { name: 'x', scope: 'read-only', rate_limit_per_minute };
      await expectRefused(await t.send('POST', '/auth/api-keys', { body }), 400);
      await expectUnchanged();
    },
  );

  it.each([0, -1, 1.5, 2 ** 53, 2 ** 60, true, []])('mail_domain %j', async (mail_domain) => {
    const body = { name: 'x', scope: 'read-only', mail_domain };
    await expectRefused(await t.send('POST', '/auth/api-keys', { body }), 400, 422);
    await expectUnchanged();
  });

  it.each(['root', 'FULL-ADMIN', '', null, ['full-admin'], 'full-admin '])(
    'scope %j',
    async (scope) => {
      const body = { name: 'x', scope };
      await expectRefused(await t.send('POST', '/auth/api-keys', { body }), 400);
      await expectUnchanged();
    },
  );
});

describe('a query', () => {
  const queries = [
    'surprise=1',
    'surprise',
    '__proto__=1',
    '__proto__[scope]=full-admin',
    'constructor=1',
    'toString=1',
    'limit=1&limit=2',
    'limit[]=1',
    'limit[a]=1',
    'form=readable&form=readable',
    'x=%00',
    'limit=%00',
    'x=%ff',
    'x=%ed%a0%80',
    'x=%',
    'x=%zz',
    '%00=x',
    '%ed%a0%80=x',
    '=x',
  ];

  it.each(withQuery)('%s: nothing unknown, repeated or broken gets in', async (_, route) => {
    for (const query of queries) {
      const reply = await send(route, `${pathOf(route)}?${query}`);
      expect([query, reply.status]).toEqual([query, 400]);
      await expectRefused(reply, 400);
    }
    await expectUnchanged();
  });

  it.each([
    'limit=0',
    'limit=10001',
    'limit=-1',
    'limit=1.5',
    'limit=1e3',
    'limit=+1',
    'limit=',
    'limit=99999999999999999999',
    'after=-1',
    'after=1.0',
    'after=9223372036854775808',
    'after=',
    'cursor=',
    `cursor=${'c'.repeat(257)}`,
    'actor=api_key',
    'actor=:1',
    'actor=api_key:',
    'actor=API:1',
    'resource=,',
    `actor=${Array(51).fill('api_key:1').join()}`,
    `actor=api_key:${'1'.repeat(201)}`,
    'action=API_KEY.*',
    'action=*',
    'action=api_key.*.created',
    "action=api_key.created'--",
    'outcome=maybe',
    'outcome=success,,failure',
    'actor_type=api-key',
    'resource_type=',
    'domain=',
    `domain=${'a'.repeat(254)}`,
    'form=both',
    'form=',
    'order=sideways',
    'after=1&cursor=x',
  ])('GET /audit/logs?%s', async (query) => {
    const reply = await t.send('GET', `/audit/logs?${query}`);
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
  });

  it.each(["api_key:1' or '1'='1", 'api_key:$1', 'api_key:%', 'api_key:\\', 'api_key:1:2'])(
    'actor=%s is a text and nothing more (1.2.4)',
    async (actor) => {
      for (const name of ['actor', 'resource']) {
        const reply = await t.send('GET', `/audit/logs?${name}=${encodeURIComponent(actor)}`);
        expect(reply.status).toBe(200);
        expect(reply.body.data).toEqual([]);
      }
    },
  );
});

describe('a path', () => {
  const ids = [
    '0',
    '-1',
    '01',
    '1.0',
    '1e3',
    '9007199254740992',
    '9007199254740993',
    '9223372036854775808',
    '99999999999999999999999999',
    'abc',
    'null',
    '__proto__',
    'constructor',
    '%00',
    '1%00',
    '%ff',
    '%ed%a0%80',
    '%',
    '%zz',
    '%2e%2e%2f',
    '..%2f..%2fetc%2fpasswd',
    "1'--",
    '1%0d%0aX-Evil:1',
    '１',
  ];

  it.each(withId)('%s: an id that is none', async (_, route) => {
    const body = route.body === undefined || route.bodyOptional ? {} : { body: {} };
    for (const id of ids) {
      if (route.path.includes('{position}') && /^(0|01|90.*|922.*)$/.test(id)) continue;
      const reply = await send(route, pathOf(route, { id, position: id }), body);
      expect([id, [400, 404].includes(reply.status)]).toEqual([id, true]);
      await expectRefused(reply, 400, 404);
      expect(reply.headers.get('x-evil')).toBeNull();
    }
    await expectUnchanged();
  });

  it.each([
    ['0', 404],
    ['9223372036854775807', 404],
    ['9223372036854775808', 400],
    ['10000000000000000000', 400],
  ])('GET /audit/logs/%s: %i', async (position, status) => {
    await expectRefused(await t.send('GET', `/audit/logs/${position}`), status);
  });
});

describe('a request that is none', () => {
  const authorised = () => [`X-API-Key: ${t.bootstrapKey}`, 'Content-Type: application/json'];
  const body = '{"name":"smuggled","scope":"read-only"}';
  const create = 'POST /api/v1/auth/api-keys';

  it('431: a header of 66 kB', async () => {
    const reply = await sendRaw(t.url, requestHead('GET /livez', `X-Long: ${'a'.repeat(66_000)}`));
    expect([reply.status, JSON.parse(reply.body).error]).toEqual([431, 'headers_too_large']);
  });

  it('431: more than 64 headers, so that none is silently left out', async () => {
    const many = Array.from({ length: 63 }, (_, n) => `X-Filler-${n}: 1`);
    const reply = await sendRaw(
      t.url,
      requestHead('GET /api/v1/domains', ...many, `X-API-Key: ${t.bootstrapKey}`),
    );
    expect(reply.status).toBe(431);
  });

  it.each<[string, (head: readonly string[]) => string]>([
    [
      'length and chunks',
      (head) =>
        `${requestHead(create, ...head, `Content-Length: ${body.length}`, 'Transfer-Encoding: chunked')}${body}`,
    ],
    [
      'chunks and length',
      (head) =>
        `${requestHead(create, ...head, 'Transfer-Encoding: chunked', `Content-Length: ${body.length}`)}0\r\n\r\n`,
    ],
    [
      'two lengths',
      (head) =>
        `${requestHead(create, ...head, `Content-Length: ${body.length}`, 'Content-Length: 0')}${body}`,
    ],
    [
      'a length that is none',
      (head) => `${requestHead(create, ...head, 'Content-Length: 39x')}${body}`,
    ],
    ['a negative length', (head) => `${requestHead(create, ...head, 'Content-Length: -1')}${body}`],
    [
      'a space before the colon',
      (head) =>
        `${requestHead(create, ...head, 'Transfer-Encoding : chunked', `Content-Length: ${body.length}`)}${body}`,
    ],
    [
      'a folded header',
      (head) =>
        `${requestHead(create, ...head, 'X-Folded: a\r\n b', `Content-Length: ${body.length}`)}${body}`,
    ],
    [
      'bare line feeds',
      (head) =>
        `${requestHead(create, ...head, `Content-Length: ${body.length}`).replaceAll('\r\n', '\n')}${body}`,
    ],
    [
      'a bare carriage return in a header',
      (head) =>
        `${requestHead(create, ...head, 'X-Request-Id: a\rX-Evil: 1', `Content-Length: ${body.length}`)}${body}`,
    ],
    [
      'NUL in a header',
      (head) =>
        `${requestHead(create, ...head, 'X-Request-Id: a\0b', `Content-Length: ${body.length}`)}${body}`,
    ],
    [
      'chunks that are not last',
      (head) => `${requestHead(create, ...head, 'Transfer-Encoding: chunked, identity')}${body}`,
    ],
    [
      'an unknown transfer coding',
      (head) => `${requestHead(create, ...head, 'Transfer-Encoding: xchunked')}${body}`,
    ],
    [
      'a chunk size that is none',
      (head) =>
        `${requestHead(create, ...head, 'Transfer-Encoding: chunked')}zz\r\n${body}\r\n0\r\n\r\n`,
    ],
  ])('400 and the end of the connection: %s (4.2.1, 4.2.4)', async (_, bytes) => {
    const smuggled = requestHead('GET /livez');
    const reply = await sendRaw(t.url, bytes(authorised()) + smuggled);
    expect(reply.status).toBe(400);
    // One answer: what stood behind the broken request was never taken for another.
    expect(reply.text.match(/HTTP\/1\.1 /g)).toHaveLength(1);
    expect(reply.head).not.toMatch(/^x-evil/im);
    await expectUnchanged();
  });

  it('writes nothing of a request into a header (1.2.1)', async () => {
    const reply = await sendRaw(
      t.url,
      requestHead('GET /api/v1/audit/logs?action=a%0d%0aX-Evil:1&limit=1', ...authorised()),
    );
    expect(reply.status).toBe(400);
    expect(reply.head).not.toMatch(/evil/i);
  });

  it('leaves nothing of an unread body for the next request on the connection', async () => {
    const socket = openSocket(t.url);
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    const closed = new Promise((resolve) => socket.once('close', resolve));
    const inner = `${requestHead('DELETE /api/v1/auth/api-keys/1', ...authorised())}`;
    // Refused for want of a key, so its body was never looked at.
    socket.write(
      `POST /api/v1/domains HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n` +
        `Content-Length: ${inner.length}\r\n\r\n`,
    );
    await new Promise((resolve) => setTimeout(resolve, 100));
    socket.on('error', () => undefined);
    socket.write(inner);
    await closed;
    const text = Buffer.concat(chunks).toString('latin1');
    expect(text).toMatch(/^HTTP\/1\.1 401 /);
    expect(text.match(/HTTP\/1\.1 /g)).toHaveLength(1);
    await expectUnchanged();
  });
});

describe('forwarded headers (4.1.3)', () => {
  it('of somebody who is no trusted proxy are not believed', async () => {
    const headers = { 'X-Forwarded-For': '203.0.113.9', 'X-Forwarded-Host': 'evil.example' };
    const reply = await t.send('POST', '/auth/api-keys', {
      body: { name: 'forwarded', scope: 'read-only' },
      headers,
    });
    const facts = await factsSince(t, 0n);
    expect(facts.at(-1)?.disclosed['ip']).toBe('127.0.0.1');
    expect(reply.headers.get('location')).not.toContain('evil');
  });
});
