import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, connect as dial } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';
import { run } from '../../src/cli/run.ts';
import type { Output, Terminal } from '../../src/cli/terminal.ts';
import type { TestGateway } from '../support/gateway.ts';

export type Ran = Readonly<{ code: number; stdout: string; stderr: string }>;
export type Surroundings = Readonly<{
  env?: NodeJS.ProcessEnv;
  /** A person is watching standard error. */
  watched?: boolean;
  signal?: AbortSignal;
  /** Sees every pause; the default makes it short. */
  pause?: (ms: number) => Promise<void>;
  onStdout?: (text: string) => void;
}>;

/** Runs a command line in this process. */
export async function mailguard(argv: readonly string[], around: Surroundings = {}): Promise<Ran> {
  const texts = { stdout: '', stderr: '' };
  const { signal = new AbortController().signal, onStdout = () => undefined } = around;
  const take = (name: keyof typeof texts, isTTY: boolean): Output => ({
    isTTY,
    write(chunk, done) {
      texts[name] += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8');
      if (name === 'stdout') onStdout(texts.stdout);
      setImmediate(() => done());
      return true;
    },
  });
  const terminal: Terminal = {
    stdout: take('stdout', false),
    stderr: take('stderr', around.watched === true),
    env: around.env ?? {},
    signal,
    pause: around.pause ?? (() => sleep(1, undefined, { signal })),
  };
  const code = await run(argv, terminal);
  return { code, ...texts };
}

const PROGRAM = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const started: ChildProcess[] = [];

/** Runs a command line as a process of its own, of the built program. */
export function startMailguard(argv: readonly string[], env: NodeJS.ProcessEnv) {
  const child = spawn(process.execPath, [PROGRAM, ...argv], {
    env: { PATH: process.env['PATH'], ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  started.push(child);
  const text = { stdout: '', stderr: '' };
  child.stdout.on('data', (bytes) => (text.stdout += bytes));
  child.stderr.on('data', (bytes) => (text.stderr += bytes));
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, ...text }));
  return { child, text, ended };
}

/** Kills what `startMailguard` has started and has not ended. */
export async function killStarted(): Promise<void> {
  for (const child of started.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

/** Settings of an HTTP client of a gateway. */
export const callerOf = (t: TestGateway, key = t.bootstrapKey): NodeJS.ProcessEnv => ({
  MAILGUARD_URL: t.url,
  MAILGUARD_API_KEY: key,
});

/** Settings of a second client of a gateway's database. */
export const joinerOf = ({ database, gateway }: TestGateway): NodeJS.ProcessEnv => ({
  MAILGUARD_DATABASE_URL: database.url,
  MAILGUARD_DATA_DIR: gateway.dataDir,
  MAILGUARD_MASTER_KEY: gateway.context.config.masterKey?.toString('hex'),
});

/** A directory that is gone after the file's tests; the database's account can pass through it. */
export function temporary(): string {
  const path = mkdtempSync(join(tmpdir(), 'mailguard-cli-'));
  chmodSync(path, 0o711);
  afterAll(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Waits for at most 20 s: a moment is enough, unless the machine has much else to do. */
export async function until(isDone: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await isDone())) {
    if (Date.now() > deadline) throw new Error('waited in vain for 20 s');
    await sleep(20);
  }
}

/**
 * A proxy before a server that resets each connection after so many bytes of its answer: the numbers
 * are used up one by one, then it lets everything through.
 */
export async function cuttingProxy(target: string, cuts: readonly number[]) {
  const { hostname, port } = new URL(target);
  const left = [...cuts];
  let connections = 0;
  const server = createServer((client) => {
    const limit = left.shift() ?? Number.POSITIVE_INFINITY;
    const upstream = dial(Number(port), hostname);
    let passed = 0;
    connections += 1;
    client.on('error', () => upstream.destroy());
    upstream.on('error', () => client.destroy());
    client.on('close', () => upstream.destroy());
    client.pipe(upstream);
    upstream.on('data', (bytes) => {
      const fits = bytes.subarray(0, Math.max(0, limit - passed));
      passed += bytes.length;
      if (passed <= limit) client.write(bytes);
      else client.write(fits, () => client.resetAndDestroy());
    });
    upstream.on('end', () => client.end());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address() as { port: number };
  return {
    url: `http://127.0.0.1:${address.port}`,
    connections: () => connections,
    /** Cuts the next connection after so many bytes. */
    cut: (bytes: number) => left.push(bytes),
    close: () => server.close(),
  };
}
