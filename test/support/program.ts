import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const READY_MS = 30_000;
const END_MS = 30_000;

/** The real program, running. */
export type Program = Readonly<{
  url: string;
  pid: number;
  /** Milliseconds from its start to its ready line. */
  readyMs: number;
  /** What it wrote, standard output and error. */
  output: () => string;
  hasEnded: () => boolean;
  kill: (signal: NodeJS.Signals) => void;
  /** Its exit code, or the signal that ended it. */
  ended: () => Promise<number | NodeJS.Signals | null>;
}>;

/** Processes that were started here and may be running, the gateways and their databases. */
const children = new Set<ChildProcess>();
const homes: string[] = [];

/** A data directory that the database's account can reach. */
export function makeHome(): string {
  const home = mkdtempSync(join(tmpdir(), 'mailguard-crash-'));
  chmodSync(home, 0o711);
  homes.push(home);
  return home;
}

function spawnServe(home: string, settings: Readonly<Record<string, string>> = {}) {
  if (!existsSync(CLI)) throw new Error(`${CLI} is missing: npm run build`);
  const plain = Object.entries(process.env).filter(([name]) => !name.startsWith('MAILGUARD_'));
  const child = spawn(process.execPath, [CLI, 'serve'], {
    env: {
      ...Object.fromEntries(plain),
      MAILGUARD_DATA_DIR: home,
      MAILGUARD_PORT: '0',
      MAILGUARD_NODE_ID: 'node-1',
      MAILGUARD_LOG_LEVEL: 'warn',
      ...settings,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.add(child);
  child.once('exit', () => children.delete(child));
  return child;
}

/** Starts `serve` and waits for its ready line; throws with what it wrote when there is none. */
export async function startProgram(
  home: string,
  settings: Readonly<Record<string, string>> = {},
): Promise<Program> {
  const begin = performance.now();
  const child = spawnServe(home, settings);
  const written: string[] = [];
  const ready = new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      written.push(line);
      const parsed = line.startsWith('{')
        ? (JSON.parse(line) as { msg?: string; url?: string })
        : {};
      if (parsed.msg === 'ready' && parsed.url !== undefined) resolve(parsed.url);
    });
    child.stderr.on('data', (chunk: Buffer) => written.push(chunk.toString()));
    child.once('exit', (code, signal) => reject(new Error(`it ended: ${code ?? signal}`)));
    setTimeout(() => reject(new Error(`not ready after ${READY_MS} ms`)), READY_MS).unref();
  });
  const url = await ready.catch((error: Error) => {
    throw new Error(`serve did not start: ${error.message}\n${written.join('\n')}`);
  });
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null;
  return {
    url,
    pid: child.pid ?? 0,
    readyMs: Math.round(performance.now() - begin),
    output: () => written.join('\n'),
    hasEnded,
    kill: (signal) => child.kill(signal),
    async ended() {
      if (!hasEnded()) await Promise.race([once(child, 'exit'), sleep(END_MS, 0, { ref: false })]);
      return child.exitCode ?? child.signalCode;
    },
  };
}

/** Starts `serve` where it must not start: its exit code and what it wrote to standard error. */
export async function runRefused(home: string): Promise<{ code: number | null; stderr: string }> {
  const child = spawnServe(home);
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  child.stdout.resume();
  await once(child, 'close');
  return { code: child.exitCode, stderr };
}

/** The process id of the home's database server, by its own pid file; null while it has none. */
export function databasePid(home: string): number | null {
  try {
    const pid = Number.parseInt(readFileSync(join(home, 'postgres', 'postmaster.pid'), 'utf8'), 10);
    return isAlive(pid) ? pid : null;
  } catch {
    return null;
  }
}

/** Whether a process of this number runs; one that only waits to be asked for its exit code does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return (
      process.platform !== 'linux' || !/\) [ZX]/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
    );
  } catch {
    return false;
  }
}

/** The home's database, for a second client beside the gateway. */
export function databaseUrl(home: string): string {
  const password = readFileSync(join(home, 'database-password'), 'utf8').trim();
  const host = encodeURIComponent(join(home, 'socket'));
  return `postgres://mailguard:${password}@localhost:5432/mailguard?host=${host}&sslmode=disable`;
}

export const bootstrapKey = (home: string): string =>
  readFileSync(join(home, 'bootstrap-key'), 'utf8').trim();

/** Ends whatever was started here and is left, by its own process id, and removes the homes. */
export async function cleanUp(): Promise<void> {
  for (const child of children) child.kill('SIGKILL');
  for (const home of homes.splice(0)) {
    for (let tries = 0; tries < 200; tries += 1) {
      const pid = databasePid(home);
      if (pid === null) break;
      if (tries % 100 === 0) process.kill(pid, tries === 0 ? 'SIGINT' : 'SIGQUIT');
      await sleep(50);
    }
    rmSync(home, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
}
