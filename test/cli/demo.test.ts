import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { verdictOn } from '../../src/cli/demo-mail.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { callerOf, mailguard, temporary } from './support.ts';

vi.setConfig({ testTimeout: 60_000 });

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
});
afterAll(() => t.close());

const MAILS = 12;

/** Eight mails of spam, four of ham, and what lies beside mails. */
function makeCorpus(): string {
  const folder = temporary();
  for (const kind of ['spam-1', 'easy-ham-1']) mkdirSync(join(folder, kind));
  for (let n = 0; n < MAILS; n += 1) {
    const kind = n % 3 === 0 ? 'easy-ham-1' : 'spam-1';
    const mail =
      `From a${n}@example.org Thu Aug 22 12:36:23 2002\nReturn-Path: <a${n}@example.org>\n` +
      `From: a${n}@example.org\nTo: somebody@example.com\nSubject: demo ${n}\n\nHello ${n}.\n`;
    writeFileSync(join(folder, kind, `${n}.txt`), mail);
    writeFileSync(join(folder, kind, `${n}.json`), JSON.stringify({ text: mail }));
  }
  writeFileSync(join(folder, 'spam-1', 'notes'), 'no mail\n');
  return folder;
}

type Told = Readonly<{
  imported: Readonly<{ imported: number; already_there: number; refused: object }>;
  acts: Readonly<{
    previewed: number;
    retrained: Readonly<Record<string, number>>;
    released: Readonly<Record<string, number>>;
    discarded: Readonly<Record<string, number>>;
    bulk: Readonly<{ job_id: string; dry_run: object; real: object }>;
  }>;
  smtp_sink: Readonly<{ address: string; arrived: number }>;
  mail_domains: readonly Readonly<{ id: number; name: string; messages: Record<string, number> }>[];
  keys: readonly Readonly<{
    id: number;
    name: string;
    scope: string;
    status: string;
    answers: Record<string, number>;
  }>[];
  sender_filters: number;
  next: readonly string[];
}>;

async function demo(corpus: string) {
  const argv = ['demo', '--corpus', corpus, '--json'];
  const pause = (ms: number) => sleep(ms);
  const ran = await mailguard(argv, { env: callerOf(t), pause });
  expect(ran.code, ran.stderr).toBe(0);
  return { ...ran, told: JSON.parse(ran.stdout) as Told };
}

const total = (counts: readonly Readonly<Record<string, number>>[]) =>
  counts.flatMap((one) => Object.values(one)).reduce((a, b) => a + b, 0);

