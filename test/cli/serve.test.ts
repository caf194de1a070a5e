import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isServed } from '../../src/db/lock.ts';
import { readServerFile } from '../../src/server-file.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { joinerOf, mailguard, temporary } from './support.ts';

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
  writeFileSync(file, 'no directory');
  it('refuses a data directory that is a file', async () => {
    const settings = { ...env, MAILGUARD_DATA_DIR: file };
    const { code, stdout, stderr } = await mailguard(['serve'], { env: settings });
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(new RegExp(`^error: ${file} is no directory: .+\\n$`));
  });

  it('says that the database cannot be used when nobody listens there', async () => {
    const url = new URL(t.database.url);
    url.port = '1';
    const settings = { ...env, MAILGUARD_DATABASE_URL: url.href };
    const { code, stderr } = await mailguard(['serve'], { env: settings });
    // Not refused, as it may come: a service manager tries again.
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: The database cannot be used: .+\n$/);
  });

  it('leaves nothing running behind when nobody hears that it is ready', async () => {
    const onStdout = () => {
      throw Object.assign(new Error('write EPIPE'), { code: 'EPIPE' });
    };
    expect(await mailguard(['serve'], { env, onStdout })).toMatchObject({ code: 1, stderr: '' });
    expect(await isServed(t.database.pool)).toBe(false);
    expect(readServerFile(t.gateway.dataDir)).toBeNull();
  });
});
