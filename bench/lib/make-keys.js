import { randomBytes } from 'node:crypto';
import { issueKey } from '../../dist/api/key-issuing.js';
import { toTimestamp } from '../../dist/clock.js';
import { belongsToMasterKey } from '../../dist/db/installation.js';
import { APP_ROLE, openPool } from '../../dist/db/pool.js';
import { newCommandId } from '../../dist/eventlog/handle-command.js';
import { deriveSecrets } from '../../dist/secrets.js';
import { openLog } from './database.js';

const IN_FLIGHT = 64;
/** So high that nothing is ever refused. */
const RATE_PER_MINUTE = 1_000_000;

/** Makes keys as the gateway does, and the master key they belong to. */
export async function makeKeys(url, count) {
  const masterKey = randomBytes(32);
  const secrets = deriveSecrets(masterKey);
  const stops = [];
  const log = await openLog((stop) => stops.push(stop), url);
  const pool = openPool({ url, size: 8, role: APP_ROLE });
  await belongsToMasterKey(pool, secrets.fingerprint);
  const keys = [];
  let next = 0;
  async function caller() {
    while (next < count) {
      next += 1;
      const { secret } = await issueKey({ pool, log, secrets }, wanted(next), aRun());
      keys.push(secret);
    }
  }
  await Promise.all(Array.from({ length: IN_FLIGHT }, caller));
  await pool.end();
  for (const stop of stops) await stop();
  return { masterKey: masterKey.toString('hex'), keys };
}

const wanted = (n) => ({
  name: `bench ${n}`,
  scope: 'read-only',
  mailDomain: null,
  rateLimitPerMinute: RATE_PER_MINUTE,
  expiresAt: null,
  owner: { type: 'system', id: 'bench' },
  predecessor: null,
});

const aRun = () => ({
  commandId: newCommandId(),
  meta: {
    actor: { type: 'system', id: 'bench' },
    source: { node: 'bench', ip: null, userAgent: null },
    requestId: null,
    correlationId: 'bench',
    causationId: null,
    outcome: 'success',
    occurredAt: toTimestamp(new Date()),
  },
});
