import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withDatabase } from '../../src/cli/join.ts';
import { loadConfig } from '../../src/config.ts';
import { startEmbeddedPostgres } from '../../src/db/embedded.ts';
import { LOCKS, trySessionLock } from '../../src/db/lock.ts';
import { migrate } from '../../src/db/migrate.ts';
import { openClient } from '../../src/db/pool.ts';
import { temporary } from './support.ts';

const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

describe('joining the embedded database', () => {
  const dataDir = temporary();
  const config = { ...loadConfig({}), dataDir };
  const isUp = () => existsSync(join(dataDir, 'postgres', 'postmaster.pid'));
  const start = () => startEmbeddedPostgres({ dataDir, logger: silent });
  beforeAll(async () => {
    const server = await start();
    await migrate(server.url);
    await server.stop();
  });
  afterAll(async () => {
    if (isUp()) await (await start()).stop();
  });

  it('starts a server that does not run, and stops it in the end', async () => {
    expect(isUp()).toBe(false);
    const role = await withDatabase(config, async (joined) => {
      expect(isUp()).toBe(true);
      return joined.role;
    });
    expect({ role, isUp: isUp() }).toEqual({ role: 'mailguard_app', isUp: false });
  });

  it('stops what it started also when its work fails', async () => {
    const failing = withDatabase(config, async () => {
      throw new Error('no luck');
    });
    await expect(failing).rejects.toThrow('no luck');
    expect(isUp()).toBe(false);
  });

  it('leaves a running server alone', async () => {
    const server = await start();
    await withDatabase(config, async ({ url }) => expect(url).toBe(server.url));
    expect(isUp()).toBe(true);
    await server.stop();
  });

  it('leaves the server that it started to a gateway that has come meanwhile', async () => {
    let gateway = openClient({ url: 'postgres://unused', role: null });
    await withDatabase(config, async ({ url }) => {
      gateway = openClient({ url, role: null });
      await gateway.connect();
      expect(await trySessionLock(gateway, LOCKS.serve)).toBe(true);
    });
    expect(isUp()).toBe(true);
    expect((await gateway.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    await gateway.end();
    await (await start()).stop();
  });
});
