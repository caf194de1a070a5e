import { get } from 'node:http';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXPORTS_MAX } from '../../src/api/audit-export.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { requestHead, sendRaw } from '../support/raw-http.ts';
import { allSince, headOf, type Recorded } from '../support/recorded.ts';
import { fillLog, openExport } from '../support/slow-export.ts';
import { stoppedClock } from '../support/stopped-clock.ts';

let t: TestGateway;
let own: { id: number; name: string };
let narrowed: { id: number; key: string };
beforeAll(async () => {
  t = await startTestGateway({ clock: stoppedClock() });
  own = await t.createDomain('own.example');
  await t.createDomain('foreign.example');
  narrowed = await t.createKey({ mail_domain: own.name });
  const gone = await t.createKey({ name: 'to be forgotten' });
  await t.send('DELETE', `/auth/api-keys/${gone.id}`);
  for (const key of [t.bootstrapKey, narrowed.key]) await t.send('GET', '/audit/logs', { key });
});
afterAll(() => t.close());

const NDJSON = { Accept: 'application/x-ndjson' };
type Trailer = Record<string, string | number | null>;

async function exportAll(query = '', key = t.bootstrapKey) {
  const before = await headOf(t);
  const reply = await t.send('GET', `/audit/logs?${query}`, { key, headers: NDJSON });
  expect(reply.status).toBe(200);
  // Its own end is an event too, and must not surprise what is read next.
  await endOfExport(before);
  expect(reply.text.endsWith('\n')).toBe(true);
  const texts = reply.text.slice(0, -1).split('\n');
  const { trailer } = JSON.parse(texts.pop() ?? '') as { trailer: Trailer };
  return { reply, texts, lines: texts.map((text) => JSON.parse(text)), trailer };
}
const pageOf = async (query = '', key = t.bootstrapKey) =>
  t.send('GET', `/audit/logs?limit=10000&${query}`, { key });
const withoutCursor = (lines: readonly object[]) =>
  lines.map((line) =>
    Object.fromEntries(Object.entries(line).filter(([name]) => name !== 'cursor')),
  );
const exportedSince = async (before: bigint): Promise<Recorded[]> =>
  (await allSince(t, before)).filter(({ type }) => type === 'audit.exported');

