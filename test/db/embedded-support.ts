import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { databaseAccount } from '../../src/data-dir.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/db/embedded.ts';

/** Whether servers here run as another account. */
export const isRoot = process.getuid?.() === 0;
const temporary: string[] = [];
const running: EmbeddedPostgres[] = [];
const helpers: ChildProcess[] = [];

type Entry = { level: string; fields: object; message: string };

/** A directory that the account of the database can walk through. */
export async function makeTemporary(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'mailguard-db-'));
  await chmod(path, 0o711);
  temporary.push(path);
  return path;
}

/** Starts a server that `stopAll` ends, noting its log and its ups and downs. */
export async function start(dataDir: string) {
  const log: Entry[] = [];
  const note = (level: string) => (fields: object, message: string) => {
    log.push({ level, fields, message });
  };
  const seen: string[] = [];
  const database = await startEmbeddedPostgres({
    dataDir,
    logger: { info: note('info'), warn: note('warn'), error: note('error') },
    onDown: () => seen.push('down'),
    onUp: () => seen.push('up'),
  });
  running.push(database);
  return { ...database, log, seen };
}

/** The first value of the first row, over a connection of its own. */
export async function ask(url: string, statement: string): Promise<unknown> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query<Record<string, unknown>>(statement);
    return Object.values(rows[0] ?? {})[0];
  } finally {
    await client.end();
  }
}

export const pidFile = (dataDir: string) => join(dataDir, 'postgres', 'postmaster.pid');

/** The process id of the server, by its own file. */
export async function serverPid(dataDir: string): Promise<number> {
  return Number.parseInt(await readFile(pidFile(dataDir), 'utf8'), 10);
}

/** Whether a process of this number runs; a zombie does not. */
export async function isRunning(pid: number): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  if (process.platform !== 'linux') return true;
  const line = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => 'x (x) Z');
  return !/\) [ZX]/.test(line);
}

/** Waits for at most 10 s. */
export async function until(isDone: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!(await isDone())) {
    if (Date.now() > deadline) throw new Error('waited in vain for 10 s');
    await sleep(10);
  }
}

/** Puts a lock in the server's own place and name, as a crash leaves it. */
export async function leaveLock(file: string, pid: number): Promise<void> {
  await writeFile(file, `${pid}\n`, { mode: 0o644 });
  const { uid, gid } = await stat(join(file, '..'));
  await chown(file, uid, gid);
}

/**
 * A shell that `stopAll` kills, and the first line that it printed. It runs as the database's account:
 * PostgreSQL counts a lock as stale when it may not even signal the process named there.
 */
export async function startHelper(script: string): Promise<{ child: ChildProcess; line: string }> {
  const account = isRoot ? databaseAccount('/nowhere') : {};
  const child = spawn('sh', ['-c', script], {
    ...account,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  helpers.push(child);
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  return { child, line: line.toString().trim() };
}

/** Ends every server and helper that the test began. */
export async function stopAll(): Promise<void> {
  await Promise.all(running.splice(0).map((database) => database.stop()));
  for (const child of helpers.splice(0)) child.kill('SIGKILL');
}

export async function removeTemporary(): Promise<void> {
  for (const path of temporary.splice(0)) await rm(path, { recursive: true, force: true });
}
