import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { freePort, type MailHost, missingPrograms, startMailHost } from '../support/mail-host.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';

const PASSWORD = 'the ingest password of the journey';
const LOOK_MS = 300;
const WAIT = { timeout: 20_000, interval: 50 };
// GTUBE, the text by which filters are tried (https://spamassassin.apache.org/gtube/).
const GTUBE = 'XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X';

const REFUSALS = [
  ['nobody@', { code: 550, text: '5.1.1 No such user' }],
  ['later@', { code: 451, text: '4.7.1 Later, please' }],
] as const;

const run = promisify(execFile);

const missing = missingPrograms();
if (missing.length > 0) {
  process.stdout.write(`the hold queue's journey is skipped: no ${missing.join(', ')}\n`);
}

describe.skipIf(missing.length > 0)('held mail of a real Postfix and rspamd', () => {
  let sink: SmtpSink;
  let host: MailHost;
  let t: TestGateway;
  let sent = 0;

  beforeAll(async () => {
    sink = await startSmtpSink({
      refuse: (to) => REFUSALS.find(([name]) => to.startsWith(name))?.[1] ?? null,
    });
    const port = await freePort();
    const route = `smtp:[127.0.0.1]:${sink.port}`;
    host = await startMailHost({
      domain: 'shop.example',
      sink: { host: '127.0.0.1', port: sink.port },
      exporter: { url: `http://127.0.0.1:${port}/api/v1/mail/quarantine`, password: PASSWORD },
      milterDefaultAction: 'quarantine',
      isRejectHeld: true,
      // Notices to senders arrive, too.
      settings: { default_transport: route },
    });
    t = await startTestGateway({
      holdQueueLookMs: LOOK_MS,
      config: {
        port,
        ingestPassword: PASSWORD,
        postfix: { socket: host.socket, mailLog: host.mailLog },
        rspamd: { url: host.controllerUrl, password: host.controllerPassword },
      },
    });
    await t.createDomain('shop.example');
  }, 120_000);
  afterAll(async () => {
    await t?.close();
    await host?.stop();
    await sink?.stop();
  }, 60_000);

  type Mail = Readonly<{ to?: string; body?: string; headers?: Readonly<Record<string, string>> }>;

  /** Sends one mail by SMTP, as anybody would, and tells its subject. */
  async function swaks({ to = 'you@shop.example', body = 'Hello.', headers = {} }: Mail) {
    sent += 1;
    const subject = `journey ${sent}`;
    const more = Object.entries(headers).flatMap(([name, value]) => [
      '--header',
      `${name}: ${value}`,
    ]);
    // Not waited for in one go: rspamd waits for the gateway's answer, which is in this process.
    await run('swaks', [
      ...['--server', '127.0.0.1', '--port', String(host.smtpPort), '--helo', 'client.example'],
      ...['--from', 'eve@sender.example', '--to', to, '--header', `Subject: ${subject}`, ...more],
      ...['--body', body, '--suppress-data'],
    ]);
    return subject;
  }
  const held = (mail: Mail = {}) => swaks({ headers: { 'X-Test-Score': 'quarantine' }, ...mail });

  const find = async (subject: string) =>
    (
      await t.send('GET', `/mail/quarantine?state=any&subject=${encodeURIComponent(subject)}`)
    ).body.data?.find((item: { subject: string }) => item.subject === subject) ?? null;
  const listed = async (subject: string) => {
    await expect.poll(() => find(subject), WAIT).not.toBeNull();
    return find(subject);
  };
  const item = async (id: string) =>
    (await t.send('GET', `/mail/quarantine/messages/${id}`)).body.data;
  const act = (id: string, action: string, body: object = {}) =>
    t.send('POST', `/mail/quarantine/messages/${id}/${action}`, { body });
  const history = async (id: string) =>
    (await t.send('GET', `/mail/quarantine/messages/${id}/history`)).body.data;
  const types = async (id: string) =>
    (await history(id)).map(({ type }: { type: string }) => type.replace('quarantine.', ''));
  const inQueue = () => host.postfix('postqueue', ['-j']).stdout;
  const arrived = (subject: string) =>
    sink.messages.filter(({ from, raw }) => from !== '' && raw.includes(`Subject: ${subject}\r\n`));
  const stateOf = async (id: string) => (await item(id)).state;

  it('GTUBE is held, listed with score and symbols, released, and arrives', async () => {
    const subject = await swaks({ body: GTUBE });
    const mail = await listed(subject);
    expect(mail).toMatchObject({
      state: 'held',
      store: 'postfix',
      held_by: 'filter',
      sender: 'eve@sender.example',
      recipients: ['you@shop.example'],
      mail_domains: ['shop.example'],
      reason: 'spam',
    });
    expect(mail.symbols).toContain('GTUBE');
    expect(mail.score).toBeGreaterThan(0);
    expect(inQueue()).toContain(mail.queue_id);
    const body = await fetch(`${t.url}/api/v1/mail/quarantine/messages/${mail.id}/body`, {
      headers: { 'X-API-Key': t.bootstrapKey },
    });
    const bytes = Buffer.from(await body.arrayBuffer());
    expect([body.status, bytes.length]).toEqual([200, mail.size_bytes]);
    expect(bytes.toString()).toContain(`${GTUBE}\r\n`);
    const released = await act(mail.id, 'release', { reason: 'a test' });
    expect([released.status, released.body.data.state]).toEqual([200, 'released']);
    expect(released.body.data.deliveries).toMatchObject([
      { recipient: 'you@shop.example', outcome: 'accepted', code: 250 },
    ]);
    expect(arrived(subject)).toHaveLength(1);
    expect(await types(mail.id)).toEqual([
      'added',
      'content_read',
      'release_requested',
      'release_started',
      'released',
    ]);
    const again = await act(mail.id, 'release');
    expect([again.status, arrived(subject).length]).toEqual([200, 1]);
  });

  it('is discarded, gone from the queue, and reaches nobody', async () => {
    const subject = await held();
    const mail = await listed(subject);
    const discarded = await act(mail.id, 'discard');
    expect([discarded.status, discarded.body.data.state]).toEqual([200, 'discarded']);
    expect(inQueue()).not.toContain(mail.queue_id);
    expect((await act(mail.id, 'release')).status).toBe(409);
    expect(arrived(subject)).toEqual([]);
  });

  it('is rejected, and its bounce arrives at the sender', async () => {
    const subject = await held();
    const mail = await listed(subject);
    const rejected = await act(mail.id, 'reject');
    expect([rejected.status, rejected.body.data.state]).toEqual([200, 'rejected']);
    const notices = () =>
      sink.messages.filter(
        ({ to, from, raw }) =>
          from === '' && to.includes('eve@sender.example') && raw.includes(mail.queue_id),
      );
    await expect.poll(() => notices().length, WAIT).toBe(1);
    expect(notices()[0]?.raw.toString()).toContain('message/delivery-status');
    expect(arrived(subject)).toEqual([]);
  });

  it('is released where one recipient does not exist: undelivered, and the sender is told', async () => {
    const mail = await listed(await held({ to: 'you@shop.example,nobody@shop.example' }));
    const released = await act(mail.id, 'release');
    expect([released.status, released.body.error]).toEqual([409, 'release_failed']);
    expect(released.body.data.state).toBe('undelivered');
    const outcomes = released.body.data.deliveries.map(
      ({ recipient, outcome, code }: any) => `${recipient} ${outcome} ${code}`,
    );
    expect(outcomes).toEqual(['you@shop.example accepted 250', 'nobody@shop.example refused 550']);
  });

  it('is released on the console: the log says so, and that it was not this gateway', async () => {
    const subject = await held();
    const mail = await listed(subject);
    host.postfix('postsuper', ['-H', '-'], `${mail.queue_id}\n`);
    host.postfix('postqueue', ['-i', mail.queue_id]);
    await expect.poll(() => stateOf(mail.id), WAIT).toBe('vanished');
    expect((await history(mail.id)).at(-1)).toMatchObject({
      type: 'quarantine.vanished',
      actor: { type: 'system', id: 'mailguard' },
      data: { how: 'released' },
    });
    await expect.poll(() => arrived(subject).length, WAIT).toBe(1);
  });

  it('is held while the filter is down: unscanned, never a score of 0, and nothing is lost', async () => {
    await host.stopRspamd();
    const down = await listed(await held());
    expect(down).toMatchObject({
      held_by: 'filter_down',
      reason: 'unscanned',
      score: null,
      symbols: [],
    });
    const tried = await act(down.id, 'retrain', { class: 'spam' });
    expect([tried.status, tried.body.data.outcome]).toEqual([200, 'unavailable']);
    expect(await stateOf(down.id)).toBe('held');
    await host.startRspamd();
    expect((await act(down.id, 'release')).body.data.state).toBe('released');
  });

  it('is held by another hand, which is told, and comes without a score', async () => {
    const subject = await swaks({ to: 'later@shop.example' });
    const idOf = () => /"deferred", "queue_id": "(\w+)".*later@/.exec(inQueue())?.[1];
    await expect.poll(idOf, WAIT).toBeDefined();
    host.postfix('postsuper', ['-h', '-'], `${idOf()}\n`);
    const mail = await listed(subject);
    expect(mail).toMatchObject({ held_by: 'hand', reason: 'unscanned', score: null });
    // It would be put off again: let go, it is on its way, and not back in the quarantine.
    const released = await act(mail.id, 'release');
    expect([released.status, released.body.data.state]).toEqual([202, 'release_requested']);
    expect(released.body.data.deliveries).toMatchObject([{ outcome: 'deferred', code: 451 }]);
  });

  it('teaches: learned, already known, and refused are told apart', async () => {
    const words = Array.from({ length: 60 }, (_, n) => `word${n}`).join(' ');
    const mail = await listed(await held({ body: words }));
    // rspamd has just started: its cache of what was learned may be a moment behind.
    await sleep(1_500);
    const outcomes: string[] = [];
    for (const kind of ['spam', 'spam', 'ham']) {
      outcomes.push((await act(mail.id, 'retrain', { class: kind })).body.data.outcome);
    }
    expect(outcomes).toEqual(['learned', 'already_known', 'learned']);
    const short = await listed(await held({ body: 'x' }));
    const refused = await act(short.id, 'retrain', { class: 'spam' });
    expect(refused.body.data.outcome).toBe('refused');
    expect((await history(short.id)).at(-1).data.status).toBe(204);
  });

  it('teaches nothing while rspamd has no memory, whatever words it answers with', async () => {
    const words = Array.from({ length: 60 }, (_, n) => `other${n}`).join(' ');
    const mail = await listed(await held({ body: words }));
    await host.stopRedis();
    const tried = await act(mail.id, 'retrain', { class: 'spam' });
    await host.startRedis();
    expect(tried.body.data.outcome).toBe('unavailable');
    const { type, data } = (await history(mail.id)).at(-1);
    expect([type, data.outcome]).toEqual(['quarantine.retrain_failed', 'unavailable']);
    expect([200, 208]).not.toContain(data.status);
  });

  it('an announcement without a queue file leaves nothing; one that comes late is added', async () => {
    const announce = (qid: string) =>
      fetch(`${t.url}/api/v1/mail/quarantine`, {
        method: 'POST',
        headers: {
          Authorization: `Basic ${Buffer.from(`ingest:${PASSWORD}`).toString('base64')}`,
          'Content-Type': 'application/json',
        },
        body: JSON.stringify({
          ...{ qid, score: 17.5, action: 'quarantine', ip: '192.0.2.1', rcpt: 'unknown' },
          symbols: [{ name: 'LATE', score: 17.5 }],
        }),
      });
    expect((await announce('no queue id')).status).toBe(400);
    expect((await announce('4jZw8h4Zs8z1TwMx')).status).toBe(200);
    await host.stopRspamd();
    const mail = await listed(await held());
    await host.startRspamd();
    expect(mail.reason).toBe('unscanned');
    expect((await announce(mail.queue_id)).status).toBe(200);
    await expect.poll(async () => (await item(mail.id)).score, WAIT).toBe(17.5);
    expect(await item(mail.id)).toMatchObject({ symbols: ['LATE'], reason: 'spam', state: 'held' });
    expect(await types(mail.id)).toEqual(['added', 'scanned']);
    const all = (await t.send('GET', '/mail/quarantine?state=any&limit=1000')).body.data;
    expect(all.map(({ queue_id: id }: any) => id)).not.toContain('4jZw8h4Zs8z1TwMx');
  });

  it('leaves the log of the host without a secret of ours', () => {
    expect(readFileSync(host.mailLog, 'utf8')).not.toContain(PASSWORD);
    expect(t.logged.join('')).not.toContain(PASSWORD);
  });
});
