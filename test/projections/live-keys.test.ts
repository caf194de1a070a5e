import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { issueKey } from '../../src/api/key-issuing.ts';
import { apiKey, apiKeyStream } from '../../src/domain/api-key.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { handleCommand, newCommandId } from '../../src/eventlog/handle-command.ts';
import { loadLiveKeys } from '../../src/projections/live-keys.ts';
import { deriveSecrets } from '../../src/secrets.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { meta } from '../support/events.ts';
import { beforeReadsOf, holdQueries } from '../support/hold.ts';

const secrets = deriveSecrets(Buffer.alloc(32, 7));
const wanted = {
  name: 'x',
  scope: 'read-only',
  mailDomain: null,
  rateLimitPerMinute: 100,
  expiresAt: null,
  allowedCidrs: null,
  owner: { type: 'system', id: 'cli' },
  predecessor: null,
} as const;

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
    const call = { meta, commandId: newCommandId() };
    const { id, secret } = await issueKey({ pool, log, secrets }, wanted, call);
    await liveKeys.changed(id);
    const refusal = () => liveKeys.verify(secret ?? '', Date.now()).refusal;
    expect(refusal()).toBeNull();
    const held = holdQueries(pool, /from credentials/);
    const before = liveKeys.changed(id);
    await held.reached;
    await handleCommand(log, apiKey, {
      ...{ stream: apiKeyStream(id), resource: { type: 'api_key', id: String(id) } },
      ...{ mailDomains: [], command: { type: 'RevokeApiKey', reason: null } },
      ...{ meta, commandId: newCommandId() },
    });
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
