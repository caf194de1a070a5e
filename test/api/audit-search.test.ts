import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tableOf } from '../support/csv.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { stoppedClock } from '../support/stopped-clock.ts';

type Line = { position: string; cursor: string; type: string } & Record<string, any>;

let t: TestGateway;
let own: { id: number; name: string };
let narrowed: { id: number; key: string };
beforeAll(async () => {
  t = await startTestGateway({ clock: stoppedClock() });
  own = await t.createDomain('own.example', { backend_servers: ['mx.own.example:25'] });
  await t.createDomain('foreign.example', { backend_servers: ['mx.foreign.example:25'] });
  narrowed = await t.createKey({ name: 'Jürgen’s Reader', mail_domain: own.name });
  const leaked = await t.createKey({ name: 'leaked' });
  await t.send('POST', `/auth/api-keys/${leaked.id}/revoke`, {
    headers: { 'X-Request-Id': 'ticket-4711' },
    body: { reason: 'Found in a BUILD log' },
  });
  await t.send('PATCH', `/domains/${own.id}`, { body: { active: false } });
  // What a reader's own reading records is in the log before anything is compared.
  for (const key of [t.bootstrapKey, narrowed.key]) await t.send('GET', '/audit/logs', { key });
});
afterAll(() => t.close());

const read = async (query: string, key = t.bootstrapKey) => {
  const reply = await t.send('GET', `/audit/logs?${query}`, { key });
  expect([query, reply.status]).toEqual([query, 200]);
  return reply;
};
const linesOf = async (query: string, key = t.bootstrapKey): Promise<Line[]> =>
  (await read(query, key)).body.data;
const positionsOf = (lines: readonly { position: string }[]) => lines.map((l) => l.position);
const typesOf = (lines: readonly { type: string }[]) => lines.map((l) => l.type);

/** Every page of a query, by its cursors. */
async function pagesOf(query: string, limit: number, key = t.bootstrapKey): Promise<Line[]> {
  const lines: Line[] = [];
  let cursor = '';
  for (let pages = 0; pages < 200; pages += 1) {
    const reply = await read(`${query}&limit=${limit}${cursor}`, key);
    lines.push(...reply.body.data);
    cursor = `&cursor=${reply.headers.get('x-next-cursor')}`;
    if (reply.headers.get('x-has-more') === 'false') return lines;
  }
  throw new Error('the pages have no end');
}

