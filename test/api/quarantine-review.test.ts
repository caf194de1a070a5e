import { renameSync, symlinkSync, truncateSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { actOn, aMail, handIn, held, historyOf, spoolFile } from '../support/mail.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';

/** What a reviewer has broken; each of these was seen to fail. */
let t: TestGateway;
let sink: SmtpSink;

beforeAll(async () => {
  sink = await startSmtpSink();
  t = await startTestGateway();
  const backend = { backend_servers: [`127.0.0.1:${sink.port}`] };
  await t.createDomain('example.com', backend);
  await t.createDomain('example.org', backend);
  // The pattern of an address takes it, and it is none.
  await t.createDomain('odd.example', { backend_servers: ['[::::1:]:25'] });
});
afterAll(async () => {
  await t.close();
  await sink.stop();
});

const typesOf = async (id: string) => (await historyOf(t, id)).map(({ type }) => type.slice(11));
const arrived = (subject: string) =>
  sink.messages.filter(({ raw }) => raw.includes(`Subject: ${subject}\r\n`)).length;

describe('a release that meets what nobody expected', () => {
  it('sends nothing twice when the other mail domain’s server cannot be named', async () => {
    const item = await held(t, {
      raw: aMail('once'),
      to: ['you@example.com', 'she@odd.example'],
    });
    expect((await actOn(t, item.id, 'release')).status).toBe(202);
    await sleep(2_500);
    expect(await typesOf(item.id)).toEqual([
      'added',
      'release_requested',
      'release_started',
      'release_deferred',
    ]);
    expect(arrived('once')).toBe(1);
  });

  it('is put off, not begun again every second, while the file cannot be opened', async () => {
    const item = await held(t, { raw: aMail('unreadable') });
    const file = spoolFile(t, item.id);
    renameSync(file, `${file}.away`);
    symlinkSync(file, file);
    expect((await actOn(t, item.id, 'release')).status).toBe(202);
    await sleep(2_500);
    expect(await typesOf(item.id)).toEqual([
      'added',
      'release_requested',
      'release_started',
      'release_deferred',
    ]);
  });

  it('delivers nothing of a file that is no longer what arrived', async () => {
    const item = await held(t, { raw: aMail('cut short') });
    truncateSync(spoolFile(t, item.id), 70);
    const reply = await actOn(t, item.id, 'release');
    expect(reply.status).toBe(202);
    expect(reply.body.data.deliveries).toMatchObject([{ outcome: 'deferred' }]);
    expect(sink.messages.filter(({ raw }) => raw.includes(item.id))).toEqual([]);
  });
});

describe('queue ids of several tenants', () => {
  it('leaves a tenant its own message under an id that another one has used', async () => {
    const { key } = await t.createKey({ scope: 'domain-admin', mail_domain: 'example.org' });
    const headers = { 'X-Queue-Id': 'SHADOW1' };
    const own = await held(t, { raw: aMail('own'), to: 'you@example.org', headers });
    await held(t, { raw: aMail('shadow'), to: 'you@example.com', headers });
    const path = `/mail/quarantine/${own.node_id}/SHADOW1/history`;
    const reply = await t.send('GET', path, { key });
    expect(reply.status).toBe(200);
    expect(reply.body.data[0].resource.id).toBe(own.id);
  });

  it('holds the same bytes again for other recipients', async () => {
    const headers = { 'X-Queue-Id': 'SAMEQ1' };
    const raw = aMail('same');
    const first = await held(t, { raw, to: ['one@example.com', 'two@example.com'], headers });
    const again = await held(t, { raw, to: ['two@example.com', 'one@example.com'], headers });
    const other = await handIn(t, { raw, to: 'three@example.com', headers });
    expect(again.id).toBe(first.id);
    expect(other.body.data.id).not.toBe(first.id);
    expect(other.body.data.recipients).toEqual(['three@example.com']);
  });
});

describe('what a narrowed reader is told of a shared message', () => {
  it('does not name the mail domains of the others', async () => {
    const { id, key } = await t.createKey({ scope: 'domain-admin', mail_domain: 'example.org' });
    const own = (await t.send('GET', `/auth/api-keys/${id}`)).body.data.mail_domain;
    expect(own).toBe('example.org');
    const item = await held(t, { to: ['you@example.org', 'a@example.com', 'b@example.com'] });
    const reply = await t.send('GET', `/mail/quarantine/messages/${item.id}/history`, { key });
    const [added] = reply.body.data;
    expect(added.withheld).toContain('data.recipients_of');
    expect(added.data.recipients_of.map((group: any) => group.count).sort()).toEqual([1, 2]);
    const named = added.data.recipients_of.filter((group: any) => group.mail_domain !== null);
    expect(named).toMatchObject([{ count: 1 }]);
  });
});
