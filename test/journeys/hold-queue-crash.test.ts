import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ask } from '../support/crash.ts';
import { freePort, type MailHost, missingPrograms, startMailHost } from '../support/mail-host.ts';
import { cleanUp, makeHome, type Program, startProgram } from '../support/program.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';

const PASSWORD = 'the ingest password of the crash';
const WAIT = { timeout: 30_000, interval: 50 };
/** How long the server of the recipients takes: the gateway is killed before it has an answer. */
const SLOW_MS = 1_200;

const run = promisify(execFile);
const missing = missingPrograms();
if (missing.length > 0) {
  process.stdout.write(`crashes beside a hold queue are skipped: no ${missing.join(', ')}\n`);
}

describe.skipIf(missing.length > 0)('kill -9 between postsuper and the outcome', () => {
  const home = makeHome();
  let sink: SmtpSink;
  let host: MailHost;
  let program: Program;
  let settings: Record<string, string>;

  beforeAll(async () => {
    sink = await startSmtpSink({ onMessage: () => sleep(SLOW_MS) });
    const port = await freePort();
    host = await startMailHost({
      domain: 'shop.example',
      sink: { host: '127.0.0.1', port: sink.port },
      exporter: { url: `http://127.0.0.1:${port}/api/v1/mail/quarantine`, password: PASSWORD },
      settings: { default_transport: `smtp:[127.0.0.1]:${sink.port}` },
    });
    settings = {
      MAILGUARD_PORT: String(port),
      MAILGUARD_INGEST_PASSWORD: PASSWORD,
      MAILGUARD_QUARANTINE_STORE: 'postfix',
      MAILGUARD_POSTFIX_SOCKET: host.socket,
      MAILGUARD_POSTFIX_LOG: host.mailLog,
    };
    program = await startProgram(home, settings);
    await request('POST', '/domains', { name: 'shop.example' });
  }, 120_000);
  afterAll(async () => {
    await cleanUp();
    await host?.stop();
    await sink?.stop();
  }, 120_000);

  async function request(method: string, path: string, body?: unknown) {
    const answer = await ask(program, home, { method, path, ...(body ? { body } : {}) });
    if (answer === null) throw new Error(`${method} ${path}: the connection broke`);
    return answer;
  }

  async function held(subject: string) {
    await run('swaks', [
      ...['--server', '127.0.0.1', '--port', String(host.smtpPort), '--suppress-data'],
      ...['--from', 'eve@sender.example', '--to', 'you@shop.example', '--body', 'Hello.'],
      ...['--header', `Subject: ${subject}`, '--header', 'X-Test-Score: quarantine'],
    ]);
    const find = async () => {
      const { data } = await request('GET', '/mail/quarantine?limit=100');
      return data.find((item: { subject: string }) => item.subject === subject) ?? null;
    };
    await expect.poll(find, WAIT).not.toBeNull();
    return find();
  }

  /** Asks for an action, and kills the gateway as soon as the log has postsuper's line of it. */
  async function killAt(mail: { id: string; queue_id: string }, action: string, line: string) {
    const path = `/mail/quarantine/messages/${mail.id}/${action}`;
    const asked = ask(program, home, { method: 'POST', path, body: {} });
    const isDone = () => readFileSync(host.mailLog, 'utf8').includes(`: ${mail.queue_id}: ${line}`);
    const deadline = Date.now() + WAIT.timeout;
    while (!isDone() && Date.now() < deadline) await sleep(1);
    program.kill('SIGKILL');
    await program.ended();
    const answer = await asked;
    program = await startProgram(home, settings);
    return answer;
  }

  const typesOf = async (id: string): Promise<string[]> =>
    (await request('GET', `/mail/quarantine/messages/${id}/history`)).data.map(
      ({ type }: { type: string }) => type.replace('quarantine.', ''),
    );
  const stateOf = async (id: string) =>
    (await request('GET', `/mail/quarantine/messages/${id}`)).data.state;
  const copiesOf = (subject: string) =>
    sink.messages.filter(({ from, raw }) => from !== '' && raw.includes(`Subject: ${subject}\r\n`));

  it.each(['first', 'second', 'third'])(
    'a release, %s time: one copy, and the history tells',
    async (round) => {
      const subject = `released in the ${round} crash`;
      const mail = await held(subject);
      // Control: had it ended before, there would be an answer.
      expect(await killAt(mail, 'release', 'released from hold')).toBeNull();
      await expect.poll(() => stateOf(mail.id), WAIT).toBe('released');
      expect(copiesOf(subject)).toHaveLength(1);
      const types = await typesOf(mail.id);
      expect(types.slice(0, 5)).toEqual([
        'added',
        'release_requested',
        'release_started',
        'release_interrupted',
        'release_started',
      ]);
      expect(types.filter((type) => type === 'released')).toHaveLength(1);
    },
    90_000,
  );

  it('a discard: it is discarded, and not said to have vanished', async () => {
    const mail = await held('discarded in a crash');
    await killAt(mail, 'discard', 'removed');
    await expect.poll(() => stateOf(mail.id), WAIT).toBe('discarded');
    expect(await typesOf(mail.id)).toEqual(['added', 'discard_requested', 'discarded']);
  }, 90_000);

  it('a rejection: one notice to the sender', async () => {
    const mail = await held('rejected in a crash');
    await killAt(mail, 'reject', 'expired');
    await expect.poll(() => stateOf(mail.id), WAIT).toBe('rejected');
    const notices = () =>
      sink.messages.filter(({ from, raw }) => from === '' && raw.includes(mail.queue_id));
    await expect.poll(() => notices().length, WAIT).toBe(1);
    expect(copiesOf('rejected in a crash')).toEqual([]);
  }, 90_000);

  it('mail that was held while the gateway was down is taken in at its start', async () => {
    program.kill('SIGKILL');
    await program.ended();
    const subject = 'held beside a dead gateway';
    await run('swaks', [
      ...['--server', '127.0.0.1', '--port', String(host.smtpPort), '--suppress-data'],
      ...['--from', 'eve@sender.example', '--to', 'you@shop.example', '--body', 'Hello.'],
      ...['--header', `Subject: ${subject}`, '--header', 'X-Test-Score: quarantine'],
    ]);
    program = await startProgram(home, settings);
    const find = async () =>
      (await request('GET', '/mail/quarantine?limit=100')).data.filter(
        (item: { subject: string }) => item.subject === subject,
      );
    await expect.poll(async () => (await find()).length, WAIT).toBe(1);
    expect((await find())[0]).toMatchObject({
      held_by: 'filter',
      reason: 'unscanned',
      score: null,
    });
  }, 90_000);
});