describe('GET /audit/logs?order=desc', () => {
  it.each([
    '',
    'action=api_key.*',
    'outcome=success',
    'domain=own.example',
    'resource_type=api_key',
  ])('200: the same lines newest first, in pages of any size (%s)', async (filter) => {
    const up = positionsOf(await linesOf(`limit=10000&${filter}`));
    expect(up.length).toBeGreaterThan(1);
    for (const limit of [1, 2, 1_000]) {
      const down = positionsOf(await pagesOf(`order=desc&${filter}`, limit));
      expect(down.toReversed()).toEqual(up);
    }
  });

  it('200: within from and to', async () => {
    const all = await linesOf('limit=10000');
    const [from, to] = [all[2]?.['recorded_at'], all.at(-2)?.['recorded_at']];
    const window = `from=${from}&to=${to}`;
    const down = positionsOf(await linesOf(`order=desc&${window}&limit=10000`));
    expect(down.length).toBeGreaterThan(3);
    expect(down.toReversed()).toEqual(positionsOf(await linesOf(`${window}&limit=10000`)));
  });

  it('200: a line has the cursor of what is older than it', async () => {
    const all = positionsOf(await linesOf('limit=10000')).toReversed();
    const page = await linesOf('order=desc&limit=3');
    const rest = await linesOf(`order=desc&limit=2&cursor=${page[1]?.cursor}`);
    expect(positionsOf(rest)).toEqual(all.slice(2, 4));
  });

  it('200: the end is an empty page with a cursor, and what is new does not come up there', async () => {
    const last = await read('order=desc&limit=10000');
    expect(last.headers.get('x-has-more')).toBe('false');
    await t.createDomain();
    const after = await read(`order=desc&cursor=${last.headers.get('x-next-cursor')}`);
    expect(after.body.data).toEqual([]);
    expect(after.headers.get('x-next-cursor')).toBe(last.headers.get('x-next-cursor'));
  });

  it('200: as NDJSON, whose trailer goes on', async () => {
    const headers = { Accept: 'application/x-ndjson' };
    const filter = 'resource_type=api_key&order=desc';
    const all = positionsOf(await linesOf(`${filter}&limit=10000`));
    const first = await t.send('GET', `/audit/logs?${filter}&limit=2`, { headers });
    const texts = first.text.trimEnd().split('\n');
    const { trailer } = JSON.parse(texts.pop() ?? '');
    expect(texts.map((text) => JSON.parse(text).position)).toEqual(all.slice(0, 2));
    expect(trailer).toMatchObject({
      count: 2,
      first_position: all[0],
      last_position: all[1],
    });
    const rest = await t.send('GET', `/audit/logs?${filter}&cursor=${trailer.next_cursor}`, {
      headers,
    });
    const others = rest.text.trimEnd().split('\n').slice(0, -1);
    expect(others.map((text) => JSON.parse(text).position)).toEqual(all.slice(2));
  });

  it('400: a cursor of the other order, or after=', async () => {
    const cursor = (await read('limit=2')).headers.get('x-next-cursor');
    const other = await t.send('GET', `/audit/logs?order=desc&cursor=${cursor}`);
    expect([other.status, other.body.error]).toEqual([400, 'cursor_filter_mismatch']);
    const after = await t.send('GET', '/audit/logs?order=desc&after=3');
    expect([after.status, after.body.data.issues[0].path]).toEqual([400, 'after']);
    expect((await t.send('GET', '/audit/logs?order=newest')).status).toBe(400);
  });

  it('200: order=asc is the order without it, and takes its cursors', async () => {
    const cursor = (await read('limit=2')).headers.get('x-next-cursor');
    const asked = await linesOf(`order=asc&limit=10000&cursor=${cursor}`);
    expect(positionsOf(asked)).toEqual(positionsOf(await linesOf(`limit=10000&cursor=${cursor}`)));
  });
});

describe('GET /audit/logs?q=', () => {
  it.each([
    ['a reason', 'build', ['api_key.revoked']],
    ['several words of several values', 'LOG ticket-4711 leaked', ['api_key.revoked']],
    ['a request id', 'ticket-4711', ['api_key.revoked']],
    ['a name with its letters in pieces', 'ju\u0308rgen', ['api_key.created', 'audit.read']],
    ['an address of a backend', 'mx.foreign', ['mail_domain.created']],
    ['what stands nowhere', 'nowhere-at-all', []],
    ['the name of a member, which is no value', 'recorded_at', []],
  ])('200: finds %s', async (_, words, types) => {
    expect(typesOf(await linesOf(`q=${encodeURIComponent(words)}`))).toEqual(types);
  });

  it('200: of one address what that address did, in pages of one', async () => {
    const lines = await pagesOf('q=127.0.0.1&resource_type=mail_domain', 1);
    expect(lines.length).toBeGreaterThan(2);
    for (const { source } of lines) expect(source.ip).toBe('127.0.0.1');
  });

  it('200: nobody finds what is withheld from him', async () => {
    const visible = await linesOf('limit=10000', narrowed.key);
    expect(visible.some(({ withheld }) => withheld.includes('source.ip'))).toBe(true);
    const found = await linesOf('q=127.0.0.1&limit=10000', narrowed.key);
    for (const { source } of found) expect(source.ip).toBe('127.0.0.1');
    expect(await linesOf('q=bootstrap', narrowed.key)).toEqual([]);
    expect((await linesOf('q=bootstrap')).length).toBeGreaterThan(2);
  });

  it('200: as evidence and as an export the lines of the pages', async () => {
    const [line] = await linesOf('q=ticket-4711');
    const [evidence] = await linesOf('q=ticket-4711&form=evidence');
    expect(evidence?.['line'].position).toBe(line?.position);
    const headers = { Accept: 'application/x-ndjson' };
    const reply = await t.send('GET', '/audit/logs?q=ticket-4711', { headers });
    const [exported, trailer] = reply.text.trimEnd().split('\n');
    expect(JSON.parse(exported ?? '').position).toBe(line?.position);
    expect(JSON.parse(trailer ?? '').trailer.count).toBe(1);
  });

  it('400: none, too long, or with control characters; another search’s cursor', async () => {
    for (const q of ['', 'x'.repeat(201), 'a%00b', '%20a']) {
      expect([q, (await t.send('GET', `/audit/logs?q=${q}`)).status]).toEqual([q, 400]);
    }
    const cursor = (await read('q=own&limit=1')).headers.get('x-next-cursor');
    const other = await t.send('GET', `/audit/logs?q=foreign&cursor=${cursor}`);
    expect([other.status, other.body.error]).toEqual([400, 'cursor_filter_mismatch']);
  });
});

