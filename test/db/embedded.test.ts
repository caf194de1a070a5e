import { once } from 'node:events';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { databaseAccount } from '../../src/data-dir.ts';
import {
  ask,
  isRoot,
  isRunning,
  leaveLock,
  makeTemporary,
  pidFile,
  removeTemporary,
  serverPid,
  start,
  startHelper,
  stopAll,
  until,
} from './embedded-support.ts';

/** The rules of pg_hba.conf, without its comments, which speak of `trust`. */
async function accessRules(dataDir: string): Promise<string[]> {
  const text = await readFile(join(dataDir, 'postgres', 'pg_hba.conf'), 'utf8');
  return text.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('#'));
}

let home = '';
beforeAll(async () => {
  home = join(await makeTemporary(), 'data');
});
afterEach(stopAll);
afterAll(removeTemporary);

// The tests of this first group share one data directory, each finding what the last one left.
describe('startEmbeddedPostgres', () => {
  it('makes a database on the first start', async () => {
    const { url, adopted, firstStart } = await start(home);
    expect({ adopted, firstStart }).toEqual({ adopted: false, firstStart: true });
    expect(await ask(url, 'select current_database()')).toBe('mailguard');
    expect(await ask(url, `select lower('ÄÖ')`)).toBe('äö');
    expect(await ask(url, 'show fsync')).toBe('on');
    await ask(url, 'create table facts (fact text)');
  });

  it('makes nothing on the next start, and is up within 3 s', async () => {
    const begin = Date.now();
    const { url, firstStart } = await start(home);
    expect(firstStart).toBe(false);
    expect(Date.now() - begin).toBeLessThan(3_000);
    expect(await ask(url, 'select count(*) from facts')).toBe('0');
  });

  it('trusts nobody, and listens on no network address', async () => {
    const { url, log } = await start(home);
    expect(await ask(url, 'show listen_addresses')).toBe('');
    const rules = await accessRules(home);
    expect(rules.length).toBeGreaterThan(0);
    expect(rules.filter((rule) => !rule.endsWith('scram-sha-256'))).toEqual([]);

    const { password } = new URL(url);
    const wrong = url.replace(password, 'f'.repeat(64));
    await expect(ask(wrong, 'select 1')).rejects.toMatchObject({ code: '28P01' });
    expect((await stat(join(home, 'database-password'))).mode & 0o777).toBe(0o600);
    expect(JSON.stringify(log)).not.toContain(password);
    expect(await readFile(join(home, 'postgres.log'), 'utf8')).not.toContain(password);
  });

  it("hands none of the gateway's environment on", async (context: TestContext) => {
    await start(home);
    const path = `/proc/${await serverPid(home)}/environ`;
    const environment = await readFile(path, 'utf8').catch(() => null);
    if (environment === null) return context.skip(`${path} cannot be read here`);
    const names = environment.split('\0').map((line) => line.split('=')[0]);
    expect(names).toEqual(['PATH', 'LC_ALL', 'TZ', '']);
  });

  it('runs as nobody when the gateway is root', async (context: TestContext) => {
    if (!isRoot) context.skip('only root changes accounts');
    await start(home);
    const status = await readFile(`/proc/${await serverPid(home)}/status`, 'utf8');
    const { uid, gid } = databaseAccount(home);
    expect(uid).toBeGreaterThan(0);
    expect(status).toMatch(new RegExp(`Uid:\\s+${uid}\\s+${uid}\\s`));
    expect(status).toMatch(new RegExp(`Gid:\\s+${gid}\\s+${gid}\\s`));
    expect(status).toMatch(/Groups:\s*\n/);
  });

  it('stops and leaves no process', async () => {
    const { stop, seen } = await start(home);
    const pid = await serverPid(home);
    await Promise.all([stop(), stop()]);
    expect(await isRunning(pid)).toBe(false);
    expect(seen).toEqual([]);
    await expect(readFile(pidFile(home))).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('takes over a server that a gateway left alive', async () => {
    const first = await start(home);
    const pid = await serverPid(home);
    first.release();
    await first.stop();
    const second = await start(home);
    expect(second.adopted).toBe(true);
    expect(await serverPid(home)).toBe(pid);
    expect(await ask(second.url, 'select 1')).toBe(1);
    await second.stop();
    expect(await isRunning(pid)).toBe(false);
  });

  it('shares one server between two starts at once', async () => {
    const [one, two] = await Promise.all([start(home), start(home)]);
    expect([one.adopted, two.adopted].sort()).toEqual([false, true]);
    expect(await ask(one.url, 'select 1')).toBe(1);
    expect(two.url).toBe(one.url);
    await sleep(600);
    expect([...one.seen, ...two.seen]).toEqual([]);
    (one.adopted ? one : two).release();
  });

  it('waits for a server that is shutting down, and starts anew', async () => {
    const first = await start(home);
    const pid = await serverPid(home);
    first.release();
    // A smart shutdown waits for this client for ever.
    const client = new pg.Client({ connectionString: first.url });
    client.on('error', () => undefined);
    await client.connect();
    process.kill(pid, 'SIGTERM');
    await until(async () => (await readFile(pidFile(home), 'utf8')).includes('stopping'));
    const second = await start(home);
    expect(second.adopted).toBe(false);
    expect(await isRunning(pid)).toBe(false);
    await client.end();
  });
});

describe('a server that dies', () => {
  it('comes back with everything that was committed', async () => {
    const { url, seen } = await start(home);
    await ask(url, `insert into facts values ('kept')`);
    const pid = await serverPid(home);
    process.kill(pid, 'SIGKILL');
    await until(() => seen.includes('up'));
    expect(seen).toEqual(['down', 'up']);
    expect(await serverPid(home)).not.toBe(pid);
    expect(await ask(url, 'select fact from facts')).toBe('kept');
  });

  it('comes back also when it was taken over', async () => {
    (await start(home)).release();
    const { url, seen, adopted } = await start(home);
    expect(adopted).toBe(true);
    process.kill(await serverPid(home), 'SIGKILL');
    await until(() => seen.includes('up'));
    expect(await ask(url, 'select 1')).toBe(1);
  });

  it('comes back again and again', async () => {
    const { url, seen } = await start(home);
    for (const round of [1, 2, 3]) {
      process.kill(await serverPid(home), 'SIGQUIT');
      await until(() => seen.filter((event) => event === 'up').length === round);
    }
    expect(await ask(url, 'select 1')).toBe(1);
  });

  it('stays down when stopped in the middle of a restart', async () => {
    for (const pauseMs of [0, 105, 130]) {
      const { stop, seen } = await start(home);
      process.kill(await serverPid(home), 'SIGKILL');
      await until(() => seen.includes('down'));
      await sleep(pauseMs);
      await stop();
      const pid = await serverPid(home).catch(() => 0);
      expect(pid !== 0 && (await isRunning(pid))).toBe(false);
    }
  });

  it('is left dead once released', async () => {
    const { release, seen } = await start(home);
    const pid = await serverPid(home);
    release();
    process.kill(pid, 'SIGKILL');
    await until(async () => !(await isRunning(pid)));
    await sleep(200);
    expect(seen).toEqual([]);
  });
});

describe('what a crash leaves behind', () => {
  const socketLock = () => join(home, 'socket', '.s.PGSQL.5432.lock');

  it.each([
    ['a dead process', 'echo $$'],
    ['a process of another program', 'echo $$; exec sleep 60'],
    // The sleeping parent never asks for its child's exit code.
    ['a zombie', 'sleep 0 & echo $!; exec sleep 60'],
  ])('is no obstacle: a lock of %s', async (_case, script) => {
    const { child, line } = await startHelper(script);
    if (script === 'echo $$' && child.exitCode === null) await once(child, 'exit');
    const pid = Number(line);
    await leaveLock(pidFile(home), pid);
    await leaveLock(socketLock(), pid);
    const { url, adopted } = await start(home);
    expect(adopted).toBe(false);
    expect(await ask(url, 'select 1')).toBe(1);
    expect(await serverPid(home)).not.toBe(pid);
  });

  it('is no obstacle: an initdb that was cut short', async () => {
    const dataDir = join(await makeTemporary(), 'data');
    for (const name of ['postgres.new', 'postgres.new-999999999-abcd']) {
      await mkdir(join(dataDir, name, 'base'), { recursive: true });
      await writeFile(join(dataDir, name, 'PG_VERSION'), '18\n');
    }
    await writeFile(join(dataDir, 'postgres.new-999999999-abcd.password'), 'secret');
    const { url, firstStart } = await start(dataDir);
    expect(firstStart).toBe(true);
    expect(await ask(url, 'select 1')).toBe(1);
    expect((await readdir(dataDir)).filter((name) => name.includes('.new'))).toEqual([]);
  });

  it('is refused while a server unseen by this machine answers on the socket', async (context) => {
    if (process.platform === 'win32') context.skip('no socket there');
    const path = join(home, 'socket', '.s.PGSQL.5432');
    const other = createServer().listen(path);
    await once(other, 'listening');
    try {
      await expect(start(home)).rejects.toThrow(/another container uses this data directory/);
    } finally {
      other.close();
    }
  });
});

describe('a start that must fail', () => {
  it('says what the server wrote to its log', async () => {
    const file = join(home, 'postgres', 'postgresql.auto.conf');
    const text = await readFile(file, 'utf8');
    await writeFile(file, `${text}no_such_setting = 1\n`);
    await expect(start(home)).rejects.toThrow(/did not start.*no_such_setting/);
    await writeFile(file, text);
  });

  it('names the file of a password that is not the right one', async () => {
    const file = join(home, 'database-password');
    const text = await readFile(file, 'utf8');
    await writeFile(file, `${'f'.repeat(64)}\n`);
    await expect(start(home)).rejects.toThrow(`${file} does not hold the database's password`);
    await writeFile(file, text);
    await expect(serverPid(home)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('leaves alone what is neither empty nor a database', async () => {
    const dataDir = join(await makeTemporary(), 'data');
    await mkdir(join(dataDir, 'postgres'), { recursive: true });
    await writeFile(join(dataDir, 'postgres', 'letter'), 'dear');
    await expect(start(dataDir)).rejects.toThrow(/is neither empty nor a database/);
    expect(await readdir(join(dataDir, 'postgres'))).toEqual(['letter']);
  });

  it('tells the database of another major version', async () => {
    const dataDir = join(await makeTemporary(), 'data');
    await mkdir(join(dataDir, 'postgres'), { recursive: true });
    await writeFile(join(dataDir, 'postgres', 'PG_VERSION'), '16\n');
    await expect(start(dataDir)).rejects.toThrow(/made by PostgreSQL 16 and this is 18/);
  });
});

describe('a data directory whose path is too long for a socket', () => {
  it('is served on the loopback address, by password, and adopted there', async () => {
    const dataDir = join(await makeTemporary(), 'a'.repeat(50), `b c,"é${'d'.repeat(50)}`, 'data');
    const first = await start(dataDir);
    expect(new URL(first.url).hostname).toBe('127.0.0.1');
    expect(await ask(first.url, 'show unix_socket_directories')).toBe('');
    const wrong = first.url.replace(new URL(first.url).password, 'f'.repeat(64));
    await expect(ask(wrong, 'select 1')).rejects.toMatchObject({ code: '28P01' });
    process.kill(await serverPid(dataDir), 'SIGKILL');
    await until(() => first.seen.includes('up'));
    expect(await ask(first.url, 'select 1')).toBe(1);
    first.release();
    const second = await start(dataDir);
    expect(second.adopted).toBe(true);
    expect(second.url).toBe(first.url);
  });
});
