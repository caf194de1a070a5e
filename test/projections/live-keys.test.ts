import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { apiKeyStream } from '../../src/domain/api-key.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { loadLiveKeys } from '../../src/projections/live-keys.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { beforeReadsOf, holdQueries } from '../support/hold.ts';
import { makeKey, revokeKey, secrets } from '../support/live-keys.ts';

describe('a key in memory', () => {
  let database: TestDatabase;
  let log: EventLog;
  beforeAll(async () => {
    database = await createDatabase();
    log = await database.openLog();
  });
  afterAll(() => database.drop());

  it('is not trusted for what was read before a reading that failed', async () => {
    const { pool } = database;
    const liveKeys = await loadLiveKeys({ pool, log, secrets, nowMs: Date.now });
    const { id, secret } = await makeKey(database, log);
    await liveKeys.changed(id);
    const refusal = () => liveKeys.verify(secret, Date.now()).refusal;
    expect(refusal()).toBeNull();
    const held = holdQueries(pool, /from credentials/);
    const before = liveKeys.changed(id);
    await held.reached;
    await revokeKey(log, id);
    const end = beforeReadsOf(log, apiKeyStream(id), async () => {
      throw new Error('Connection terminated');
    });
    await expect(liveKeys.changed(id)).rejects.toThrow('Connection terminated');
    end();
    expect(refusal()).toBe('unknown');
    held.release();
    await before;
    expect(refusal()).toBe('unknown');
    await liveKeys.changed(id);
    expect(refusal()).toBe('revoked');
  });
});
