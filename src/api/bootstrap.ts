import { join } from 'node:path';
import type pg from 'pg';
import { type Clock, toTimestamp } from '../clock.ts';
import type { Config } from '../config.ts';
import { ensureSecret } from '../data-dir.ts';
import { forgetUnusedCredential } from '../db/credentials.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { newCommandId } from '../eventlog/handle-command.ts';
import { readAllApiKeys } from '../projections/api-keys.ts';
import type { Projector } from '../projections/projector.ts';
import { issueApiKey, keyPrefixOf } from '../secret-text.ts';
import type { Secrets } from '../secrets.ts';
import { issueKey } from './key-issuing.ts';

const BOOTSTRAP_RATE = 60_000;

type Deps = Readonly<{
  config: Config;
  pool: pg.Pool;
  log: EventLog;
  projector: Projector;
  secrets: Secrets;
  clock: Clock;
  dataDir: string;
}>;

/** The first key, while none was ever made: given, or generated into a file that only we may read. */
export async function bootstrap(deps: Deps): Promise<void> {
  const { config, pool, log, projector, secrets, clock, dataDir } = deps;
  if ((await readAllApiKeys(pool)).length > 0) return;
  const file = join(dataDir, 'bootstrap-key');
  const secret = config.bootstrapKey ?? (await ensureSecret(file, issueApiKey));
  // A start that was killed between verifier and event has left a verifier of this very key.
  await forgetUnusedCredential(pool, keyPrefixOf(secret));
  const now = clock.now();
  const issued = await issueKey(
    { pool, log, secrets },
    {
      name: 'bootstrap',
      scope: 'full-admin',
      mailDomain: null,
      rateLimitPerMinute: BOOTSTRAP_RATE,
      expiresAt: null,
      allowedCidrs: null,
      owner: { type: 'system', id: 'mailguard' },
      predecessor: null,
    },
    {
      secret,
      commandId: newCommandId(),
      meta: {
        actor: { type: 'system', id: 'mailguard' },
        source: { node: config.nodeId, ip: null, userAgent: null },
        requestId: null,
        correlationId: `bootstrap-${now.getTime()}`,
        causationId: null,
        outcome: 'success',
        occurredAt: toTimestamp(now),
      },
    },
  );
  await projector.caughtUp(issued.position);
}
