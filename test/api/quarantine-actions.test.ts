import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { actOn, aMail, held, historyOf, spoolFile } from '../support/mail.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';

let sink: SmtpSink;
/** With a relay, and without. */
let t: TestGateway;
let bare: TestGateway;
const refused = new Map<string, { code: number; text: string }>();

beforeAll(async () => {
  sink = await startSmtpSink({ refuse: (recipient) => refused.get(recipient) ?? null });
  const smtpRelay = `127.0.0.1:${sink.port}`;
  t = await startTestGateway({ config: { smtpRelay } });
  bare = await startTestGateway();
  for (const g of [t, bare]) {
    await g.createDomain('example.com', { backend_servers: [smtpRelay] });
    await g.createDomain('example.org', { backend_servers: [smtpRelay] });
  }
});
afterAll(async () => {
  await t.close();
  await bare.close();
  await sink.stop();
});

const pathOf = (id: string) => `/mail/quarantine/messages/${id}`;
const typesOf = async (g: TestGateway, id: string) =>
  (await historyOf(g, id)).map(({ type }) => type.replace('quarantine.', ''));
const shownTo = (recipient: string) => sink.messages.filter(({ to }) => to.includes(recipient));

describe('POST …/discard', () => {
  it('200: the message is gone, and nobody is told', async () => {
    const { id } = await held(t);
    const sent = sink.messages.length;
    const reply = await actOn(t, id, 'discard', { body: { reason: 'old' } });
    expect([reply.status, reply.body.data.state]).toEqual([200, 'discarded']);
    expect(existsSync(spoolFile(t, id))).toBe(false);
    expect(sink.messages).toHaveLength(sent);
    const [, asked, done] = await historyOf(t, id);
    expect(asked).toMatchObject({ type: 'quarantine.discard_requested', data: { reason: 'old' } });
    expect(done).toMatchObject({ type: 'quarantine.discarded', actor: { type: 'system' } });
  });

  it.each(['body', 'preview'])('410 content_gone afterwards: GET …/%s', async (what) => {
    const { id } = await held(t);
    await actOn(t, id, 'discard');
    const reply = await t.send('GET', `${pathOf(id)}/${what}`);
    expect([reply.status, reply.body.error]).toEqual([410, 'content_gone']);
  });

  it('200: a repeat answers the first result and records nothing', async () => {
    const { id } = await held(t);
    await Promise.all([actOn(t, id, 'discard'), actOn(t, id, 'discard')]);
    expect((await actOn(t, id, 'discard')).body.data.state).toBe('discarded');
    expect(await typesOf(t, id)).toEqual(['added', 'discard_requested', 'discarded']);
  });

  it('makes the block that it brings, linked to the message', async () => {
    const { id } = await held(t, { from: 'spammer@sender.example' });
    const body = { block_sender: { scope: 'recipient' } };
    expect((await actOn(t, id, 'discard', { body })).status).toBe(200);
    const [filter] = (await t.send('GET', '/sender-filters')).body.data;
    expect(filter).toMatchObject({
      kind: 'block',
      scope: 'recipient',
      recipient: 'you@example.com',
      sender: 'spammer@sender.example',
      made_by: { message_id: id },
    });
  });
});

describe('POST …/reject', () => {
  it('200: the sender is told in a report from the null sender', async () => {
    const { id } = await held(t, { raw: aMail('bounced'), from: 'bounced@sender.example' });
    const reply = await actOn(t, id, 'reject', { body: { reason: 'not wanted' } });
    expect([reply.status, reply.body.data.state]).toEqual([200, 'rejected']);
    const [bounce, ...more] = shownTo('bounced@sender.example');
    expect([bounce?.from, bounce?.to, more]).toEqual(['', ['bounced@sender.example'], []]);
    expect(bounce?.raw.toString()).toMatch(/^Content-Type: multipart\/report;/im);
    expect(bounce?.raw.toString()).toContain('you@example.com');
    expect(existsSync(spoolFile(t, id))).toBe(false);
    expect(await typesOf(t, id)).toEqual([
      'added',
      'reject_requested',
      'reject_started',
      'rejected',
    ]);
  });

  it('200: a repeat sends no second bounce', async () => {
    const { id } = await held(t, { from: 'once@sender.example' });
    const replies = await Promise.all([actOn(t, id, 'reject'), actOn(t, id, 'reject')]);
    expect(replies.map(({ status }) => status)).toEqual([200, 200]);
    expect(shownTo('once@sender.example')).toHaveLength(1);
  });

  it.each<[string, () => TestGateway, string]>([
    ['no relay is set', () => bare, 'eve@sender.example'],
    ['it came from the null sender', () => t, ''],
  ])('409 state_conflict: %s', async (_, gateway, from) => {
    const { id } = await held(gateway(), { from });
    const reply = await actOn(gateway(), id, 'reject');
    expect([reply.status, reply.body.error]).toEqual([409, 'state_conflict']);
    expect(await typesOf(gateway(), id)).toEqual(['added']);
  });

  it('409 reject_failed: the relay refuses with 550, and the message is still held', async () => {
    refused.set('never@sender.example', { code: 550, text: '5.1.1 no such user' });
    const { id } = await held(t, { from: 'never@sender.example' });
    const reply = await actOn(t, id, 'reject');
    expect([reply.status, reply.body.error]).toEqual([409, 'reject_failed']);
    expect(reply.body.data.state).toBe('held');
    expect(existsSync(spoolFile(t, id))).toBe(true);
    expect((await actOn(t, id, 'release')).status).toBe(200);
  });

  it('202: the relay puts it off with 451', async () => {
    refused.set('later@sender.example', { code: 451, text: '4.7.1 greylisted' });
    const { id } = await held(t, { from: 'later@sender.example' });
    const reply = await actOn(t, id, 'reject');
    expect([reply.status, reply.body.data.state]).toEqual([202, 'reject_requested']);
    const last = (await historyOf(t, id)).at(-1);
    expect(last).toMatchObject({ type: 'quarantine.reject_deferred' });
    expect(Date.parse(last.data.retry_at)).toBeGreaterThan(Date.parse(last.occurred_at));
    expect((await actOn(t, id, 'discard')).body.error).toBe('state_conflict');
  });

  it('202: a repeat before its time tries nothing', async () => {
    refused.set('patient@sender.example', { code: 451, text: '4.7.1 greylisted' });
    const { id } = await held(t, { from: 'patient@sender.example' });
    for (let n = 0; n < 4; n += 1) expect((await actOn(t, id, 'reject')).status).toBe(202);
    expect(await typesOf(t, id)).toEqual([
      'added',
      'reject_requested',
      'reject_started',
      'reject_deferred',
    ]);
    refused.clear();
  });
});

