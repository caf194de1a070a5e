import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { followKeys } from '../../src/integrations/key-follower.ts';
import { type LiveKeys, loadLiveKeys } from '../../src/projections/live-keys.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { makeKey, revokeKey, secrets } from '../support/live-keys.ts';

const silent = { warn: () => undefined };

describe('followKeys', () => {
  let database: TestDatabase;
  /** The log as the gateway has it, and as somebody else does. */
  let log: EventLog;
  let elsewhere: EventLog;
  beforeAll(async () => {
    database = await createDatabase();
    log = await database.openLog();
    elsewhere = await database.openLog();
  });
  afterAll(() => database.drop());

  const load = () => loadLiveKeys({ pool: database.pool, log, secrets, nowMs: Date.now });
  /** About a second, and as much again for a test machine that stutters. */
  const soon = (isSo: () => boolean) =>
    expect.poll(isSo, { timeout: 3_000, interval: 20 }).toBe(true);

  it('lets in a key that another client made, and refuses it once that client revoked it', async () => {
    const liveKeys = await load();
    const follower = followKeys({ log, liveKeys, logger: silent }, (await log.head()).position);
    const { id, secret } = await makeKey(database, elsewhere);
    await soon(() => liveKeys.verify(secret, Date.now()).refusal === null);
    await revokeKey(elsewhere, id);
    await soon(() => liveKeys.verify(secret, Date.now()).refusal === 'revoked');
    await follower.stop();
  });

  it('knows nothing of it without the follower', async () => {
    const liveKeys = await load();
    const { secret } = await makeKey(database, elsewhere);
    await sleep(500);
    expect(liveKeys.verify(secret, Date.now()).refusal).toBe('unknown');
  });

  it('leaves alone what the memory has already', async () => {
    const liveKeys = await load();
    const asked: number[] = [];
    const counting: Pick<LiveKeys, 'find' | 'changed'> = {
      find: liveKeys.find,
      changed: async (id) => {
        asked.push(id);
        await liveKeys.changed(id);
      },
    };
    const { position } = await log.head();
    const own = await makeKey(database, log);
    await liveKeys.changed(own.id);
    const follower = followKeys({ log, liveKeys: counting, logger: silent }, position);
    const foreign = await makeKey(database, elsewhere);
    await soon(() => asked.length > 0);
    expect(asked).toEqual([foreign.id]);
    await follower.stop();
  });

  it('goes on behind what could not be read, with the key that could', async () => {
    const liveKeys = await load();
    const warned: string[] = [];
    const broken = await makeKey(database, log);
    const failing: Pick<LiveKeys, 'find' | 'changed'> = {
      find: liveKeys.find,
      changed: (id) =>
        id === broken.id ? Promise.reject(new Error('away')) : liveKeys.changed(id),
    };
    const logger = { warn: (_fields: object, message: string) => void warned.push(message) };
    const follower = followKeys({ log, liveKeys: failing, logger }, 0n);
    const { secret } = await makeKey(database, elsewhere);
    await soon(() => liveKeys.verify(secret, Date.now()).refusal === null);
    expect(warned).toEqual(['a key cannot be read']);
    await follower.stop();
  });

  it('tries a page again that the database did not give', async () => {
    const liveKeys = await load();
    let failures = 2;
    const shaky: EventLog = {
      ...log,
      readAll: (range) => {
        failures -= 1;
        return failures >= 0 ? Promise.reject(new Error('away')) : log.readAll(range);
      },
    };
    const { position } = await log.head();
    const follower = followKeys({ log: shaky, liveKeys, logger: silent }, position);
    const { secret } = await makeKey(database, elsewhere);
    await soon(() => liveKeys.verify(secret, Date.now()).refusal === null);
    await follower.stop();
  });
});