/** The end of an export is recorded when its last byte has left, which its reader cannot see. */
async function endOfExport(before: bigint): Promise<Recorded> {
  for (let tries = 0; tries < 500; tries += 1) {
    const [event] = await exportedSince(before);
    if (event !== undefined) return event;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error('the export was not recorded');
}

describe('GET /audit/logs as application/x-ndjson', () => {
  it('200: the lines of the pages, one each, then a trailer', async () => {
    const page = await pageOf();
    const { reply, lines, trailer } = await exportAll();
    expect(lines).toEqual(withoutCursor(page.body.data));
    expect(reply.headers.get('content-type')).toBe('application/x-ndjson; charset=utf-8');
    expect(reply.headers.get('x-sealed-through')).toBe(page.headers.get('x-sealed-through'));
    expect(reply.headers.get('x-request-id')).not.toBeNull();
    expect(reply.headers.get('cache-control')).toBe('no-store');
    expect(trailer).toEqual({
      count: lines.length,
      first_position: '1',
      last_position: lines.at(-1).position,
      next_cursor: page.headers.get('x-next-cursor'),
      tree_size: null,
      root_hash: null,
    });
  });

  it('200: as evidence the committed bytes, also when only some are asked for', async () => {
    const { log } = t.gateway.context;
    const stored = async (filter: object) => {
      const until = await headOf(t);
      const { events } = await log.readAll({ after: 0n, until, filter, limit: 10_000 });
      return events.map((e) => `{"line":${e.line},"disclosures":[${e.disclosures}]}`);
    };
    const [whole, some] = [await stored({}), await stored({ types: ['api_key.created'] })];
    expect((await exportAll('form=evidence')).texts.slice(0, whole.length)).toEqual(whole);
    expect((await exportAll('form=evidence&action=api_key.created')).texts).toEqual(some);
  });

  it.each([
    'action=api_key.*',
    'domain=own.example',
    'resource_type=mail_domain',
    'actor=system:mailguard',
    'outcome=denied',
    'action=none.*',
    'after=3',
    'from=2000-01-01T00:00:00Z&action=api_key.created',
    'to=2000-01-01T00:00:00Z',
  ])('200: ?%s is what its pages are, and its trailer goes on like them', async (query) => {
    const page = await pageOf(query);
    const { lines, trailer } = await exportAll(query);
    expect(lines).toEqual(withoutCursor(page.body.data));
    expect(trailer['next_cursor']).toBe(page.headers.get('x-next-cursor'));
    expect(trailer).toMatchObject({
      count: lines.length,
      first_position: lines[0]?.position ?? null,
      last_position: lines.at(-1)?.position ?? null,
    });
  });

  it('200: from a cursor, with a limit, and on from its trailer', async () => {
    const all = (await pageOf('action=api_key.*')).body.data;
    const first = await exportAll('action=api_key.*&limit=2');
    expect(first.lines).toEqual(withoutCursor(all.slice(0, 2)));
    const rest = await exportAll(`action=api_key.*&cursor=${first.trailer['next_cursor']}`);
    expect(rest.lines).toEqual(withoutCursor(all.slice(2)));
  });

  it('200: its trailer never goes back behind where it began', async () => {
    const head = await headOf(t);
    const query = `after=${head}&to=2000-01-01T00:00:00Z`;
    const { trailer } = await exportAll(query);
    expect(trailer['next_cursor']).toBe((await pageOf(query)).headers.get('x-next-cursor'));
  });

  it('200: a narrowed reader gets what its pages show', async () => {
    const page = await pageOf('', narrowed.key);
    const { reply, lines } = await exportAll('', narrowed.key);
    expect(lines).toEqual(withoutCursor(page.body.data));
    expect(lines.length).toBeGreaterThan(1);
    expect(reply.text).not.toContain('foreign');
  });

  it('200: packed when asked for', async () => {
    const plain = await exportAll('action=mail_domain.*');
    const before = await headOf(t);
    const packed = await sendRaw(
      t.url,
      requestHead(
        'GET /api/v1/audit/logs?action=mail_domain.*',
        `X-API-Key: ${t.bootstrapKey}`,
        'Accept: application/x-ndjson',
        'Accept-Encoding: gzip',
      ),
    );
    expect(packed.head).toMatch(/^content-encoding: gzip$/im);
    expect(packed.head).toMatch(/^vary: accept-encoding$/im);
    const bytes = Buffer.from(dechunk(packed.body), 'latin1');
    await endOfExport(before);
    const texts = gunzipSync(bytes).toString().trimEnd().split('\n');
    expect(texts.slice(0, -1)).toEqual(plain.texts);
    expect(JSON.parse(texts.at(-1) ?? '').trailer).toMatchObject({ count: plain.lines.length });
  });

  it('200: HEAD has the head of it and exports nothing', async () => {
    const before = await headOf(t);
    const reply = await t.send('HEAD', '/audit/logs', { headers: NDJSON });
    expect([reply.status, reply.text]).toEqual([200, '']);
    expect(reply.headers.get('content-type')).toBe('application/x-ndjson; charset=utf-8');
    expect(await exportedSince(before)).toEqual([]);
  });

  it('400 and 409: refusals are envelopes, not exports', async () => {
    const cursor = await t.send('GET', '/audit/logs?cursor=x', { headers: NDJSON });
    expect([cursor.status, cursor.body.error]).toEqual([400, 'invalid_cursor']);
    expect(cursor.headers.get('content-type')).toContain('application/json');
    const ahead = await t.send('GET', '/audit/logs?after=99999999', { headers: NDJSON });
    expect([ahead.status, ahead.body.error]).toEqual([409, 'cursor_ahead_of_log']);
  });
});

describe('audit.exported', () => {
  it('is recorded at the end: by whom, what, how far', async () => {
    const before = await headOf(t);
    const { lines } = await exportAll('action=api_key.*&form=evidence');
    const [event] = await exportedSince(before);
    expect(event).toMatchObject({
      actor: { type: 'api_key', id: '1' },
      resource: { type: 'audit_log' },
      outcome: 'success',
      data: {
        form: 'evidence',
        count: lines.length,
        first_position: lines[0].line.position,
        last_position: lines.at(-1).line.position,
        ended: 'complete',
      },
      disclosed: { ip: '127.0.0.1' },
    });
    // A reader's own text, so it stands outside the committed line.
    expect(event?.data).not.toHaveProperty('filter');
    expect(JSON.parse(String(event?.disclosed['filter']))).toEqual({
      types: [],
      typePrefixes: ['api_key.'],
    });
  });
});

describe('a long export', () => {
  const EVENTS = 20_000;
  beforeAll(() => fillLog(t, EVENTS), 60_000);

  it('ends at the head of its start, and its trailer goes on from there', async () => {
    const head = await headOf(t);
    const running = await openExport(t, t.bootstrapKey);
    const { id } = await t.createKey();
    const { text, ended } = await running.drain();
    expect(ended).toBe('whole');
    const texts = text.trimEnd().split('\n');
    const { trailer } = JSON.parse(texts.pop() ?? '');
    expect(trailer).toMatchObject({ count: Number(head), last_position: String(head) });
    expect(texts).toHaveLength(Number(head));
    const positions = texts.map((line) => /"position":"(\d+)"/.exec(line)?.[1]);
    expect(positions.every((position, index) => position === String(index + 1))).toBe(true);
    const next = await t.send('GET', `/audit/logs?cursor=${trailer.next_cursor}`);
    expect(next.body.data.some((line: any) => line.resource.id === String(id))).toBe(true);
  });

  it('is the same as evidence, and goes on behind the last line of one that was cut', async () => {
    const whole = await exportAll('form=evidence');
    const at = 12_345;
    const { position } = whole.lines[at].line;
    const rest = await exportAll(`form=evidence&after=${position}`);
    expect(rest.texts.slice(0, whole.texts.length - at - 1)).toEqual(whole.texts.slice(at + 1));
  });

  it.each([
    ['form=evidence', NDJSON.Accept],
    ['order=desc', NDJSON.Accept],
    ['', 'text/csv'],
  ])('resets the connection when the log cannot be read on (%s, %s)', async (query, accept) => {
    const before = await headOf(t);
    const mutable = t.gateway.context.log as { -readonly [K in keyof EventLog]: EventLog[K] };
    const { readEvidence, readSegment, readAll } = mutable;
    let calls = 0;
    const failLater = () => {
      calls += 1;
      if (calls > 3) throw new Error('the disk is gone');
    };
    mutable.readEvidence = async (...range) => {
      failLater();
      return readEvidence(...range);
    };
    mutable.readSegment = async (...range) => {
      failLater();
      return readSegment(...range);
    };
    mutable.readAll = async (range) => {
      failLater();
      return readAll(range);
    };
    // A reset may come before the head of the answer has.
    const resetAtOnce = { text: '', ended: 'reset' } as const;
    const { text, ended } = await openExport(t, t.bootstrapKey, query, accept)
      .then(
        (running) => running.drain(),
        () => resetAtOnce,
      )
      .finally(() => Object.assign(mutable, { readEvidence, readSegment, readAll }));
    expect(ended).toBe('reset');
    expect(text).not.toContain('"trailer"');
    expect(await endOfExport(before)).toMatchObject({ outcome: 'failure', data: { ended: 'cut' } });
  });

  it('is recorded as cut when its reader goes away', async () => {
    const before = await headOf(t);
    const running = await openExport(t, t.bootstrapKey);
    running.response.destroy();
    expect(await endOfExport(before)).toMatchObject({ outcome: 'failure', data: { ended: 'cut' } });
  });

  it.each([
    ['with everything before it', '', 'identity'],
    ['with nothing to be told, packed', 'order=asc&to=2000-01-01T00:00:00Z', 'gzip'],
  ])('is over at once when its reader went away before it began (%s)', async (_, query, coding) => {
    const before = await headOf(t);
    const { log } = t.gateway.context;
    const { head } = log;
    const url = `${t.url}/api/v1/audit/logs?${query}`;
    const headers = { ...NDJSON, 'X-API-Key': t.bootstrapKey, 'Accept-Encoding': coding };
    const cuts = () => t.logged.filter((line) => line.includes('"cut":true')).length;
    const cutsBefore = cuts();
    // While the gateway looks for the head its client goes; it finds the head once it has seen that.
    const isGone = new Promise<void>((resolve, reject) => {
      Object.assign(log, {
        async head() {
          Object.assign(log, { head });
          request.destroy();
          await expect
            .poll(cuts)
            .toBe(cutsBefore + 1)
            .then(resolve, reject);
          return head();
        },
      });
    });
    const request = get(url, { headers, agent: false }).on('error', () => undefined);
    await isGone;
    expect(await endOfExport(before)).toMatchObject({
      outcome: 'failure',
      data: { ended: 'cut', count: 0 },
    });
  });

  it('503: is one of a few at a time', async () => {
    const running = await Promise.all(
      Array.from({ length: EXPORTS_MAX }, () => openExport(t, t.bootstrapKey)),
    );
    const refused = await t.send('GET', '/audit/logs', { headers: NDJSON });
    expect([refused.status, refused.body.error]).toEqual([503, 'unavailable']);
    expect(refused.headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
    expect(refused.headers.get('content-type')).toContain('application/json');
    // Whoever reads pages is not kept waiting by those who export.
    expect((await t.send('GET', '/audit/logs')).status).toBe(200);
    for (const { response } of running) response.destroy();
    const before = Date.now();
    while ((await openExport(t, t.bootstrapKey, 'limit=1')).response.statusCode === 503) {
      expect(Date.now() - before).toBeLessThan(10_000);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
});

/** The body of a chunked answer (RFC 9112 7.1). */
function dechunk(body: string): string {
  let [at, joined] = [0, ''];
  for (;;) {
    const end = body.indexOf('\r\n', at);
    const size = Number.parseInt(body.slice(at, end), 16);
    if (!(size > 0)) return joined;
    joined += body.slice(end + 2, end + 2 + size);
    at = end + 2 + size + 2;
  }
}
