import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { joinerOf, mailguard, temporary } from './support.ts';

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
});
afterAll(() => t.close());

const create = ['keys', 'create', '--local', '--name', 'rescue'];
const statusOf = async (key: string) => (await t.send('GET', '/auth/api-keys', { key })).status;
/** About a second, and as much again for a test machine that stutters. */
const soon = (key: string, status: number) =>
  expect.poll(() => statusOf(key), { timeout: 3_000, interval: 50 }).toBe(status);

describe('keys --local beside a running gateway', () => {
  it('makes a key that the gateway takes, and ends it there within about a second', async () => {
    const env = joinerOf(t);
    const made = await mailguard([...create, '--scope', 'full-admin', '--json'], { env });
    expect(made.code).toBe(0);
    const { id, key } = JSON.parse(made.stdout);
    await soon(key, 200);
    const argv = ['keys', 'revoke', '--local', String(id), '--reason', 'found in a log'];
    const revoked = await mailguard(argv, { env });
    expect(revoked).toMatchObject({ code: 0, stdout: `Key ${id} is revoked.\n` });
    await soon(key, 401);
    const again = await mailguard(argv, { env });
    expect(again).toMatchObject({ code: 0, stdout: `Key ${id} is revoked.\n` });
  });

  it('makes a key that is bound to its addresses, as the gateway takes it', async () => {
    const options = ['--scope', 'read-only', '--json', '--allow'];
    const make = async (cidr: string) => {
      const made = await mailguard([...create, ...options, cidr], { env: joinerOf(t) });
      return JSON.parse(made.stdout);
    };
    const here = await make('127.0.0.0/8');
    expect(here.allowed_cidrs).toEqual(['127.0.0.0/8']);
    await soon(here.key, 200);
    const elsewhere = await make('192.0.2.0/24');
    await expect.poll(() => t.gateway.context.liveKeys.find(elsewhere.id)).not.toBeNull();
    expect(await statusOf(elsewhere.key)).toBe(401);
  });

  it('revokes a key that the gateway made', async () => {
    const { id, key } = await t.createKey();
    expect(await statusOf(key)).toBe(200);
    await mailguard(['keys', 'revoke', '--local', String(id)], { env: joinerOf(t) });
    await soon(key, 401);
  });

  it('records who did it, and prints the key alone', async () => {
    const { name } = await t.createDomain();
    const argv = [...create, '--scope', 'domain-admin', '--mail-domain', name];
    const { stdout } = await mailguard(argv, { env: joinerOf(t) });
    expect(stdout).toMatch(/^nmg_[0-9a-f]{64}\n$/);
    const { body } = await t.send('GET', '/audit/logs?actor=system:cli&action=api_key.created');
    expect(body.data.at(-1)).toMatchObject({
      actor: { type: 'system', id: 'cli' },
      resource: { name: 'rescue' },
      mail_domains: [name],
      source: { ip: null, user_agent: null },
    });
  });

  it.each([
    [['--scope', 'sometimes'], 'scope'],
    [['--scope', 'domain-admin'], 'mail_domain is required for domain-admin'],
    [['--scope', 'read-only', '--rate-limit', '0'], 'rate_limit_per_minute'],
    [['--scope', 'read-only', '--allow', '192.0.2.7/24'], 'the network is 192.0.2.0/24'],
    [['--scope', 'read-only', '--expires-at', '2020-01-01T00:00:00Z'], 'must lie in the future'],
    [['--scope', 'read-only', '--mail-domain', 'nowhere.example'], 'unknown_mail_domain'],
  ])('refuses %j as the API does', async (options, problem) => {
    const { code, stdout, stderr } = await mailguard([...create, ...options], { env: joinerOf(t) });
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^error: (validation_failed|unknown_mail_domain): /);
    expect(stderr).toContain(problem);
  });

  it('says when there is no such key', async () => {
    const argv = ['keys', 'revoke', '--local', '999999'];
    const { code, stderr } = await mailguard(argv, { env: joinerOf(t) });
    expect({ code, stderr }).toEqual({ code: 1, stderr: 'error: not_found: No such API key\n' });
  });
});

describe('keys --local without a gateway', () => {
  it('makes and ends keys that the next start knows of', async () => {
    const before = await startTestGateway();
    const env = joinerOf(before);
    await before.gateway.stop();
    const made = await mailguard([...create, '--scope', 'full-admin', '--json'], { env });
    const ended = await mailguard([...create, '--scope', 'full-admin', '--json'], { env });
    await mailguard(['keys', 'revoke', '--local', `${JSON.parse(ended.stdout).id}`], { env });
    const { masterKey } = before.gateway.context.config;
    const { database, bootstrapKey } = before;
    const after = await startTestGateway({
      database,
      bootstrapKey,
      ...(masterKey === null ? {} : { masterKey }),
    });
    const key = JSON.parse(made.stdout).key as string;
    expect((await after.send('GET', '/auth/api-keys', { key })).status).toBe(200);
    const old = JSON.parse(ended.stdout).key as string;
    expect((await after.send('GET', '/auth/api-keys', { key: old })).status).toBe(401);
    await after.close();
  });
});

describe('keys --local with settings that do not fit', () => {
  const run = (env: NodeJS.ProcessEnv) => mailguard([...create, '--scope', 'full-admin'], { env });

  it('refuses a master key of another gateway', async () => {
    const env = {
      ...joinerOf(t),
      MAILGUARD_MASTER_KEY: '00112233445566778899aabbccddeeff'.repeat(2),
    };
    const { code, stderr } = await run(env);
    expect(code).toBe(2);
    expect(stderr).toContain('The master key is not the one of this database');
  });

  it('reads the master key of the data directory, and makes none', async () => {
    const dataDir = temporary();
    const { MAILGUARD_MASTER_KEY: masterKey, ...rest } = joinerOf(t);
    const env = { ...rest, MAILGUARD_DATA_DIR: dataDir };
    const absent = await run(env);
    expect(absent.code).toBe(2);
    expect(absent.stderr).toContain(`There is no ${join(dataDir, 'master-key')}`);
    writeFileSync(join(dataDir, 'master-key'), `${masterKey}\n`);
    expect((await run(env)).code).toBe(0);
  });

  it('refuses a data directory without a database, and leaves it empty', async () => {
    const dataDir = temporary();
    const env = {
      MAILGUARD_DATA_DIR: dataDir,
      MAILGUARD_MASTER_KEY: joinerOf(t)['MAILGUARD_MASTER_KEY'],
    };
    const { code, stderr } = await run(env);
    expect(code).toBe(2);
    expect(stderr).toContain(`There is no database in ${dataDir}`);
    expect(readdirSync(dataDir)).toEqual([]);
  });

  it('refuses a database that cannot be reached, without telling its password', async () => {
    const env = { ...joinerOf(t), MAILGUARD_DATABASE_URL: 'postgres://me:secret@127.0.0.1:1/x' };
    const { code, stderr } = await run(env);
    expect(code).toBe(2);
    expect(stderr).toContain('The database cannot be used');
    expect(stderr).not.toContain('secret');
  });

  it('refuses a database of something else', async () => {
    const url = new URL(t.database.url);
    url.pathname = '/postgres';
    const { code, stderr } = await run({ ...joinerOf(t), MAILGUARD_DATABASE_URL: url.href });
    expect(code).toBe(2);
    expect(stderr).toContain('holds nothing of MailGuard');
  });
});