describe('demo', () => {
  const corpus = makeCorpus();
  let first: Awaited<ReturnType<typeof demo>>;
  beforeAll(async () => {
    first = await demo(corpus);
  });

  it('imports mail for its mail domains, and acts on it', async () => {
    const { imported, acts, smtp_sink: sink, mail_domains: domains } = first.told;
    expect(imported).toEqual({ imported: MAILS, already_there: 0, refused: {} });
    expect(domains.map(({ name }) => name)).toEqual(
      ['north', 'south', 'east', 'west'].map((side) => `example-${side}.test`),
    );
    expect(total(domains.map(({ messages }) => messages))).toBe(MAILS);
    expect(acts.released).toEqual({ released: 2 });
    expect(sink.arrived).toBe(2);
    expect(acts.discarded).toEqual({ discarded: 2 });
    expect(acts.previewed).toBeGreaterThan(0);
    // There is no rspamd to learn, and nobody says that there was.
    expect(Object.keys(acts.retrained)).toEqual(['unavailable']);
    const states = await t.send('GET', '/mail/quarantine?state=released');
    expect(states.body.data).toHaveLength(2);
    for (const { deliveries } of states.body.data) {
      expect(deliveries[0]).toMatchObject({ outcome: 'accepted', code: 250, server: sink.address });
    }
    expect(await t.send('GET', `/mail/quarantine/bulk/${acts.bulk.job_id}`)).toMatchObject({
      body: { data: { state: 'completed', dry_run: false } },
    });
  });

  it('makes keys of every scope, with traffic that the gateway has counted', async () => {
    const { keys } = first.told;
    expect(new Set(keys.map(({ scope }) => scope))).toEqual(
      new Set(['read-only', 'quarantine-only', 'domain-admin', 'full-admin']),
    );
    expect(keys.map(({ status }) => status)).toEqual([
      ...['active', 'active', 'active', 'revoked', 'grace', 'active'],
    ]);
    expect(keys.find(({ name }) => name === 'SIEM forwarder')?.answers).toEqual({ 200: 3, 403: 2 });
    const dashboard = keys.find(({ status }) => status === 'revoked');
    expect(dashboard?.answers).toEqual({ 200: 5, 401: 1 });
    const activity = await t.send('GET', `/auth/api-keys/${dashboard?.id}/activity`);
    expect(activity.body.data.ended_by).toBe('revoked');
    const windows: readonly { requests: number }[] = activity.body.data.windows;
    expect(windows.reduce((sum, { requests }) => sum + requests, 0)).toBe(5);
    const all = await t.send('GET', '/auth/api-keys');
    for (const key of all.body.data) {
      if (key.name.startsWith('demo: ')) expect(key.expires_at).not.toBeNull();
    }
  });

  it('shows how to look on, and no key', async () => {
    const { stdout, stderr, told } = first;
    expect(told.next).toHaveLength(3);
    for (const line of told.next) expect(line).toContain('-H "X-API-Key: $MAILGUARD_API_KEY"');
    expect(stdout + stderr).not.toMatch(/nmg_[0-9a-f]{64}/);
  });

  it('can be run again: the same mail domains and mails, a new mail server, further actions', async () => {
    const { told, stdout } = await demo(corpus);
    expect(told.imported).toMatchObject({ imported: 0, already_there: MAILS });
    expect(told.mail_domains.map(({ id }) => id)).toEqual(
      first.told.mail_domains.map(({ id }) => id),
    );
    expect(told.smtp_sink.address).not.toBe(first.told.smtp_sink.address);
    expect(told.acts.released).toEqual({ released: told.smtp_sink.arrived });
    const held = (one: Told) =>
      total(one.mail_domains.map(({ messages }) => ({ held: messages['held'] ?? 0 })));
    expect(held(told)).toBeLessThan(held(first.told));
    expect(stdout).toContain(told.smtp_sink.address);
  });

  it('leaves a gateway that answers a release honestly when its mail server is gone', async () => {
    const { body } = await t.send('GET', '/mail/quarantine?state=held&limit=1');
    const [item] = body.data;
    const answer = await t.send('POST', `/mail/quarantine/messages/${item.id}/release`);
    expect(answer.status).toBe(202);
    const { state, deliveries } = answer.body.data;
    expect(state).toBe('release_requested');
    for (const delivery of deliveries) {
      expect(delivery).toMatchObject({ outcome: 'deferred', reply: 'ECONNREFUSED' });
    }
  });

  it('prints tables for people', async () => {
    const argv = ['demo', '--corpus', makeCorpus(), '--messages', '5'];
    const { code, stdout } = await mailguard(argv, { env: callerOf(t), pause: (ms) => sleep(ms) });
    expect(code).toBe(0);
    expect(stdout).toMatch(/^0 mails imported, 5 already there, 0 refused\.\n/);
    expect(stdout).toMatch(
      /\nMAIL DOMAIN +HELD +RELEASED +DISCARDED +OTHER\nexample-north\.test +\d+/,
    );
    expect(stdout).toMatch(
      /\nKEY +NAME +SCOPE +STATUS +ANSWERS\n\d+ +SIEM forwarder +read-only +active/,
    );
    expect(stdout.match(/^ {2}curl -s /gm)).toHaveLength(3);
    expect(stdout).toContain('a release is accepted (202) and tried again');
  });
});

describe('a demo that cannot begin', () => {
  it.each([
    [['--messages', '0'], '--messages takes 1 to 100000'],
    [['--corpus', '/nowhere'], '/nowhere is no folder'],
    [['--corpus', temporary()], 'has no mail in it'],
  ])('says what is wrong with %j', async (argv, hint) => {
    const { code, stdout, stderr } = await mailguard(['demo', ...argv], { env: callerOf(t) });
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(hint);
  });

  it('is not run on the gateway of another machine', async () => {
    const env = { ...callerOf(t), MAILGUARD_URL: 'http://mail.example.com' };
    const { code, stderr } = await mailguard(['demo', '--corpus', makeCorpus()], { env });
    expect(code).toBe(2);
    expect(stderr).toContain('for a gateway on this machine');
  });

  it('says that there is no gateway', async () => {
    const env = { ...callerOf(t), MAILGUARD_URL: 'http://127.0.0.1:9' };
    const { code, stderr } = await mailguard(['demo', '--corpus', makeCorpus()], { env });
    expect(code).toBe(2);
    expect(stderr).toContain('ECONNREFUSED');
  });
});

describe('what is made up for a mail', () => {
  it('is always the same for the same bytes, and fits the kind of mail', () => {
    const bytes = Array.from({ length: 400 }, (_, n) => Buffer.from(`mail ${n}`));
    const spam = bytes.map((mail) => verdictOn(mail, true));
    expect(bytes.map((mail) => verdictOn(mail, true))).toEqual(spam);
    expect(new Set(spam.map(({ domain }) => domain)).size).toBe(4);
    expect(new Set(spam.map(({ reason }) => reason)).size).toBe(6);
    for (const { score, to, symbols } of spam) {
      expect(score).toBeGreaterThanOrEqual(10);
      expect(to.length).toBeGreaterThan(0);
      expect(symbols.length).toBeGreaterThan(0);
    }
    const ham = bytes.map((mail) => verdictOn(mail, false));
    // Nobody has looked, which is not a score of 0.
    const unscanned = ham.filter(({ reason }) => reason === 'unscanned');
    expect(unscanned.length).toBeGreaterThan(0);
    expect(unscanned.every(({ score, symbols }) => score === null && symbols.length === 0)).toBe(
      true,
    );
  });
});
