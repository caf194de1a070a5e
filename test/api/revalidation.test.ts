import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { routes } from '../../src/api/routes.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { handIn } from '../support/mail.ts';
import { requestHead, sendRaw } from '../support/raw-http.ts';

let t: TestGateway;
let domain: { id: number; name: string };
/** Every read that gives 304, with a change that its ETag must follow (null: what it shows never changes). */
let reads: readonly (readonly [path: string, change: (() => Promise<unknown>) | null])[];
beforeAll(async () => {
  t = await startTestGateway();
  domain = await t.createDomain();
  const filter = await t.send('POST', '/sender-filters', {
    body: { kind: 'allow', scope: 'global', sender: 'a@example.org' },
  });
  const message = await handIn(t, { to: [`a@${domain.name}`] });
  const at = `/mail/quarantine/messages/${message.body.data.id}`;
  reads = [
    [
      `/domains/${domain.id}`,
      () => t.send('PATCH', `/domains/${domain.id}`, { body: { quarantine_threshold: 7 } }),
    ],
    [`/sender-filters/${filter.body.data.id}`, null],
    [at, () => t.send('POST', `${at}/discard`, { body: {} })],
    ['/openapi.yaml', null],
    ['/openapi.json', null],
  ];
});
afterAll(() => t.close());

const read = (path: string, tag: string, method = 'GET') =>
  t.send(method, path, { headers: { 'If-None-Match': tag } });

describe('If-None-Match (RFC 9110 13.1.2)', () => {
  it('is heeded by the reads of this test and by no other', () => {
    const heeding = routes.filter(({ revalidated }) => revalidated === true);
    expect(heeding.map(({ id }) => id).sort()).toEqual(
      [
        'getMailDomain',
        'getQuarantinedMessage',
        'getSenderFilter',
        'openapiJson',
        'openapiYaml',
      ].sort(),
    );
    expect(heeding.every(({ method }) => method === 'get')).toBe(true);
  });

  it('304: for the ETag of a read, alone, weakened, in a list, and for a star', async () => {
    for (const [path] of reads) {
      const tag = (await t.send('GET', path)).headers.get('etag') ?? '';
      expect(tag, path).toMatch(/^"[^"]+"$/);
      for (const field of [tag, `W/${tag}`, `"x", ${tag}`, `,W/"y",${tag} ,`, '*']) {
        const reply = await read(path, field);
        expect([path, field, reply.status, reply.text]).toEqual([path, field, 304, '']);
      }
    }
  });

  it('304: has the headers of the 200 that say what it is, and no others of a body', async () => {
    for (const [path] of reads) {
      const whole = await t.send('GET', path);
      const { headers } = await read(path, whole.headers.get('etag') ?? '');
      for (const name of ['etag', 'vary', 'cache-control', 'ratelimit-policy']) {
        expect([name, headers.get(name)]).toEqual([name, whole.headers.get(name)]);
      }
      expect(headers.get('x-request-id')).toMatch(/./);
      for (const name of ['content-type', 'content-length', 'content-encoding']) {
        expect([path, name, headers.get(name)]).toEqual([path, name, null]);
      }
    }
  });

  it('304: leaves the connection in order for what comes next', async () => {
    const path = `/api/v1/domains/${domain.id}`;
    const key = `X-API-Key: ${t.bootstrapKey}`;
    const first = `GET ${path} HTTP/1.1\r\nHost: x\r\n${key}\r\nIf-None-Match: *\r\n\r\n`;
    const reply = await sendRaw(t.url, first + requestHead(`GET ${path}`, key));
    expect(reply.text.match(/HTTP\/1\.1 \d{3}/g)).toEqual(['HTTP/1.1 304', 'HTTP/1.1 200']);
  });

  it('200: for another ETag and an empty list; each coding has a tag of its own', async () => {
    for (const [path] of reads) {
      for (const field of ['"x"', 'W/"x", "y"', ',', '"-1"']) {
        expect([path, field, (await read(path, field)).status]).toEqual([path, field, 200]);
      }
    }
    const packed = await t.send('GET', '/openapi.json', {
      headers: { 'Accept-Encoding': 'gzip' },
    });
    const plain = await t.send('GET', '/openapi.json', {
      headers: { 'Accept-Encoding': 'identity' },
    });
    expect(packed.headers.get('etag')).not.toBe(plain.headers.get('etag'));
  });

  it.each(['x', '3', '"3', '3"', "'3'", '"3" "4"', 'w/"3"', '"3",*'])(
    '400: %j is no such field',
    async (field) => {
      const line = `If-None-Match: ${field}`;
      const target = `GET /api/v1/domains/${domain.id}`;
      const reply = await sendRaw(t.url, requestHead(target, `X-API-Key: ${t.bootstrapKey}`, line));
      expect(reply.status).toBe(400);
      expect(reply.body).toContain('"path":"If-None-Match"');
    },
  );

  it('304: to HEAD, too', async () => {
    for (const [path] of reads) {
      const tag = (await t.send('HEAD', path)).headers.get('etag') ?? '';
      expect([path, (await read(path, tag, 'HEAD')).status]).toEqual([path, 304]);
    }
  });

  it('304: is a use of the key, and costs its bucket', async () => {
    const { id, key } = await t.createKey({ rate_limit_per_minute: 1 });
    const headers = { 'If-None-Match': '*' };
    const path = `/domains/${domain.id}`;
    const statuses: number[] = [];
    for (let n = 0; n < 11; n += 1)
      statuses.push((await t.send('GET', path, { key, headers })).status);
    expect(statuses).toEqual([...Array(10).fill(304), 429]);
    const { last_used_at } = (await t.send('GET', `/auth/api-keys/${id}`)).body.data;
    expect(last_used_at).not.toBeNull();
  });

  it('401, 403 and 404 come before it', async () => {
    const headers = { 'If-None-Match': '*' };
    const path = `/domains/${domain.id}`;
    const { key } = await t.createKey({ scope: 'quarantine-only' });
    expect((await t.send('GET', path, { key: null, headers })).status).toBe(401);
    expect((await t.send('GET', path, { key, headers })).status).toBe(403);
    expect((await t.send('GET', '/domains/999999', { headers })).status).toBe(404);
  });

  it('200: once what is shown has changed, with another ETag', async () => {
    for (const [path, change] of reads) {
      if (change === null) continue;
      const before = await t.send('GET', path);
      await change();
      const after = await read(path, before.headers.get('etag') ?? '');
      expect([path, after.status]).toEqual([path, 200]);
      expect(after.headers.get('etag')).not.toBe(before.headers.get('etag'));
      expect(after.body.data).not.toEqual(before.body.data);
    }
  });

  it('200: of a key, whose use moves without its revision, and which If-Match still takes', async () => {
    const { id, key } = await t.createKey();
    const path = `/auth/api-keys/${id}`;
    const tag = (await t.send('GET', path)).headers.get('etag') ?? '';
    await t.send('GET', path, { key });
    const again = await read(path, tag);
    expect([again.status, again.headers.get('etag')]).toEqual([200, tag]);
    expect(again.body.data.last_used_at).not.toBeNull();
    const rename = { body: { name: 'renamed' }, headers: { 'If-Match': tag } };
    expect((await t.send('PATCH', path, rename)).status).toBe(200);
  });
});
