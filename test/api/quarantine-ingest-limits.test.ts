import { existsSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { actOn, aMail, type Handing, handIn, held, incoming, spoolFile } from '../support/mail.ts';
import { openSocket, requestHead, sendRaw } from '../support/raw-http.ts';
import { allSince, factsSince, headOf } from '../support/recorded.ts';

const PASSWORD = 'the password of the ingest';
const BYTES_MAX = 2_048;
const WAIT = { timeout: 10_000 };
let t: TestGateway;
/** Takes little, and has no ingest password. */
let small: TestGateway;
beforeAll(async () => {
  t = await startTestGateway({ config: { ingestPassword: PASSWORD } });
  await t.createDomain('example.com');
  await t.createDomain('example.org');
  const limits = { messageBytesMax: BYTES_MAX, spoolBytesMax: 4 * BYTES_MAX };
  small = await startTestGateway({ config: limits });
});
afterAll(async () => {
  await t.close();
  await small.close();
});
// Whatever was refused, nothing of it is left.
afterEach(async () => {
  for (const g of [t, small]) await expect.poll(() => incoming(g), WAIT).toEqual([]);
});

const basic = (password: string, user = 'ingest') => ({
  Authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`,
});
/** Mail of so many bytes. */
const mailOf = (bytes: number): string => {
  const short = aMail('of a size', '');
  return short + 'x'.repeat(bytes - short.length);
};
const rawHead = (g: TestGateway, ...lines: string[]): string =>
  requestHead(
    'POST /api/v1/mail/quarantine',
    `X-API-Key: ${g.bootstrapKey}`,
    'Content-Type: message/rfc822',
    'X-Rcpt-To: you@example.com',
    ...lines,
  );
const inChunks = (g: TestGateway, raw: string) =>
  sendRaw(
    g.url,
    `${rawHead(g, 'X-Mail-From: eve@sender.example', 'Transfer-Encoding: chunked')}` +
      `${raw.length.toString(16)}\r\n${raw}\r\n0\r\n\r\n`,
  );
/** Of which nothing must be left but the refusal. */
async function refused(handing: Handing, status: number, error: string): Promise<void> {
  const before = await headOf(t);
  const reply = await handIn(t, handing);
  expect([reply.status, reply.body.error]).toEqual([status, error]);
  expect(await factsSince(t, before)).toEqual([]);
}

describe('who may hand in', () => {
  const mine = { key: null, headers: basic(PASSWORD) };

  it('200: rspamd’s exporter, which takes nothing else for success', async () => {
    const before = await headOf(t);
    const reply = await handIn(t, mine);
    expect([reply.status, reply.body.data.state]).toEqual([200, 'held']);
    const [added] = await factsSince(t, before);
    expect(added?.actor).toMatchObject({ type: 'system', id: 'ingest' });
  });

  it.each<[string, Record<string, string>]>([
    ['another password', basic('another password')],
    ['another user', basic(PASSWORD, 'admin')],
    ['the password and more', basic(`${PASSWORD}x`)],
    ['no password', basic('')],
  ])('401: %s', async (_, headers) => {
    const before = await headOf(t);
    const reply = await handIn(t, { key: null, headers });
    expect([reply.status, reply.body.error]).toEqual([401, 'unauthorized']);
    expect(reply.headers.get('www-authenticate')).toMatch(/^Basic realm=/);
    await t.gateway.context.activity.flush(true);
    const denied = (await allSince(t, before)).filter(({ type }) => type === 'api_key.denied');
    expect(denied.map(({ data }) => data['reason'])).toEqual(['ingest_password']);
  });

  it('401: where no password is set, none is right', async () => {
    const reply = await handIn(small, { key: null, headers: basic('') });
    expect(reply.status).toBe(401);
    expect((await handIn(small, { key: null, headers: basic('null') })).status).toBe(401);
  });

  it('401: without password and key', () => refused({ key: null }, 401, 'unauthorized'));

  it('looks at a key alone where there is one', async () => {
    const { key } = await t.createKey({ scope: 'read-only' });
    await refused({ key, headers: basic(PASSWORD) }, 403, 'scope_forbidden');
    expect((await handIn(t, { headers: basic('wrong') })).status).toBe(201);
  });

  it('401: the password opens no other door', async () => {
    const { status } = await t.send('GET', '/mail/quarantine', { ...mine });
    expect(status).toBe(401);
  });

  it.each(['read-only', 'quarantine-only'])('403: %s', async (scope) => {
    await refused({ key: (await t.createKey({ scope })).key }, 403, 'scope_forbidden');
  });

  it.each(['domain-admin', 'full-admin'])('%s, narrowed: for its own alone', async (scope) => {
    const { key } = await t.createKey({ scope, mail_domain: 'example.com' });
    const own = await handIn(t, { key });
    expect([own.status, own.body.data.recipients]).toEqual([201, ['you@example.com']]);
    for (const to of ['a@example.org', 'a@nobody.example', ['a@example.com', 'b@example.org']]) {
      await refused({ key, to }, 403, 'scope_forbidden');
    }
  });
});

describe('limits', () => {
  it('takes the largest message and not one byte more, however it comes', async () => {
    const largest = await held(small, { raw: mailOf(BYTES_MAX) });
    await actOn(small, largest.id, 'discard');
    const over = await handIn(small, { raw: mailOf(BYTES_MAX + 1) });
    expect([over.status, over.body.error]).toEqual([413, 'payload_too_large']);
    const chunked = await inChunks(small, mailOf(BYTES_MAX));
    expect(chunked.status).toBe(201);
    await actOn(small, JSON.parse(chunked.body).data.id, 'discard');
    expect((await inChunks(small, mailOf(BYTES_MAX + 1))).status).toBe(413);
    expect(small.gateway.context.quarantine.store.usage()).toMatchObject({ messages: 0, bytes: 0 });
  });

  it('503 quarantine_full with Retry-After, until something is discarded', async () => {
    const raw = mailOf(BYTES_MAX);
    const ids: string[] = [];
    for (let n = 0; n < 4; n += 1) ids.push((await held(small, { raw })).id);
    const full = await handIn(small, { raw });
    expect([full.status, full.body.error]).toEqual([503, 'quarantine_full']);
    expect(full.headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
    await actOn(small, ids[0]!, 'discard');
    expect((await handIn(small, { raw })).status).toBe(201);
  });

  it('keeps nothing of a client that goes away', async () => {
    const before = await headOf(t);
    const socket = openSocket(t.url);
    socket.on('error', () => undefined);
    socket.write(rawHead(t, 'X-Mail-From: a@b.example', 'Content-Length: 100000') + aMail());
    await expect.poll(() => incoming(t), WAIT).toHaveLength(1);
    socket.destroy();
    await expect.poll(() => incoming(t), WAIT).toEqual([]);
    expect(await factsSince(t, before)).toEqual([]);
  });
});

describe('a repetition', () => {
  const twice = { raw: aMail('twice'), headers: { 'X-Queue-Id': 'TWICE1' } };

  it('of bytes under a queue id is one message, also at once', async () => {
    const before = await headOf(t);
    const { messages } = t.gateway.context.quarantine.store.usage();
    const replies = await Promise.all(Array.from({ length: 8 }, () => handIn(t, twice)));
    replies.push(await handIn(t, twice));
    expect(replies.map(({ status }) => status)).toEqual(Array(9).fill(201));
    expect(new Set(replies.map(({ body }) => body.data.id)).size).toBe(1);
    expect(await factsSince(t, before)).toHaveLength(1);
    expect(t.gateway.context.quarantine.store.usage().messages).toBe(messages + 1);
  });

  it('after its end changes nothing, and brings no bytes back', async () => {
    const { id } = (await handIn(t, twice)).body.data;
    await actOn(t, id, 'discard');
    const again = await handIn(t, twice);
    expect(again.body.data).toMatchObject({ id, state: 'discarded' });
    expect(existsSync(spoolFile(t, id))).toBe(false);
  });

  it('that began before its end brings no bytes back either', async () => {
    const late = { raw: aMail('late'), headers: { 'X-Queue-Id': 'LATE1' } };
    const { spool } = t.gateway.context.quarantine;
    const { keep } = spool ?? {};
    if (!spool || !keep) throw new Error('there is no spool');
    let id = '';
    // It has found no such message; by the time it keeps its bytes another has made it, and it was discarded.
    Object.assign(spool, {
      async keep(...message: Parameters<typeof keep>) {
        Object.assign(spool, { keep });
        ({ id } = await held(t, late));
        await actOn(t, id, 'discard');
        await keep(...message);
      },
    });
    const again = await handIn(t, late);
    expect(again.body.data).toMatchObject({ id, state: 'discarded' });
    expect(existsSync(spoolFile(t, id))).toBe(false);
    const body = await t.send('GET', `/mail/quarantine/messages/${id}/body`);
    expect([body.status, body.body.error]).toEqual([410, 'content_gone']);
  });

  it('of other bytes under a queue id is another message', async () => {
    const first = await held(t, { ...twice, raw: aMail('other one') });
    const second = await held(t, { ...twice, raw: aMail('other two') });
    expect(second.id).not.toBe(first.id);
  });

  it('by another tenant is another message', async () => {
    const { key } = await t.createKey({ scope: 'domain-admin', mail_domain: 'example.org' });
    const headers = { 'X-Queue-Id': 'TENANT1' };
    const first = await held(t, { headers });
    const second = await held(t, { headers, to: 'b@example.org', key });
    expect(second).toMatchObject({ recipients: ['b@example.org'], recipients_hidden: 0 });
    expect(second.id).not.toBe(first.id);
  });

  it('under an Idempotency-Key is answered as the first', async () => {
    const headers = { 'Idempotency-Key': 'mail-1' };
    const first = await handIn(t, { headers });
    const before = await headOf(t);
    const again = await handIn(t, { headers });
    expect([again.status, again.text]).toEqual([201, first.text]);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(await factsSince(t, before)).toEqual([]);
  });

  it.each<[string, Handing]>([
    ['other bytes', { raw: aMail('other bytes') }],
    ['another recipient', { to: 'other@example.com' }],
    ['another score', { headers: { 'X-Spam-Score': '1' } }],
  ])('422 idempotency_mismatch: with %s', async (what, handing) => {
    const key = { 'Idempotency-Key': `mail-${what.length}` };
    await held(t, { headers: key });
    const headers = { ...handing.headers, ...key };
    await refused({ ...handing, headers }, 422, 'idempotency_mismatch');
  });
});
