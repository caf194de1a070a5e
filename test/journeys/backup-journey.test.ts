import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { acknowledged, emptyBook, startLoad, untilAcknowledged } from '../support/crash.ts';
import {
  bootstrapKey,
  cleanUp,
  databasePid,
  makeHome,
  type Program,
  startProgram,
} from '../support/program.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';
import { type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import { eventually } from '../support/webhooks.ts';

// The real program with its own database: backed up while it serves under load, restored to another data directory.

const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const SETTINGS = {
  MAILGUARD_WEBHOOK_ALLOW_CIDRS: '127.0.0.0/8',
  MAILGUARD_WEBHOOK_ALLOW_HTTP: 'true',
};
const COMMANDS = 60;
const BODY = 'Subject: held\r\n\r\na tab \t, a \\backslash, \\N and ümlauts\r\n.\r\n';

const outputs: string[] = [];
function start(argv: readonly string[], home: string): ChildProcess {
  const child = spawn(process.execPath, [CLI, ...argv], {
    env: { PATH: process.env['PATH'], MAILGUARD_DATA_DIR: home },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  for (const readable of [child.stdout, child.stderr]) {
    readable?.on('data', (bytes: Buffer) => outputs.push(bytes.toString()));
  }
  return child;
}

async function mailguard(argv: readonly string[], home: string) {
  const child = start(argv, home);
  const text = { stdout: '', stderr: '' };
  child.stdout?.on('data', (bytes) => (text.stdout += bytes));
  child.stderr?.on('data', (bytes) => (text.stderr += bytes));
  const [code] = await once(child, 'close');
  return { code: code as number | null, ...text };
}

async function call(
  program: Program,
  key: string,
  request: Readonly<{ path: string } & RequestInit>,
) {
  const { path, headers, ...rest } = request;
  const response = await fetch(`${program.url}/api/v1${path}`, {
    ...rest,
    headers: { 'X-API-Key': key, 'Content-Type': 'application/json', ...headers },
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text };
}

const post = (path: string, body: unknown) =>
  ({ path, method: 'POST', body: JSON.stringify(body) }) as const;

async function evidenceOf(program: Program, key: string): Promise<string[]> {
  const headers = { Accept: 'application/x-ndjson' };
  const { text } = await call(program, key, { path: '/audit/logs?form=evidence', headers });
  return text.trimEnd().split('\n').slice(0, -1);
}

describe('a gateway that is backed up under load, and restored elsewhere', () => {
  const [home, newHome] = [makeHome(), makeHome()];
  const place = join(makeHome(), 'backup');
  const made = (text: string) => JSON.parse(text).data;
  let sink: SmtpSink;
  let receiver: Receiver;
  let program: Program;
  let key: string;
  let held: { id: string };
  let before: readonly string[];
  let cursor: string;
  let backup: { head: string; epoch: number };

  beforeAll(async () => {
    [sink, receiver] = [await startSmtpSink(), await startReceiver()];
    program = await startProgram(home, SETTINGS);
    const first = bootstrapKey(home);
    key = made(
      (await call(program, first, post('/auth/api-keys', { name: 'k', scope: 'full-admin' }))).text,
    ).key;
    const backends = [`${sink.host}:${sink.port}`];
    await call(program, key, post('/domains', { name: 'shop.example', backend_servers: backends }));
    const mail = await call(program, key, {
      path: '/mail/quarantine',
      method: 'POST',
      body: BODY,
      headers: {
        'Content-Type': 'message/rfc822',
        'X-Mail-From': 'eve@evil.example',
        'X-Rcpt-To': 'you@shop.example',
      },
    });
    held = made(mail.text);
    const hook = { url: receiver.url, event_types: ['*'] };
    expect((await call(program, key, post('/webhooks', hook))).status).toBe(201);
    const page = await call(program, key, { path: '/audit/logs?limit=1' });
    cursor = page.headers.get('x-next-cursor') ?? '';

    const book = emptyBook();
    const load = startLoad(program, home, book);
    await untilAcknowledged(book, COMMANDS);
    const { code, stdout } = await mailguard(['backup', place, '--json'], home);
    const meanwhile = acknowledged(book).length;
    await untilAcknowledged(book, COMMANDS);
    await load.stop();
    backup = JSON.parse(stdout);
    expect([code, book.surprises, book.broken]).toEqual([0, [], 0]);
    expect(meanwhile).toBeGreaterThan(COMMANDS);
    before = await evidenceOf(program, key);
  }, 90_000);
  afterAll(async () => {
    await cleanUp();
    await receiver.close();
    await sink.stop();
  }, 60_000);

  it('has more in its log than the backup, which was one moment of it', () => {
    expect(Number(backup.head)).toBeGreaterThan(COMMANDS);
    expect(before.length).toBeGreaterThan(Number(backup.head));
  });

  it('is not restored over, and notices nothing of the try', async () => {
    const { code, stderr } = await mailguard(['restore', place], home);
    expect([code, stderr]).toEqual([2, expect.stringContaining('Another gateway is running')]);
    expect((await call(program, key, { path: '/domains' })).status).toBe(200);
    program.kill('SIGTERM');
    expect(await program.ended()).toBe(0);
    const full = await mailguard(['restore', place], home);
    expect([full.code, full.stderr]).toEqual([2, expect.stringContaining('is not empty')]);
    expect(databasePid(home)).toBe(null);
  });

  it('is not restored without its master key, and no other one is made', async () => {
    const { code, stderr } = await mailguard(['restore', place], newHome);
    expect([code, stderr]).toEqual([2, expect.stringContaining('put the master key')]);
    expect(readdirSync(newHome)).toEqual([]);
  });

  it('is restored after a kill in the middle', async () => {
    copyFileSync(join(home, 'master-key'), join(newHome, 'master-key'));
    const killed = start(['restore', place], newHome);
    const exit = once(killed, 'exit');
    while (databasePid(newHome) === null && killed.exitCode === null) await sleep(5);
    killed.kill('SIGKILL');
    expect((await exit)[1]).toBe('SIGKILL');
    const { code, stdout, stderr } = await mailguard(['restore', place, '--json'], newHome);
    expect([code, stderr]).toEqual([0, expect.stringContaining('must be erased again')]);
    const { head, epoch } = JSON.parse(stdout);
    expect(head).toBe(backup.head);
    expect(epoch).toBeGreaterThan(backup.epoch);
  });

  it('serves the same log from there, byte for byte, and goes on behind it', async () => {
    program = await startProgram(newHome, SETTINGS);
    expect(existsSync(join(newHome, 'bootstrap-key'))).toBe(false);
    const after = await evidenceOf(program, key);
    const head = Number(backup.head);
    expect(after.slice(0, head)).toEqual(before.slice(0, head));
    expect((await call(program, key, post('/domains', { name: 'next.example' }))).status).toBe(201);
    const next = JSON.parse((await evidenceOf(program, key))[head] ?? '{}');
    expect(next.line.position).toBe(String(head + 1));
    const old = await call(program, key, { path: `/audit/logs?limit=1&cursor=${cursor}` });
    expect([old.status, JSON.parse(old.text).error]).toEqual([409, 'cursor_log_mismatch']);
    const behind = await call(program, key, { path: `/audit/logs?limit=1&after=${head}` });
    expect(made(behind.text)[0].position).toBe(String(head + 1));
  });

  it('has the held message, for its owner alone, and delivers it', async () => {
    const file = join(newHome, 'spool', held.id.slice(-2), `${held.id}.eml`);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(statSync(join(newHome, 'spool')).mode & 0o777).toBe(0o700);
    const path = `/mail/quarantine/messages/${held.id}`;
    expect((await call(program, key, { path: `${path}/body` })).text).toBe(BODY);
    const released = await call(program, key, post(`${path}/release`, {}));
    expect([released.status, made(released.text).state]).toEqual([200, 'released']);
    const [arrived] = await sink.waitFor(1);
    expect(arrived?.raw.toString()).toMatch(/^Received: from quarantine by /);
    expect(arrived?.raw.toString().endsWith(BODY)).toBe(true);
  });

  it('goes on with its webhooks: what comes again is the same', async () => {
    await eventually(
      () => receiver.received.map(({ payload }) => payload.type),
      (types) => expect(types).toContain('quarantine.released'),
    );
    const bodies = new Map<string, string>();
    for (const { id, body } of receiver.received) {
      expect([id, bodies.get(id) ?? body]).toEqual([id, body]);
      bodies.set(id, body);
    }
  });

  it('is sound, and has told no secret', async () => {
    program.kill('SIGTERM');
    expect(await program.ended()).toBe(0);
    const verified = await mailguard(['log', 'verify', '--json'], newHome);
    expect([verified.code, JSON.parse(verified.stdout)]).toMatchObject([0, { ok: true }]);
    const secrets = [
      key,
      bootstrapKey(home),
      readFileSync(join(home, 'master-key'), 'utf8').trim(),
    ];
    const told = outputs.join('');
    expect(told.length).toBeGreaterThan(0);
    for (const secret of secrets) expect(told).not.toContain(secret);
  });
});
