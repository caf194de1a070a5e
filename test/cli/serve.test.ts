import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { joinerOf, mailguard, temporary } from './support.ts';

const OTHER_KEY = '00112233445566778899aabbccddeeff'.repeat(2);

describe('serve', () => {
  let t: TestGateway;
  let env: NodeJS.ProcessEnv;
  beforeAll(async () => {
    t = await startTestGateway();
    env = { ...joinerOf(t), MAILGUARD_PORT: '0', MAILGUARD_LOG_LEVEL: 'silent' };
    await t.gateway.stop();
  });
  afterAll(() => t.database.drop());

  const dir = temporary();
  const file = join(dir, 'file');
  writeFileSync(file, 'no directory, and no certificate');
  const closed = join(dir, 'closed');
  mkdirSync(closed);
  chmodSync(closed, 0o700);

  // Only root's database has an account of its own, which could be kept out.
  it.runIf(process.getuid?.() === 0)('refuses a directory that its database cannot reach', () =>
    refuses({ MAILGUARD_DATA_DIR: join(closed, 'data') }, `${closed} is closed to it`),
  );

  it.each<[string, NodeJS.ProcessEnv, string]>([
    ['a data directory that is a file', { MAILGUARD_DATA_DIR: file }, file],
    [
      'a certificate that is none',
      { MAILGUARD_TLS_CERT: file, MAILGUARD_TLS_KEY: file },
      'MAILGUARD_TLS_CERT and MAILGUARD_TLS_KEY',
    ],
    ['the master key of another', { MAILGUARD_MASTER_KEY: OTHER_KEY }, 'MAILGUARD_MASTER_KEY'],
  ])('refuses %s', (_, settings, named) => refuses(settings, named));

  it.each<[string, (url: URL) => void]>([
    ['nobody listens there', (url) => Object.assign(url, { port: '1' })],
    ['there is no such database', (url) => Object.assign(url, { pathname: '/nothing' })],
  ])('says that the database cannot be used: %s', async (_, change) => {
    const url = new URL(t.database.url);
    change(url);
    const settings = { ...env, MAILGUARD_DATABASE_URL: url.href };
    const { code, stderr } = await mailguard(['serve'], { env: settings });
    // Not refused, as it may come: a service manager tries again.
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: The database cannot be used: .+\n$/);
  });

  it('says why it cannot start, and not where in the program that was found out', async () => {
    const dataDir = join(dir, 'strange-spool');
    const shard = join(dataDir, 'spool', '00');
    mkdirSync(shard, { recursive: true });
    // More than a crash leaves, of a database that has none.
    for (let n = 0; n < 101; n += 1)
      writeFileSync(join(shard, `${randomUUID().slice(0, -2)}00.eml`), '');
    const settings = { ...env, MAILGUARD_DATA_DIR: dataDir };
    const { code, stderr } = await mailguard(['serve'], { env: settings });
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^error: The spool in .+ holds 101 messages .+\n$/),
    });
  });

  /** With status 2, naming what is wrong, and with nothing for whoever wrote the program. */
  async function refuses(settings: NodeJS.ProcessEnv, named: string): Promise<void> {
    const { code, stdout, stderr } = await mailguard(['serve'], { env: { ...env, ...settings } });
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(named);
    expect(stderr).not.toMatch(/^ +at /m);
  }
});