describe('GET /audit/logs?occurred_from=&occurred_to=', () => {
  it('200: half open, by the time that the recorder gave', async () => {
    const all = await linesOf('limit=10000');
    const at = all[3]?.['occurred_at'] as string;
    const from = await linesOf(`occurred_from=${at}&limit=10000`);
    const to = await linesOf(`occurred_to=${at}&limit=10000`);
    expect(positionsOf(from)).toEqual(positionsOf(all.filter((l) => l['occurred_at'] >= at)));
    expect(positionsOf(to)).toEqual(positionsOf(all.filter((l) => l['occurred_at'] < at)));
    expect(from.length + to.length).toBe(all.length);
    expect(await linesOf(`occurred_from=${at}&occurred_to=${at}`)).toEqual([]);
  });

  it('400: no date', async () => {
    for (const name of ['occurred_from', 'occurred_to']) {
      const reply = await t.send('GET', `/audit/logs?${name}=yesterday`);
      expect([reply.status, reply.body.data.issues[0].path]).toEqual([400, name]);
    }
  });
});

describe('GET /audit/logs as text/csv', () => {
  const headers = { Accept: 'text/csv' };

  it('200: every line that pages have, as many columns in each, and no trailer', async () => {
    const all = await linesOf('limit=10000');
    const reply = await t.send('GET', '/audit/logs', { headers });
    expect([reply.status, reply.headers.get('content-type')]).toEqual([
      200,
      'text/csv; charset=utf-8; header=present',
    ]);
    const rows = tableOf(reply.text);
    expect(rows.slice(0, all.length).map((row) => row['position'])).toEqual(positionsOf(all));
    const revoked = rows.find((row) => row['type'] === 'api_key.revoked');
    expect(revoked).toMatchObject({
      'actor.name': 'bootstrap',
      'resource.name': 'leaked',
      'source.ip': '127.0.0.1',
      request_id: 'ticket-4711',
      data: '{"reason":"Found in a BUILD log"}',
      outcome: 'success',
    });
    expect(Object.keys(rows[0] ?? {})).not.toContain('cursor');
  });

  it('200: filtered, newest first, packed', async () => {
    const reply = await t.send('GET', '/audit/logs?order=desc&action=api_key.*&limit=2', {
      headers: { ...headers, 'Accept-Encoding': 'gzip' },
    });
    expect(reply.headers.get('content-encoding')).toBe('gzip');
    const newest = await linesOf('order=desc&action=api_key.*&limit=2');
    expect(tableOf(reply.text).map((row) => row['position'])).toEqual(positionsOf(newest));
  });

  it('200: nothing is a head alone', async () => {
    const reply = await t.send('GET', '/audit/logs?q=nowhere-at-all', { headers });
    expect(reply.text).toMatch(/^position,event_id,type,[^\n]*\r\n$/);
  });

  it('400: evidence is no table', async () => {
    const reply = await t.send('GET', '/audit/logs?form=evidence', { headers });
    expect([reply.status, reply.body.data.issues[0].path]).toEqual([400, 'form']);
  });
});