describe('a look inside', () => {
  it.each(['body', 'preview'])('is an event: GET …/%s', async (what) => {
    const { id } = await held(t);
    const { id: keyId, key } = await t.createKey({ scope: 'read-only' });
    const reply = await t.send('GET', `${pathOf(id)}/${what}`, { key });
    expect(reply.status).toBe(200);
    expect((await historyOf(t, id)).slice(1)).toMatchObject([
      {
        type: 'quarantine.content_read',
        data: { what },
        actor: { type: 'api_key', id: String(keyId) },
      },
    ]);
  });

  it.each(['body', 'preview'])('is none by HEAD …/%s, which has the same head', async (what) => {
    const { id } = await held(t);
    const head = await t.send('HEAD', `${pathOf(id)}/${what}`);
    expect([head.status, head.text]).toEqual([200, '']);
    expect(await typesOf(t, id)).toEqual(['added']);
    const get = await t.send('GET', `${pathOf(id)}/${what}`);
    for (const name of ['content-type', 'content-disposition']) {
      expect(head.headers.get(name)).toBe(get.headers.get(name));
    }
  });

  it('gives the bytes as they were handed in', async () => {
    const raw = aMail('bytes', 'ümläut\r\n\0\r\n');
    const { id } = await held(t, { raw });
    const reply = await t.send('GET', `${pathOf(id)}/body`);
    expect(reply.text).toBe(raw);
    expect(reply.headers.get('content-type')).toContain('message/rfc822');
    expect(reply.headers.get('content-disposition')).toMatch(/^attachment/);
  });
});

describe('the two paths of a message', () => {
  const hold = (queueId: string, subject: string, hoursAgo: number) =>
    held(t, {
      raw: aMail(subject),
      headers: {
        'X-Queue-Id': queueId,
        'X-Arrived-At': new Date(Date.now() - hoursAgo * 3_600_000).toISOString(),
      },
    });
  const inQueue = (queueId: string) => `/mail/quarantine/node-1/${queueId}`;

  it('mean the same', async () => {
    const { id } = await hold('SAME01', 'the same', 1);
    for (const what of ['body', 'preview', 'history']) {
      const reply = await t.send('GET', `${inQueue('SAME01')}/${what}`);
      expect([what, reply.status]).toEqual([what, 200]);
    }
    const body = { class: 'spam' };
    expect((await t.send('POST', `${inQueue('SAME01')}/retrain`, { body })).status).toBe(200);
    const released = await t.send('POST', `${inQueue('SAME01')}/release`);
    expect(released.body.data).toMatchObject({ id, state: 'released' });
  });

  it('of a queue id that is used again mean the held one, else the latest', async () => {
    const old = await hold('AGAIN1', 'old', 3);
    const newer = await hold('AGAIN1', 'newer', 2);
    expect((await t.send('POST', `${inQueue('AGAIN1')}/discard`)).body.data.id).toBe(newer.id);
    const rest = await t.send('POST', `${inQueue('AGAIN1')}/release`);
    expect(rest.body.data).toMatchObject({ id: old.id, state: 'released' });
    const none = await t.send('POST', `${inQueue('AGAIN1')}/discard`);
    expect(none.body.data).toMatchObject({ id: newer.id, state: 'discarded' });
  });

  it.each(['/mail/quarantine/node-2/SAME01', '/mail/quarantine/node-1/NOBODY1'])(
    '404: %s',
    async (path) => {
      expect((await t.send('GET', `${path}/body`)).status).toBe(404);
      expect((await t.send('POST', `${path}/release`)).status).toBe(404);
    },
  );
});

describe('who may act', () => {
  const ACTIONS = ['retrain', 'release', 'discard', 'reject'];
  const bodyOf = (action: string) => (action === 'retrain' ? { class: 'spam' } : {});

  it.each(ACTIONS)('quarantine-only may %s, and read-only may only read', async (action) => {
    const { id } = await held(t);
    const { key: reader } = await t.createKey({ scope: 'read-only' });
    const sending = { body: bodyOf(action), key: reader };
    expect((await actOn(t, id, action, sending)).status).toBe(403);
    expect((await t.send('GET', `${pathOf(id)}/body`, { key: reader })).status).toBe(200);
    const { key } = await t.createKey({ scope: 'quarantine-only' });
    expect((await actOn(t, id, action, { ...sending, key })).status).toBe(200);
  });

  it.each(ACTIONS)('a narrowed key may not %s the mail of others: 404', async (action) => {
    const { id } = await held(t);
    const { key } = await t.createKey({ scope: 'domain-admin', mail_domain: 'example.org' });
    const reply = await actOn(t, id, action, { body: bodyOf(action), key });
    expect([reply.status, reply.body.error]).toEqual([404, 'not_found']);
  });
});
