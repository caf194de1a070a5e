import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isTagged } from '../../src/api/revalidation.ts';
import { routes } from '../../src/api/routes.ts';
import {
  startTestGateway,
  type TestClock,
  type TestGateway,
  testClock,
} from '../support/gateway.ts';
import { handIn } from '../support/mail.ts';
import { requestHead, sendRaw } from '../support/raw-http.ts';
import { factsSince, headOf } from '../support/recorded.ts';
import { subscribe } from '../support/webhooks.ts';

let t: TestGateway;
let clock: TestClock;
let domain: { id: number; name: string };
let key: { id: number; key: string };
/** Reads of every kind, with a change that their ETag must follow (null: what they show never changes). */
let reads: readonly (readonly [path: string, change: (() => Promise<unknown>) | null])[];
beforeAll(async () => {
  clock = testClock();
  t = await startTestGateway({ clock });
  domain = await t.createDomain();
  key = await t.createKey();
  const filter = await t.send('POST', '/sender-filters', {
    body: { kind: 'allow', scope: 'global', sender: 'a@example.org' },
  });
  const message = await handIn(t, { to: [`a@${domain.name}`] });
  const hook = await subscribe(t, { url: 'https://hooks.example/in', enabled: false });
  const at = `/mail/quarantine/messages/${message.body.data.id}`;
  const made = `/audit/logs?resource=api_key:${key.id}&action=api_key.created`;
  const line = (await t.send('GET', made)).body.data[0];
  const rename = (path: string, body: object) => () => t.send('PATCH', path, { body });
  reads = [
    [`/domains/${domain.id}`, rename(`/domains/${domain.id}`, { quarantine_threshold: 7 })],
    ['/domains', () => t.createDomain()],
    [`/sender-filters/${filter.body.data.id}`, null],
    [`${at}/history`, () => t.send('GET', `${at}/body`)],
    [at, () => t.send('POST', `${at}/discard`, { body: {} })],
    ['/mail/quarantine', () => handIn(t, { to: [`a@${domain.name}`] })],
    [`/auth/api-keys/${key.id}`, rename(`/auth/api-keys/${key.id}`, { name: 'renamed' })],
    [`/webhooks/${hook.id}`, rename(`/webhooks/${hook.id}`, { description: 'x' })],
    ['/webhook-event-types', null],
    ['/webhook-event-types/quarantine.released/schema', null],
    [made, null],
    [`/audit/logs/${line.position}?form=evidence`, null],
    // Last: with the key goes the name that its line shows.
    [`/audit/logs/${line.position}`, () => t.send('DELETE', `/auth/api-keys/${key.id}`)],
    ['/openapi.yaml', null],
    ['/openapi.json', null],
  ];
});
afterAll(() => t.close());

const read = (path: string, tag: string, method = 'GET') =>
  t.send(method, path, { headers: { 'If-None-Match': tag } });

