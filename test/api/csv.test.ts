import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { preferredType } from '../../src/api/accept.ts';
import { columnsOf, csvHead, csvRows } from '../../src/api/csv.ts';
import { routes } from '../../src/api/routes.ts';
import { z } from '../../src/api/zod.ts';
import { parseCsv, tableOf } from '../support/csv.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';

describe('a table (RFC 4180)', () => {
  const schema = z.object({
    id: z.number(),
    owner: z.object({ type: z.string(), name: z.string().nullable() }).nullable(),
    tags: z.array(z.string()).optional(),
    data: z.record(z.string(), z.unknown()),
  });
  const columns = columnsOf(schema);

  it('has a column for each member, and for each member of an object in it', () => {
    expect(csvHead(columns)).toBe('id,owner.type,owner.name,tags,data\r\n');
  });

  it('has lists of texts joined, what else is nested as JSON, and nothing for null', () => {
    const row = {
      id: -3,
      owner: { type: 'api_key', name: null },
      tags: ['a', 'b, c'],
      data: { x: [1] },
    };
    expect(parseCsv(csvRows(columns, [row]))).toEqual([
      ['-3', 'api_key', '', 'a; b, c', '{"x":[1]}'],
    ]);
    expect(parseCsv(csvRows(columns, [{ id: 1, owner: null, data: {} }]))).toEqual([
      ['1', '', '', '', '{}'],
    ]);
  });

  it.each(['=1+1', '+1', '-1', '@SUM(A1)', '\tx', '\rx', '\nx', '＝1', '＋1', '－1', '＠x'])(
    'takes the formula out of %j',
    (text) => {
      expect(parseCsv(csvRows([['a']], [{ a: text }]))).toEqual([[`'${text}`]]);
      expect(parseCsv(csvRows([['a']], [{ a: [text, 'b'] }]))).toEqual([[`'${text}; b`]]);
    },
  );

  it('holds any texts at all, and its readers get them back', () => {
    const cell = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.string({ unit: fc.constantFrom('"', ',', '\r', '\n', ' ', '=', 'a', "'") }),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(cell, cell, cell), { minLength: 1 }), (rows) => {
        const objects = rows.map(([a, b, c]) => ({ a, b, c }));
        const read = parseCsv(csvRows([['a'], ['b'], ['c']], objects));
        const withoutMark = (text: string) =>
          /^'[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text) ? text.slice(1) : text;
        const marked = (text: string) => /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text);
        expect(read.flat().some(marked)).toBe(false);
        // A text that begins with the mark by itself cannot be told from one that got it.
        const plain = rows.map((row) => row.map(withoutMark));
        expect(read.map((row) => row.map(withoutMark))).toEqual(plain);
      }),
      { numRuns: 500, seed: 20261126 },
    );
  });
});

describe('what Accept wants most (RFC 9110 12.5.1)', () => {
  const offered = ['application/json', 'application/x-ndjson', 'text/csv'];
  it.each([
    [undefined, 'application/json'],
    ['*/*', 'application/json'],
    ['text/csv', 'text/csv'],
    ['TEXT/CSV; header=present', 'text/csv'],
    ['text/*', 'text/csv'],
    ['text/csv;q=0.5, application/json;q=0.4', 'text/csv'],
    ['text/csv;q=0.5, application/json;q=0.6', 'application/json'],
    ['text/csv;q=0.5, */*', 'application/json'],
    ['*/*, text/csv', 'text/csv'],
    ['*/*;q=0.1, application/json;q=0', 'application/x-ndjson'],
    ['application/*, text/csv;q=0', 'application/json'],
    ['text/html, application/xml;q=0.9, */*;q=0.8', 'application/json'],
    ['text/html', null],
    ['text/csv;q=nonsense', null],
    ['', null],
  ])('%j: %s', (accept, expected) => {
    expect(preferredType(accept, offered)).toBe(expected);
  });
});

