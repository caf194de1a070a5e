import { afterAll, beforeAll, expect, it } from 'vitest';
import { listCredentials, saveCredential } from '../../src/db/credentials.ts';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import { forgetUnmadeKeys } from '../../src/integrations/reactors.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

it('forgets the verifier of a key that was never made, once it is known that it was not', async () => {
  const { pool } = database;
  const verifier = Buffer.alloc(32);
  await saveCredential(pool, {
    subject: 'api_key:9',
    kind: 'api_key',
    lookup: 'nmg_9',
    verifier,
    pepper: 1,
  });
  await pool.query("update credentials set created_at = now() - interval '2 hours'");
  const left = async (isCaughtUp: boolean) => {
    const projector = { caughtUp: async () => isCaughtUp };
    await forgetUnmadeKeys({ pool, log: memoryEventLog(), projector });
    return (await listCredentials(pool)).length;
  };
  // A read model that is behind does not have a key of which the log may tell.
  expect(await left(false)).toBe(1);
  expect(await left(true)).toBe(0);
});
