import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { aMail, held } from '../support/mail.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';

let t: TestGateway;
let sink: SmtpSink;
const refused = new Map<string, { code: number; text: string }>();
const TIMEOUTS = { connectMs: 1_000, greetingMs: 2_000, replyMs: 2_000, dataReplyMs: 2_000 };

beforeAll(async () => {
  sink = await startSmtpSink({ refuse: (recipient) => refused.get(recipient) ?? null });
  t = await startTestGateway({ smtp: { timeouts: TIMEOUTS } });
  const backend = { backend_servers: [`127.0.0.1:${sink.port}`] };
  await t.createDomain('example.com', backend);
  await t.createDomain('example.org', backend);
  await t.createDomain('unrouted.example', { backend_servers: [] });
  await t.createDomain('gone.example', { backend_servers: ['127.0.0.1:9'] });
});
afterAll(async () => {
  await t.close();
  await sink.stop();
});

const act = (id: string, action: string, body: object = {}, key?: string) =>
  t.send('POST', `/mail/quarantine/messages/${id}/${action}`, {
    body,
    ...(key === undefined ? {} : { key }),
  });
const historyOf = async (id: string): Promise<any[]> =>
  (await t.send('GET', `/mail/quarantine/messages/${id}/history`)).body.data;
const typesOf = async (id: string) => (await historyOf(id)).map(({ type }) => type);
const arrived = (subject: string) =>
  sink.messages.filter(({ raw }) => raw.includes(`Subject: ${subject}\r\n`));