describe('every list as text/csv', () => {
  let t: TestGateway;
  let paths: Record<string, string>;
  beforeAll(async () => {
    t = await startTestGateway();
    for (let n = 0; n < 3; n += 1) await t.createDomain();
    await t.createKey({ name: '=HYPERLINK("http://evil.example")' });
    const { data: hook } = (
      await t.send('POST', '/webhooks', {
        body: { url: 'https://hooks.example/x', event_types: ['*'], enabled: false },
      })
    ).body;
    await t.send('POST', '/sender-filters', {
      body: { kind: 'block', scope: 'global', sender: 'a@evil.example' },
    });
    const mail = await t.send('POST', '/mail/quarantine', {
      headers: {
        'Content-Type': 'message/rfc822',
        'X-Mail-From': 'eve@evil.example',
        'X-Rcpt-To': 'you@elsewhere.example',
      },
      body: 'Subject: =cmd|calc\r\n\r\nhello',
    });
    expect(mail.status).toBe(201);
    const { id, node_id, queue_id } = mail.body.data;
    paths = {
      '/webhooks/{id}/deliveries': `/webhooks/${hook.id}/deliveries`,
      '/webhooks/{id}/events': `/webhooks/${hook.id}/events`,
      '/webhooks/{id}/parked': `/webhooks/${hook.id}/parked`,
      '/webhooks/{id}/replays': `/webhooks/${hook.id}/replays`,
      '/webhooks/{id}/deliveries/{event_id}/attempts': '',
      '/mail/quarantine/messages/{id}/history': `/mail/quarantine/messages/${id}/history`,
      '/mail/quarantine/{node_id}/{queue_id}/history': `/mail/quarantine/${node_id}/${queue_id}/history`,
    };
  });
  afterAll(() => t.close());

  const lists = routes.filter(
    ({ method, reply }) => method === 'get' && reply instanceof z.ZodArray,
  );
  it('is offered by all of them, the quarantine and the keys among them', () => {
    expect(lists.map(({ id }) => id)).toEqual(
      expect.arrayContaining(['listApiKeys', 'listQuarantine', 'listAuditLogs', 'listWebhooks']),
    );
    for (const { produces } of lists) expect(Object.keys(produces ?? {})).toContain('text/csv');
  });

  it.each(lists.map(({ path }) => path))('200: %s, the same rows as in JSON', async (path) => {
    const at = path.includes('{') ? (paths[path] ?? 'unknown path of a list') : path;
    // Nothing was posted, so that there is no event with attempts.
    if (at === '') return;
    const json = await t.send('GET', at);
    const csv = await t.send('GET', at, { headers: { Accept: 'text/csv' } });
    expect([at, csv.status, csv.headers.get('content-type')]).toEqual([
      at,
      200,
      'text/csv; charset=utf-8; header=present',
    ]);
    // Cursors over the log go on with it.
    if (!['/audit/logs', '/webhooks/{id}/events'].includes(path)) {
      for (const name of ['x-has-more', 'x-next-cursor']) {
        expect([name, csv.headers.get(name)]).toEqual([name, json.headers.get(name)]);
      }
    }
    const rows = tableOf(csv.text);
    const [name = ''] = Object.keys(rows[0] ?? {});
    const values = (json.body.data as Record<string, unknown>[]).map((row) => String(row[name]));
    expect(rows.map((row) => row[name])).toEqual(values);
  });

  it('200: no name and no subject becomes a formula', async () => {
    const csv = { headers: { Accept: 'text/csv' } };
    const [key] = tableOf((await t.send('GET', '/auth/api-keys?limit=1', csv)).text);
    expect(key).toMatchObject({
      name: `'=HYPERLINK("http://evil.example")`,
      'owner.type': 'api_key',
    });
    const [message] = tableOf((await t.send('GET', '/mail/quarantine', csv)).text);
    expect(message).toMatchObject({ subject: "'=cmd|calc", recipients: 'you@elsewhere.example' });
  });

  it('200: packed when asked for, and HEAD has only the head', async () => {
    const head = await t.send('HEAD', '/domains', { headers: { Accept: 'text/csv' } });
    expect([head.status, head.text]).toEqual([200, '']);
    expect(head.headers.get('content-type')).toMatch(/^text\/csv/);
  });

  it('404 and 400: refusals are envelopes', async () => {
    const headers = { Accept: 'text/csv' };
    for (const [path, status] of [
      ['/webhooks/999/parked', 404],
      ['/domains?limit=0', 400],
    ] as const) {
      const reply = await t.send('GET', path, { headers });
      expect([path, reply.status]).toEqual([path, status]);
      expect(reply.headers.get('content-type')).toMatch(/^application\/json/);
    }
  });

  it('406: what is no list has no table', async () => {
    const reply = await t.send('GET', '/domains/1', { headers: { Accept: 'text/csv' } });
    expect([reply.status, reply.body.error]).toEqual([406, 'not_acceptable']);
  });
});
