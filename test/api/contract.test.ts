import { gunzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { routes } from '../../src/api/routes.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { requestHead, sendRaw } from '../support/raw-http.ts';
import { factsSince, headOf } from '../support/recorded.ts';

let t: TestGateway;
let target: { key: number; domain: number };
beforeAll(async () => {
  t = await startTestGateway();
  target = { key: (await t.createKey()).id, domain: (await t.createDomain()).id };
});
afterAll(() => t.close());

/** A path below the root that meets a resource which is there. */
const pathOf = (route: (typeof routes)[number]): string =>
  `${route.atRoot ? '' : '/api/v1'}${route.path}`
    .replace('{id}', String(route.path.startsWith('/domains') ? target.domain : target.key))
    .replace('{position}', '1');
/** From the root, so that every route of the table can be met by its whole path. */
const send = (method: string, path: string, options = {}) => t.send(method, `/${path}`, options);

const reads = routes
  .filter(({ method }) => method === 'get')
  .map((route) => [route.id, route] as const);

describe('every answer', () => {
  it.each<[string, number, string, string, object]>([
    ['200', 200, 'GET', '/domains', {}],
    ['201', 201, 'POST', '/auth/api-keys', { body: { name: 'x', scope: 'read-only' } }],
    ['400', 400, 'POST', '/auth/api-keys', { body: '{' }],
    ['401', 401, 'GET', '/domains', { key: null }],
    ['404 of a resource', 404, 'GET', '/domains/999999', {}],
    ['404 of a path', 404, 'GET', '/nothing/here', {}],
    ['404 of a path without the base', 404, 'GET', '//auth/api-keys', {}],
    ['404 with a final slash', 404, 'GET', '/domains/', {}],
    ['404 in capitals', 404, 'GET', '/Domains', {}],
    ['405', 405, 'DELETE', '/domains', {}],
    ['406', 406, 'GET', '/domains', { headers: { Accept: 'image/png' } }],
    ['413', 413, 'POST', '/domains', { body: `"${'a'.repeat(262_143)}"` }],
    ['415', 415, 'POST', '/domains', { body: '{}', headers: { 'Content-Type': 'text/plain' } }],
    [
      '422',
      422,
      'POST',
      '/auth/api-keys',
      { body: { name: 'x', scope: 'read-only', mail_domain: 'n.example' } },
    ],
  ])(
    '%s: envelope of exactly three members, request id, constant headers (4.1.1, 3.4.1)',
    async (_, status, method, path, options) => {
      const reply = await t.send(method, path, options);
      expect(reply.status).toBe(status);
      expect(Object.keys(JSON.parse(reply.text)).toSorted()).toEqual(['data', 'error', 'message']);
      expect(reply.body.error).toEqual(status < 400 ? null : expect.stringMatching(/^[a-z_]+$/));
      expect(reply.body.message).toMatch(/\S/);
      const header = (name: string) => reply.headers.get(name);
      expect(header('content-type')).toBe('application/json; charset=utf-8');
      expect(header('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
      expect(header('cache-control')).toBe('no-store');
      expect(header('x-content-type-options')).toBe('nosniff');
      expect(header('content-security-policy')).toContain("frame-ancestors 'none'");
      expect(header('content-security-policy')).toContain("default-src 'none'");
      expect(header('referrer-policy')).toBe('no-referrer');
      expect(header('x-frame-options')).toBe('DENY');
      expect(header('x-powered-by')).toBeNull();
      expect(header('server')).toBeNull();
      expect(header('access-control-allow-origin')).toBeNull();
    },
  );

  it.each(['a', 'req_1.2-3', 'A'.repeat(128)])('keeps the request id %s', async (id) => {
    const reply = await t.send('GET', '/domains', { headers: { 'X-Request-Id': id } });
    expect(reply.headers.get('x-request-id')).toBe(id);
  });

  it.each(['A'.repeat(129), 'a b', 'a/b', 'ä', '"a"', ''])(
    'makes one instead of %j',
    async (id) => {
      const reply = await t.send('GET', '/domains', { headers: { 'X-Request-Id': id } });
      expect(reply.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
    },
  );

  it('has a request id also where the request was none', async () => {
    for (const bytes of [
      'NOT HTTP AT ALL\r\n\r\n',
      requestHead('GET /livez', `X: ${'a'.repeat(70_000)}`),
    ]) {
      const reply = await sendRaw(t.url, bytes);
      expect([400, 431]).toContain(reply.status);
      expect(Object.keys(JSON.parse(reply.body)).toSorted()).toEqual(['data', 'error', 'message']);
      expect(reply.head).toMatch(/^x-request-id: [0-9a-f-]{36}$/im);
    }
  });

  it('works without any header but the host', async () => {
    const reply = await sendRaw(t.url, requestHead('GET /livez'));
    expect(reply.status).toBe(200);
    expect(JSON.parse(reply.body)).toEqual({ data: { alive: true }, error: null, message: 'OK' });
  });
});

describe('405', () => {
  const all = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND'];

  it('names in Allow what can be done, and everything else is refused (4.1.4)', async () => {
    for (const path of new Set(routes.map(pathOf))) {
      const own = routes
        .filter((route) => pathOf(route) === path)
        .map(({ method }) => method.toUpperCase());
      const allowed = own.includes('GET') ? [...own, 'HEAD'] : own;
      for (const method of all.filter((name) => !allowed.includes(name))) {
        const reply = await send(method, path);
        expect([path, method, reply.status]).toEqual([path, method, 405]);
        expect(reply.headers.get('allow')?.split(', ').toSorted()).toEqual(allowed.toSorted());
        if (method !== 'HEAD') expect(reply.body.error).toBe('method_not_allowed');
      }
    }
  });

  it('meets TRACE, and no header changes a method (13.4.4)', async () => {
    expect((await sendRaw(t.url, requestHead('TRACE /livez'))).status).toBe(405);
    const { id } = await t.createKey();
    const headers = { 'X-HTTP-Method-Override': 'DELETE', 'X-Method-Override': 'DELETE' };
    expect((await t.send('GET', `/auth/api-keys/${id}`, { headers })).status).toBe(200);
    expect((await t.send('GET', `/auth/api-keys/${id}`)).status).toBe(200);
  });
});

describe('HEAD', () => {
  it.each(reads)('%s: the head of GET without a body, and nothing recorded', async (_, route) => {
    const get = await send('GET', pathOf(route));
    const before = await headOf(t);
    const head = await send('HEAD', pathOf(route));
    expect(head.status).toBe(get.status);
    expect(head.text).toBe('');
    expect(head.headers.get('content-type')).toBe(get.headers.get('content-type'));
    expect(head.headers.has('etag')).toBe(get.headers.has('etag'));
    expect(await factsSince(t, before)).toEqual([]);
  });
});

describe('safe methods', () => {
  it('change nothing, however often they are repeated (27)', async () => {
    for (const [, route] of reads) await send('GET', pathOf(route));
    const before = await headOf(t);
    for (let round = 0; round < 2; round += 1) {
      for (const [, route] of reads) {
        for (const method of ['GET', 'HEAD']) await send(method, pathOf(route));
      }
    }
    expect(await factsSince(t, before)).toEqual([]);
  });
});

describe('content', () => {
  it.each([
    'application/json',
    'application/*',
    '*/*',
    'text/html, application/json;q=0.5',
    'APPLICATION/JSON',
    'text/html, */*;q=0.1',
  ])('Accept: %s gets JSON', async (accept) => {
    const reply = await t.send('GET', '/domains', { headers: { Accept: accept } });
    expect(reply.status).toBe(200);
    expect(reply.headers.get('content-type')).toContain('application/json');
  });

  it.each([
    'text/html',
    'application/xml',
    'text/tab-separated-values',
    'application/json;q=0',
    'application/jsonx',
  ])('406: Accept: %s', async (accept) => {
    const reply = await t.send('GET', '/domains', { headers: { Accept: accept } });
    expect([reply.status, reply.body.error]).toEqual([406, 'not_acceptable']);
  });

  it.each([
    'text/plain',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/merge-patch+json',
    'application/json; charset=utf-16',
    'application/jsonx',
    'json',
    '',
  ])('415: POST of %j', async (type) => {
    const reply = await t.send('POST', '/auth/api-keys', {
      body: '{"name":"x","scope":"read-only"}',
      headers: { 'Content-Type': type },
    });
    expect([reply.status, reply.body.error]).toEqual([415, 'unsupported_media_type']);
  });

  it.each(['application/json;charset=UTF-8', 'Application/JSON; charset="utf-8"'])(
    '201: POST of %s',
    async (type) => {
      const reply = await t.send('POST', '/auth/api-keys', {
        body: '{"name":"x","scope":"read-only"}',
        headers: { 'Content-Type': type },
      });
      expect(reply.status).toBe(201);
    },
  );

  it('415: a coding that is none', async () => {
    const reply = await t.send('POST', '/domains', {
      body: '{}',
      headers: { 'Content-Encoding': 'zstd-x' },
    });
    expect(reply.status).toBe(415);
  });

  it('takes 256 KiB and not one byte more', async () => {
    const fill = (bytes: number) => {
      const [before, after] = ['{"name":"', '","scope":"read-only"}'];
      return before + 'a'.repeat(bytes - before.length - after.length) + after;
    };
    const fits = await t.send('POST', '/auth/api-keys', { body: fill(262_144) });
    expect([fits.status, fits.body.error]).toEqual([400, 'validation_failed']);
    const over = await t.send('POST', '/auth/api-keys', { body: fill(262_145) });
    expect([over.status, over.body.error]).toEqual([413, 'payload_too_large']);
  });

  it('413: also in chunks, and packed', async () => {
    const chunk = `${(65_536).toString(16)}\r\n${'a'.repeat(65_536)}\r\n`;
    const head = requestHead(
      'POST /api/v1/auth/api-keys',
      `X-API-Key: ${t.bootstrapKey}`,
      'Content-Type: application/json',
      'Transfer-Encoding: chunked',
    );
    const chunked = await sendRaw(t.url, `${head}${chunk.repeat(5)}0\r\n\r\n`);
    expect(chunked.status).toBe(413);
    const { gzipSync } = await import('node:zlib');
    const packed = gzipSync(Buffer.alloc(300_000, 'a'));
    const reply = await fetch(`${t.url}/api/v1/auth/api-keys`, {
      method: 'POST',
      headers: {
        'X-API-Key': t.bootstrapKey,
        'Content-Type': 'application/json',
        'Content-Encoding': 'gzip',
      },
      body: packed,
    });
    expect(reply.status).toBe(413);
  });

  it.each([
    ['by what it announces', 'Content-Length: 10000000', '{"name":"'],
    [
      'by what has come',
      'Transfer-Encoding: chunked',
      `${(65_536).toString(16)}\r\n${'a'.repeat(65_536)}\r\n`.repeat(5),
    ],
    // Too large before anybody tries to unpack it.
    [
      'packed, by what has come',
      'Transfer-Encoding: chunked\r\nContent-Encoding: gzip',
      `${(300_000).toString(16)}\r\n${'b'.repeat(300_000)}\r\n`,
    ],
  ])('413: at once, %s, and the rest is not read', async (_, framing, sent) => {
    const target = 'POST /api/v1/auth/api-keys HTTP/1.1\r\nHost: localhost\r\n';
    const head = `${target}X-API-Key: ${t.bootstrapKey}\r\nContent-Type: application/json\r\n`;
    // The rest never comes: an answer after the whole body would be none.
    const reply = await sendRaw(t.url, `${head}${framing}\r\n\r\n${sent}`);
    expect([reply.status, JSON.parse(reply.body).error]).toEqual([413, 'payload_too_large']);
    expect(reply.head).toMatch(/^connection: close$/im);
  });

  it('takes a body that is packed, and refuses one that only says so', async () => {
    const { brotliCompressSync, deflateSync, gzipSync } = await import('node:zlib');
    const packers = { gzip: gzipSync, deflate: deflateSync, br: brotliCompressSync };
    const post = (coding: string, body: Buffer) =>
      fetch(`${t.url}/api/v1/auth/api-keys`, {
        method: 'POST',
        headers: {
          'X-API-Key': t.bootstrapKey,
          'Content-Type': 'application/json',
          'Content-Encoding': coding,
        },
        body: body as never,
      });
    for (const [coding, pack] of Object.entries(packers)) {
      const body = Buffer.from(JSON.stringify({ name: coding, scope: 'read-only' }));
      expect([coding, (await post(coding, pack(body))).status]).toEqual([coding, 201]);
      expect([coding, (await post(coding, body)).status]).toEqual([coding, 400]);
    }
  });

  it('is packed when asked for, and says that it varies', async () => {
    const head = (accept: string) =>
      requestHead(
        'GET /api/v1/openapi.json',
        ...(accept === '' ? [] : [`Accept-Encoding: ${accept}`]),
      );
    const plain = await sendRaw(t.url, head(''));
    const packed = await sendRaw(t.url, head('br, gzip'));
    expect(plain.head).not.toMatch(/content-encoding/i);
    expect(plain.head).toMatch(/^vary: accept-encoding$/im);
    expect(packed.head).toMatch(/^content-encoding: gzip$/im);
    expect(packed.head).toMatch(/^vary: accept-encoding$/im);
    expect(gunzipSync(Buffer.from(packed.body, 'latin1')).toString('latin1')).toBe(plain.body);
    expect((await sendRaw(t.url, head('gzip;q=0'))).head).not.toMatch(/content-encoding/i);
    expect((await sendRaw(t.url, head('identity'))).head).not.toMatch(/content-encoding/i);
  });
});

describe('a key in a URL (14.2.1)', () => {
  it('200: its prefix, by which it is listed, may be looked for', async () => {
    const { key } = await t.createKey({ name: 'sought' });
    const reply = await t.send('GET', `/audit/logs?q=${key.slice(0, 20)}`);
    expect(reply.status).toBe(200);
    expect(reply.body.data.map(({ resource }: any) => resource.name)).toContain('sought');
  });

  it.each([
    (key: string) => `/domains?api_key=${key}`,
    (key: string) => `/domains/${key}`,
    (key: string) => `/nothing?x=${key}`,
    (key: string) => `/domains?x=${key.slice(0, 30)}`,
  ])('400, and its owner can see that it happened', async (pathOfKey) => {
    const { id, key } = await t.createKey();
    await t.gateway.context.activity.flush(true);
    const before = await headOf(t);
    const reply = await t.send('GET', pathOfKey(key), { key });
    expect([reply.status, reply.body.error]).toEqual([400, 'key_in_url']);
    expect(reply.text).not.toContain(key.slice(0, 20));
    await t.gateway.context.activity.flush(true);
    const { log } = t.gateway.context;
    const page = await log.readAll({
      after: before,
      until: await headOf(t),
      filter: { types: ['api_key.denied'] },
      limit: 10,
    });
    expect(page.events).toHaveLength(1);
    expect(page.events[0]?.line).toContain('"reason":"key_in_url"');
    const isWhole = pathOfKey(key).includes(key);
    expect(page.events[0]?.line.includes(`"id":"${id}"`)).toBe(isWhole);
    expect(t.logged.join('')).not.toContain(key.slice(0, 20));
  });
});

describe('a bug (16.5.1)', () => {
  const broken: (() => void)[] = [];
  afterEach(() => {
    for (const mend of broken.splice(0)) mend();
  });
  /** Makes one of the running parts throw, as no test of ours could foresee. */
  function breakPart<T extends object, K extends keyof T>(
    part: T,
    member: K,
    error: unknown,
  ): void {
    const whole = part[member];
    part[member] = (() => {
      throw error;
    }) as T[K];
    broken.push(() => {
      part[member] = whole;
    });
  }

  const SECRET = 'select secret from somewhere';
  it.each([
    ['an error', Object.assign(new Error(SECRET), { code: '42P01', detail: SECRET })],
    ['a string', SECRET],
    ['nothing', undefined],
    ['a status of its own', Object.assign(new Error(SECRET), { status: 418, expose: true })],
  ])('500: %s is told to nobody, logged whole, and the process lives', async (_, error) => {
    const { log, activity, liveKeys } = t.gateway.context;
    for (const [part, member] of [
      [log, 'readNames'],
      [activity, 'openWindows'],
      [liveKeys, 'verify'],
    ] as const) {
      breakPart(part as never, member as never, error);
      const headers = { 'X-Request-Id': `bug-${member}`, Connection: 'close' };
      const reply = await t.send('GET', '/auth/api-keys', { headers });
      for (const mend of broken.splice(0)) mend();
      // A connection that has verified its key does not ask again.
      if (reply.status === 200 && member === 'verify') continue;
      expect([member, reply.status, reply.body.error]).toEqual([member, 500, 'internal']);
      expect(reply.body.data).toBeNull();
      expect(reply.text).not.toContain('secret');
      expect(reply.text).not.toMatch(/\.ts|at \w/);
      const logged = t.logged.filter((line) => line.includes(`bug-${member}`)).join('');
      expect(logged).toContain('a request failed on a bug');
    }
    expect((await t.send('GET', '/auth/api-keys')).status).toBe(200);
  });

  it('503: a database that is away, with Retry-After', async () => {
    const error = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    breakPart(t.gateway.context.log as never, 'readNames' as never, error);
    const reply = await t.send('GET', '/auth/api-keys');
    expect([reply.status, reply.body.error]).toEqual([503, 'unavailable']);
    expect(reply.headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
  });
});

describe('the service', () => {
  it('is alive and ready, without a key', async () => {
    const live = await t.send('GET', '//livez', { key: null });
    expect(live.body).toEqual({ data: { alive: true }, error: null, message: 'OK' });
    const ready = await t.send('GET', '//readyz', { key: null });
    expect(ready.body.data).toMatchObject({ ready: true, reasons: [] });
    expect(ready.body.data.projections.map(({ name }: { name: string }) => name)).toContain(
      'api_keys',
    );
  });

  it('gives its metrics to a loopback client', async () => {
    const reply = await t.send('GET', '//metrics', { key: null });
    expect(reply.status).toBe(200);
    expect(reply.headers.get('content-type')).toContain('text/plain');
    expect(reply.text).toContain('mailguard_http_request_duration_seconds');
  });

  it('prints its contract', async () => {
    const yaml = await t.send('GET', '/openapi.yaml', { key: null });
    expect(yaml.headers.get('content-type')).toBe('application/yaml; charset=utf-8');
    expect(yaml.text).toMatch(/^openapi: 3\.1\.0\n/);
    const json = await t.send('GET', '/openapi.json', { key: null });
    expect(JSON.parse(json.text).openapi).toBe('3.1.0');
  });
});