describe('POST …/release', () => {
  it('200: the mail has arrived, byte for byte behind our trace', async () => {
    const raw = aMail('released', 'a line\r\n.a dot\r\n\r\n..\r\nümläut\r\n');
    const item = await held(t, { raw });
    const reply = await act(item.id, 'release', { reason: 'it is wanted' });
    expect(reply.status).toBe(200);
    expect(reply.body.data.state).toBe('released');
    expect(reply.body.data.deliveries).toMatchObject([
      { recipient: 'you@example.com', outcome: 'accepted', code: 250 },
    ]);
    const [mail, ...others] = arrived('released');
    expect(others).toEqual([]);
    const text = mail?.raw.toString() ?? '';
    expect(text).toMatch(/^Received: from quarantine by node-1/);
    expect(text.slice(text.indexOf('From: Eve'))).toBe(raw);
    expect(mail).toMatchObject({ from: 'eve@sender.example', to: ['you@example.com'] });
  });

  it('records request, try and end, the end correlated with the request', async () => {
    const item = await held(t, { raw: aMail('recorded') });
    await act(item.id, 'release', { reason: 'wanted' });
    const history = await historyOf(item.id);
    expect(history.map(({ type }) => type)).toEqual([
      'quarantine.added',
      'quarantine.release_requested',
      'quarantine.release_started',
      'quarantine.released',
    ]);
    const [added, asked, , ended] = history;
    expect(added.data.recipients).toEqual(['you@example.com']);
    expect(asked.data.reason).toBe('wanted');
    expect(asked.actor.type).toBe('api_key');
    expect(ended.actor).toMatchObject({ type: 'system' });
    expect(ended.data.results).toEqual([{ recipient: 0, outcome: 'accepted', code: 250 }]);
  });

  it('200: a repeat answers the first result and sends nothing', async () => {
    const item = await held(t, { raw: aMail('repeated') });
    await act(item.id, 'release');
    const again = await act(item.id, 'release');
    expect([again.status, again.body.data.state]).toEqual([200, 'released']);
    expect(arrived('repeated')).toHaveLength(1);
    expect((await typesOf(item.id)).filter((type) => type === 'quarantine.released')).toHaveLength(
      1,
    );
  });

  it('200: ten at once are one release', async () => {
    const item = await held(t, { raw: aMail('raced') });
    const replies = await Promise.all(Array.from({ length: 10 }, () => act(item.id, 'release')));
    expect(replies.map(({ status }) => status)).toEqual(Array(10).fill(200));
    expect(arrived('raced')).toHaveLength(1);
  });

  it('200: some recipients, then the others; nobody gets it twice', async () => {
    const to = ['a@example.com', 'b@example.com', 'c@example.org'];
    const item = await held(t, { raw: aMail('in parts'), to });
    const part = await act(item.id, 'release', { recipients: ['B@example.com'] });
    expect([part.status, part.body.data.state]).toEqual([200, 'held']);
    const rest = await act(item.id, 'release');
    expect([rest.status, rest.body.data.state]).toEqual([200, 'released']);
    const all = arrived('in parts').flatMap(({ to: recipients }) => recipients);
    expect(all.sort()).toEqual([...to].sort());
  });

  it('409 release_failed: refused for good, said with the reply, and still held', async () => {
    refused.set('never@example.com', { code: 550, text: '5.1.1 no such user' });
    const item = await held(t, { raw: aMail('refused'), to: 'never@example.com' });
    const reply = await act(item.id, 'release');
    expect([reply.status, reply.body.error]).toEqual([409, 'release_failed']);
    expect(reply.body.data.state).toBe('release_failed');
    expect(reply.body.data.deliveries).toMatchObject([{ outcome: 'refused', code: 550 }]);
    expect(reply.body.data.deliveries[0].reply).toContain('no such user');
    refused.clear();
    expect((await act(item.id, 'release')).status).toBe(200);
  });

  it('202: put off by 451, then delivered when its time has come', async () => {
    refused.set('later@example.com', { code: 451, text: '4.7.1 greylisted' });
    const item = await held(t, { raw: aMail('greylisted'), to: 'later@example.com' });
    const reply = await act(item.id, 'release');
    expect([reply.status, reply.body.data.state]).toEqual([202, 'release_requested']);
    expect(reply.body.data.deliveries).toMatchObject([{ outcome: 'deferred', code: 451 }]);
    refused.clear();
    await expect.poll(() => arrived('greylisted').length, { timeout: 15_000 }).toBe(1);
    await expect
      .poll(async () => (await typesOf(item.id)).at(-1), { timeout: 5_000 })
      .toBe('quarantine.released');
  }, 25_000);

  it('202: a server that is gone is tried again, and the history says so', async () => {
    const item = await held(t, { raw: aMail('gone'), to: 'you@gone.example' });
    const reply = await act(item.id, 'release');
    expect(reply.status).toBe(202);
    expect(reply.body.data.deliveries).toMatchObject([{ outcome: 'deferred', code: null }]);
    expect(await typesOf(item.id)).toContain('quarantine.release_deferred');
  });

  it.each(['you@unrouted.example', 'you@nobody.example'])('422 no_route: %s', async (to) => {
    const item = await held(t, { raw: aMail('unrouted'), to });
    const reply = await act(item.id, 'release');
    expect([reply.status, reply.body.error]).toEqual([422, 'no_route']);
    expect(await typesOf(item.id)).toEqual(['quarantine.added']);
  });

  it('409 state_conflict: after a discard', async () => {
    const item = await held(t);
    expect((await act(item.id, 'discard')).body.data.state).toBe('discarded');
    const reply = await act(item.id, 'release');
    expect([reply.status, reply.body.error]).toEqual([409, 'state_conflict']);
  });

  it('400: a recipient that it does not have', async () => {
    const item = await held(t);
    const reply = await act(item.id, 'release', { recipients: ['other@example.com'] });
    expect([reply.status, reply.body.data.issues[0].path]).toEqual([400, 'recipients.0']);
  });

  it('404: an id that nobody has', async () => {
    expect((await act('019683b4-a5c8-7857-bd64-bba9f0cfe218', 'release')).status).toBe(404);
  });

  it('makes the sender filter that it brings, linked to the message', async () => {
    const item = await held(t, { raw: aMail('with filter') });
    await act(item.id, 'release', { allow_sender: { scope: 'mail_domain' } });
    const filters = await t.send('GET', '/sender-filters');
    expect(filters.body.data[0]).toMatchObject({
      kind: 'allow',
      scope: 'mail_domain',
      mail_domain: 'example.com',
      sender: 'eve@sender.example',
      made_by: { message_id: item.id },
    });
  });
});

describe('a message of several mail domains', () => {
  it('shows a narrowed key its own recipients, and lets it do nothing', async () => {
    const narrowed = await t.createKey({ scope: 'domain-admin', mail_domain: 'example.org' });
    const item = await held(t, { raw: aMail('shared'), to: ['a@example.com', 'b@example.org'] });
    const path = `/mail/quarantine/messages/${item.id}`;
    const seen = await t.send('GET', path, { key: narrowed.key });
    expect(seen.body.data).toMatchObject({ recipients: ['b@example.org'], recipients_hidden: 1 });
    expect(seen.body.data.mail_domains).toEqual(['example.org']);
    for (const action of ['release', 'discard', 'reject']) {
      const reply = await act(item.id, action, {}, narrowed.key);
      expect([reply.status, reply.body.error]).toEqual([409, 'foreign_recipients']);
    }
    const body = await t.send('GET', `${path}/body`, { key: narrowed.key });
    expect(body.status).toBe(409);
    const history = await t.send('GET', `${path}/history`, { key: narrowed.key });
    expect(history.body.data[0].data.recipients).toEqual(['b@example.org']);
    expect(history.body.data[0].withheld).toContain('data.recipients');
    expect(history.text).not.toContain('a@example.com');
  });
});