describe('If-None-Match (RFC 9110 13.1.2)', () => {
  it('is heeded by every read but that of the raw mail, whose download is an event', () => {
    const others = routes.filter(({ method, untagged }) => method !== 'get' || untagged === true);
    const heedless = others.filter(({ method }) => method === 'get').map(({ id }) => id);
    expect(heedless).toEqual(['getQuarantinedBody', 'getQuarantinedBodyInQueue']);
    expect(others.some(isTagged)).toBe(false);
    expect(routes.filter(isTagged)).toHaveLength(routes.length - others.length);
  });

  it('304: for the ETag of a read, alone, weakened, in a list, and for a star', async () => {
    for (const [path] of reads) {
      const tag = (await t.send('GET', path)).headers.get('etag') ?? '';
      expect(tag, path).toMatch(/^(W\/)?"[\w-]+"$/);
      const opaque = tag.replace(/^W\//, '');
      const fields = [tag, opaque, `W/${opaque}`, `"x", ${tag}`, `,W/"y",${tag} ,`, '*'];
      for (const field of fields) {
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

  it('200: for another ETag and an empty list', async () => {
    for (const [path] of reads) {
      for (const field of ['"x"', 'W/"x", "y"', ',', '"-1"']) {
        expect([path, field, (await read(path, field)).status]).toEqual([path, field, 200]);
      }
    }
  });

  it('200: what is packed has the tag of what is not, since it is a weak one', async () => {
    const tagged = async (coding: string) => {
      const headers = { 'Accept-Encoding': coding };
      return (await t.send('GET', '/openapi.json', { headers })).headers.get('etag');
    };
    expect(await tagged('gzip')).toBe(await tagged('identity'));
    expect(await tagged('gzip')).toMatch(/^W\/"/);
  });

  it.each(['x', '3', '"3', '3"', "'3'", '"3" "4"', 'w/"3"', '"3",*'])(
    '400: %j is no such field',
    async (field) => {
      const line = `If-None-Match: ${field}`;
      const others = ['/docs', '/audit/logs', '/auth/api-keys/999999'];
      for (const path of [...reads.map(([path]) => path), ...others]) {
        const head = requestHead(`GET /api/v1${path}`, `X-API-Key: ${t.bootstrapKey}`, line);
        const reply = await sendRaw(t.url, head);
        expect([path, reply.status]).toEqual([path, 400]);
        expect(reply.body).toContain('"path":"If-None-Match"');
      }
    },
  );

  it('400: before a look that would be an event', async () => {
    const message = await handIn(t, { to: [`a@${domain.name}`] });
    const at = `/mail/quarantine/messages/${message.body.data.id}`;
    const before = await headOf(t);
    expect((await read(`${at}/body`, 'x')).status).toBe(400);
    expect((await read(`${at}/preview`, 'x')).status).toBe(400);
    expect(await factsSince(t, before)).toEqual([]);
  });

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

  it('200: of a key that was used, ran dry or expired since, all without a new revision', async () => {
    const expires_at = new Date(clock.nowMs() + 3_600_000).toISOString();
    const own = await t.createKey({ rate_limit_per_minute: 1, expires_at });
    const path = `/auth/api-keys/${own.id}`;
    const moves = [
      () => t.send('GET', '/domains', { key: own.key }),
      async () => clock.advance(3_600_001),
    ];
    const tags = new Set<string>();
    for (const move of moves) {
      const before = await t.send('GET', path);
      const tag = before.headers.get('etag') ?? '';
      expect(tag).toMatch(/^"0-[\w-]{22}"$/);
      tags.add(tag);
      await move();
      const after = await read(path, tag);
      expect(after.status).toBe(200);
      expect(after.body.data).not.toEqual(before.body.data);
    }
    expect(tags.size).toBe(2);
  });

  it('200: for the bare revision of what moves without it', async () => {
    const { id } = await t.createKey();
    expect((await read(`/auth/api-keys/${id}`, '"0"')).status).toBe(200);
  });

  it('200: of a list as a table, for the ETag of the list as JSON', async () => {
    const json = (await t.send('GET', '/domains')).headers.get('etag') ?? '';
    const headers = { Accept: 'text/csv' };
    const table = (await t.send('GET', '/domains', { headers })).headers.get('etag') ?? '';
    const ask = async (tag: string) =>
      (await t.send('GET', '/domains', { headers: { ...headers, 'If-None-Match': tag } })).status;
    expect([await ask(json), await ask(table)]).toEqual([200, 304]);
  });

  it('200: of an export and of raw mail, which are sent while they are read', async () => {
    const message = await handIn(t, { to: [`a@${domain.name}`] });
    const streams = [
      ['/audit/logs', 'application/x-ndjson'],
      ['/audit/logs', 'text/csv'],
      [`/mail/quarantine/messages/${message.body.data.id}/body`, 'message/rfc822'],
    ] as const;
    for (const [path, type] of streams) {
      const reply = await t.send('GET', path, { headers: { Accept: type, 'If-None-Match': '*' } });
      expect([path, reply.status, reply.headers.get('etag')]).toEqual([path, 200, null]);
    }
  });

  it('304: of an empty page of the audit log says where to go on, and how far it is sealed', async () => {
    const path = '/audit/logs?action=license.changed';
    const first = await t.send('GET', path);
    await t.createDomain();
    const again = await read(path, first.headers.get('etag') ?? '');
    expect([again.status, again.text]).toEqual([304, '']);
    for (const name of ['x-next-cursor', 'x-sealed-through']) {
      expect(again.headers.get(name), name).toMatch(/./);
      expect(again.headers.get(name), name).not.toBe(first.headers.get(name));
    }
  });
});

describe('an ETag and If-Match', () => {
  it('200: of what moves without its revision, after it has moved, and for the revision alone', async () => {
    const own = await t.createKey();
    const path = `/auth/api-keys/${own.id}`;
    const tag = (await t.send('GET', path)).headers.get('etag') ?? '';
    await t.send('GET', path, { key: own.key });
    const change = (name: string, given: string) =>
      t.send('PATCH', path, { body: { name }, headers: { 'If-Match': given } });
    const first = await change('first', tag);
    expect([first.status, first.headers.get('etag')]).toEqual([200, '"1"']);
    expect((await change('second', '"1"')).status).toBe(200);
  });

  it('412: once the revision is another, whatever the digest', async () => {
    const { id } = await t.createKey();
    const path = `/auth/api-keys/${id}`;
    const tag = (await t.send('GET', path)).headers.get('etag') ?? '';
    await t.send('PATCH', path, { body: { name: 'new' } });
    const headers = { 'If-Match': tag };
    const late = await t.send('PATCH', path, { body: { name: 'late' }, headers });
    expect([late.status, late.body.error]).toEqual([412, 'stale']);
    expect((await t.send('GET', path)).body.data.name).toBe('new');
  });

  it.each(['W/"0"', '"0-"', '"0-short"', `"-${'a'.repeat(22)}"`, `W/"0-${'a'.repeat(22)}"`])(
    '400: %s is no tag to change by',
    async (tag) => {
      const { id } = await t.createKey();
      const sent = { body: { name: 'x' }, headers: { 'If-Match': tag } };
      const reply = await t.send('PATCH', `/auth/api-keys/${id}`, sent);
      expect([reply.status, reply.body.data.issues[0].path]).toEqual([400, 'If-Match']);
    },
  );
});
