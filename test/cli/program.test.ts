import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { killStarted, startMailguard, temporary, until } from './support.ts';

// Each test starts the program several times.
vi.setConfig({ testTimeout: 60_000 });

afterEach(killStarted);

const mailguard = (argv: readonly string[], env: NodeJS.ProcessEnv) =>
  startMailguard(argv, env).ended;

/** Starts `serve` and waits for its ready line. */
async function serve(env: NodeJS.ProcessEnv) {
  const started = startMailguard(['serve'], { MAILGUARD_PORT: '0', ...env });
  const readyLine = () =>
    started.text.stdout.split('\n').find((line) => line.includes('"msg":"ready"'));
  await until(() => readyLine() !== undefined || started.child.exitCode !== null);
  const ready = JSON.parse(readyLine() ?? '{}') as Record<string, string>;
  return { ...started, ready };
}

describe('the built program', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  it('is quick to say what it can do, and refuses what it cannot', async () => {
    const help = await mailguard(['--help'], {});
    expect(help).toMatchObject({ code: 0, stderr: '' });
    const wrong = await mailguard(['sreve'], {});
    expect(wrong).toMatchObject({ code: 2, stdout: '' });
    expect(wrong.stderr).toContain('did you mean serve?');
  });

  it('serves on a database alone: a second one is refused, and a signal ends the first', async () => {
    const env = { MAILGUARD_DATABASE_URL: database.url, MAILGUARD_DATA_DIR: temporary() };
    const { child, ended, ready } = await serve(env);
    const second = mailguard(['serve'], { MAILGUARD_PORT: '0', ...env });
    const caller = { ...env, MAILGUARD_URL: ready['url'] };
    const tail = startMailguard(['audit', 'tail', '--follow', '--json'], caller);
    await until(() => tail.text.stdout.includes('api_key.created'));
    tail.child.kill('SIGINT');
    expect(await tail.ended).toMatchObject({ code: 0, stderr: '' });
    // Whoever reads only the beginning is no failure worth a word.
    const cut = startMailguard(['audit', 'export', '--out', '-'], caller);
    cut.child.stdout.destroy();
    expect((await cut.ended).stderr).toBe('');
    const refused = await second;
    expect(refused).toMatchObject({ code: 2, stdout: '' });
    expect(refused.stderr).toBe(
      'error: Another gateway is running on this database; stop it first.\n',
    );
    child.kill('SIGTERM');
    const { code, stdout } = await ended;
    expect(code).toBe(0);
    for (const line of stdout.trimEnd().split('\n')) expect(JSON.parse(line)).toHaveProperty('msg');
  });

  it('works by itself: embedded database, first key, and commands with and without it', async () => {
    const dataDir = join(temporary(), 'data');
    const env = { MAILGUARD_DATA_DIR: dataDir };
    const { child, ended, ready } = await serve(env);
    const create = ['keys', 'create', '--name', 'x', '--scope', 'read-only'];
    const [made, local] = await Promise.all([
      mailguard(create, env),
      mailguard([...create, '--local'], env),
    ]);
    expect(made).toMatchObject({ code: 0, stdout: expect.stringMatching(/^nmg_[0-9a-f]{64}\n$/) });
    expect(local.code).toBe(0);
    const list = await mailguard(['keys', 'list', '--json'], env);
    expect(JSON.parse(list.stdout)).toHaveLength(3);
    child.kill('SIGTERM');
    expect((await ended).code).toBe(0);
    // Nobody is there any more, so the settings say where one would be.
    const without = await mailguard(['keys', 'list'], { ...env, MAILGUARD_PORT: '1' });
    expect(without.stderr).toContain('http://127.0.0.1:1 cannot be reached');
    const pidFile = join(dataDir, 'postgres', 'postmaster.pid');
    expect(existsSync(pidFile)).toBe(false);
    const verified = await mailguard(['log', 'verify', '--json'], env);
    expect(verified).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(verified.stdout)).toMatchObject({ ok: true, problems: [] });
    expect(existsSync(pidFile)).toBe(false);
    const secrets = [
      made.stdout.trim(),
      readFileSync(join(dataDir, 'bootstrap-key'), 'utf8').trim(),
    ];
    const everything = [ready, list, verified, await ended]
      .map((ran) => JSON.stringify(ran))
      .join();
    for (const secret of secrets) expect(everything).not.toContain(secret);
  });
});
