import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { aMail, type Handing, handIn, held, incoming, spoolFile } from '../support/mail.ts';
import { requestHead, sendRaw } from '../support/raw-http.ts';
import { factsSince, headOf } from '../support/recorded.ts';

const WAIT = { timeout: 10_000 };
let t: TestGateway;
let com: { id: number };
let org: { id: number };
beforeAll(async () => {
  t = await startTestGateway();
  com = await t.createDomain('example.com', { quarantine_retention_days: 7 });
  org = await t.createDomain('example.org', { quarantine_retention_days: 90 });
});
afterAll(() => t.close());

const rawHead = (...lines: string[]): string =>
  requestHead(
    'POST /api/v1/mail/quarantine',
    `X-API-Key: ${t.bootstrapKey}`,
    'Content-Type: message/rfc822',
    ...lines,
  );
/** Of which nothing must be left but the refusal. */
async function refused(handing: Handing, status: number, error: string): Promise<void> {
  const before = await headOf(t);
  const reply = await handIn(t, handing);
  expect([reply.status, reply.body.error]).toEqual([status, error]);
  expect(await factsSince(t, before)).toEqual([]);
  await expect.poll(() => incoming(t), WAIT).toEqual([]);
}

describe('POST /mail/quarantine', () => {
  it('201: the item, as our headers tell it', async () => {
    const raw = aMail('ours');
    const reply = await handIn(t, {
      raw,
      to: ['<You@EXAMPLE.com>', 'b@example.org'],
      headers: {
        'X-Quarantine-Reason': 'policy',
        'X-Spam-Symbols': 'A_RULE, B_RULE',
        'X-Queue-Id': '4Zp7Kq2rXyz1',
        'X-Arrived-At': '2026-11-20T09:42:13.5+02:00',
      },
    });
    expect(reply.status).toBe(201);
    expect(reply.body.data).toEqual({
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      node_id: 'node-1',
      queue_id: '4Zp7Kq2rXyz1',
      state: 'held',
      sender: 'eve@sender.example',
      recipients: ['You@example.com', 'b@example.org'],
      recipients_hidden: 0,
      subject: 'ours',
      message_id: '<ours@sender.example>',
      score: 14.7,
      symbols: ['A_RULE', 'B_RULE'],
      reason: 'policy',
      size_bytes: raw.length,
      store: 'spool',
      held_by: null,
      arrived_at: '2026-11-20T07:42:13.500000Z',
      // The longest retention of its mail domains.
      expires_at: '2027-02-18T07:42:13.500000Z',
      mail_domains: ['example.com', 'example.org'],
      deliveries: [],
    });
    const shown = await t.send('GET', reply.headers.get('location')!.replace('/api/v1', ''));
    expect(shown.body.data).toEqual(reply.body.data);
  });

  it('201: as the headers of rspamd’s exporter tell it', async () => {
    const headers = {
      'Content-Type': 'text/plain',
      'X-API-Key': t.bootstrapKey,
      'X-Rspamd-From': 'eve@sender.example',
      'X-Rspamd-Rcpt': '["you@example.com","b@example.org"]',
      'X-Rspamd-Score': '21.5',
      'X-Rspamd-Action': 'reject',
      'X-Rspamd-Symbols': '[{"name":"PHISHING","score":8},{"name":"BAYES_SPAM","score":5}]',
      'X-Rspamd-Qid': '3Pt2mN2VXxznjll',
      'X-Rspamd-Ip': '192.0.2.99',
      'X-Rspamd-User': 'unknown',
      'X-Rspamd-Subject': 'told by rspamd',
    };
    const body = 'From: eve@sender.example\r\n\r\nno subject\r\n';
    const url = `${t.url}/api/v1/mail/quarantine`;
    const reply = await fetch(url, { method: 'POST', headers, body });
    expect(reply.status).toBe(201);
    expect(((await reply.json()) as any).data).toMatchObject({
      queue_id: '3Pt2mN2VXxznjll',
      recipients: ['you@example.com', 'b@example.org'],
      subject: 'told by rspamd',
      message_id: null,
      score: 21.5,
      reason: 'phishing',
      symbols: ['PHISHING', 'BAYES_SPAM'],
    });
  });

  it('holds the very bytes, whose digest stands in the event', async () => {
    const raw = Buffer.concat([
      Buffer.from('Subject: b\0ytes\r\nX-Spam: \xff\xfe\r\n\r\n', 'latin1'),
      Buffer.from(Array.from({ length: 512 }, (_, n) => n & 255)),
    ]);
    const before = await headOf(t);
    const { id, subject } = await held(t, { raw });
    expect(readFileSync(spoolFile(t, id)).equals(raw)).toBe(true);
    expect(subject).not.toContain('\0');
    const [added] = await factsSince(t, before);
    expect(added?.data).toMatchObject({
      size_bytes: raw.length,
      sha256: createHash('sha256').update(raw).digest('hex'),
    });
  });

  it('seals what is personal, the recipients apart for each mail domain', async () => {
    const before = await headOf(t);
    const to = ['a@example.org', 'b@example.com', 'c@nobody.example', 'd@example.org'];
    const { id } = await held(t, { raw: aMail('Sealed words'), to });
    const path = `/audit/logs?form=evidence&resource=quarantined_message:${id}`;
    const [{ line }] = (await t.send('GET', path)).body.data;
    expect(line).toMatchObject({ type: 'quarantine.added', resource: { id } });
    // Digests are of random salts, and may spell anything.
    const committed = JSON.stringify(line, (name, value) => (name === '_sd' ? [] : value));
    for (const secret of [
      'eve@',
      'sender.example',
      'example.org',
      'nobody',
      'Sealed',
      '127.0.0.1',
    ]) {
      expect(committed).not.toContain(secret);
    }
    const [added] = await factsSince(t, before);
    expect(added?.disclosed).toMatchObject({
      sender: 'eve@sender.example',
      subject: 'Sealed words',
      [`recipients.${com.id}`]: ['b@example.com'],
      [`recipients.${org.id}`]: ['a@example.org', 'd@example.org'],
      'recipients.none': ['c@nobody.example'],
    });
  });

  it('holds mail of no known mail domain for 30 days, for un-narrowed keys alone', async () => {
    const item = await held(t, { to: 'you@nobody.example' });
    expect(item.mail_domains).toEqual([]);
    expect(Date.parse(item.expires_at) - Date.parse(item.arrived_at)).toBe(30 * 86_400_000);
    const path = `/mail/quarantine/messages/${item.id}`;
    const { key } = await t.createKey({ mail_domain: 'example.com' });
    expect((await t.send('GET', path, { key })).status).toBe(404);
    const whole = await t.createKey({ scope: 'read-only' });
    expect((await t.send('GET', path, { key: whole.key })).status).toBe(200);
  });

  it('believes nothing that the mail says of itself', async () => {
    const forged =
      'X-Spam-Score: -100\r\nX-Quarantine-Reason: policy\r\nX-Mail-From: root@example.com\r\n' +
      'X-Rcpt-To: root@example.com\r\nX-Rspamd-Score: -100\r\nX-Spam-Symbols: WHITELISTED\r\n';
    expect(await held(t, { raw: forged + aMail() })).toMatchObject({
      sender: 'eve@sender.example',
      recipients: ['you@example.com'],
      score: 14.7,
      symbols: [],
      reason: 'spam',
    });
  });

  const nested = (levels: number): string =>
    Array.from(
      { length: levels },
      (_, n) => `Content-Type: multipart/mixed; boundary=b${n}\r\n\r\n--b${n}\r\n`,
    ).join('');
  it.each<[string, string]>([
    ['a header block of 1 MB', `Subject: long\r\nX-Long: ${'a'.repeat(1_000_000)}\r\n\r\nbody`],
    ['500 parts in one another', `Subject: nested\r\n${nested(500)}\r\ninnermost\r\n`],
    ['headers alone', 'Subject: headers\r\n'],
  ])('201: %s is held as it is, and can be looked at', async (_, raw) => {
    const { id } = await held(t, { raw });
    expect(readFileSync(spoolFile(t, id), 'utf8')).toBe(raw);
    expect((await t.send('GET', `/mail/quarantine/messages/${id}/preview`)).status).toBe(200);
  });

  it.each<[string, string]>([
    ['nothing', ''],
    ['no mail', 'Hello, this is no mail.\r\n'],
    ['an announcement that is called plain text', '{"id":"4jZw","subject":"x"}\r\n\r\nHi.\r\n'],
    ['an announcement over several lines', '{\n  "qid": "4jZw"\n}\n'],
    ['a blank line first', '\r\nSubject: x\r\n\r\n'],
    ['the line of an mbox', `From eve@sender.example Fri May  1 07:42:13 2026\r\n${aMail()}`],
  ])('422 not_a_message: %s', (_, raw) => refused({ raw }, 422, 'not_a_message'));

  it.each([
    { 'Content-Type': 'application/json' },
    { 'Content-Type': 'multipart/form-data; boundary=x' },
    { 'Content-Type': '' },
    { 'Content-Encoding': 'gzip' },
    { 'Content-Encoding': 'br' },
  ])('415: %j', (headers) => refused({ headers }, 415, 'unsupported_media_type'));

  it('201: 1,000 recipients', async () => {
    const to = Array.from({ length: 1_000 }, (_, n) => `user${n}@example.com`);
    expect((await held(t, { to })).recipients).toEqual(to);
    await refused({ to: [...to, 'one.more@example.com'] }, 400, 'validation_failed');
  });

  it.each([
    ['["a@example.com\\r\\nBcc: x@example.org"]'],
    ['["a@example.com\\u0000"]'],
    ['["a@example.com>\\u001b[2J"]'],
    ['["a@example.com", "<b@example.com> NOTIFY=NEVER"]'],
    ['{"a":1}'],
  ])('400: X-Rspamd-Rcpt: %s', async (recipients) => {
    const raw = aMail();
    const given = [`X-Rspamd-Rcpt: ${recipients}`, 'X-Mail-From: eve@sender.example'];
    const head = rawHead(...given, `Content-Length: ${raw.length}`);
    const reply = await sendRaw(t.url, head + raw);
    expect([reply.status, JSON.parse(reply.body).data.issues[0].path]).toEqual([
      400,
      'X-Rspamd-Rcpt',
    ]);
  });

  it.each(['a@b.example\x01', 'a\tb@c.example', 'a@b.example\x7f', '"a\x1bb"@c.example'])(
    '400: X-Mail-From: %j',
    async (from) => {
      const raw = aMail();
      const head = rawHead(
        `X-Mail-From: ${from}`,
        'X-Rcpt-To: you@example.com',
        `Content-Length: ${raw.length}`,
      );
      expect((await sendRaw(t.url, head + raw)).status).toBe(400);
    },
  );
});
