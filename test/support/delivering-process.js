// A process that delivers webhooks beside others, as the nodes of a cluster would: the built program's own worker
// on the database of the first argument. Says on standard output that it runs; ends on SIGTERM.

import { createSecretKey } from 'node:crypto';
import { openClient, openPool } from '../../dist/db/pool.js';
import { listWebhookSecrets } from '../../dist/db/webhook-secrets.js';
import { postgresEventLog } from '../../dist/eventlog/postgres.js';
import { startProjector } from '../../dist/projections/projector.js';
import { webhooksProjection } from '../../dist/projections/webhooks.js';
import { deriveSecrets, webhookSecretPurpose } from '../../dist/secrets.js';
import { addressPolicy } from '../../dist/webhooks/addresses.js';
import { openSender } from '../../dist/webhooks/send.js';
import { createSlots } from '../../dist/webhooks/slots.js';
import { startWorker } from '../../dist/webhooks/worker.js';

const [url, masterKey, leaseMs, nodeId] = process.argv.slice(2);
const role = 'mailguard_app';
const pool = openPool({ url, size: 6, role });
const connect = () => openClient({ url, role });
const log = await postgresEventLog({ pool, exportPool: pool, connect });
const logger = { warn: () => undefined, error: (fields, text) => console.error(text, fields) };
const projector = await startProjector({ pool, log, logger }, [webhooksProjection]);
const secrets = deriveSecrets(Buffer.from(masterKey, 'hex'));
const policy = { addresses: addressPolicy(['127.0.0.0/8']), allowHttp: true };
const worker = await startWorker({
  ...{ pool, log, logger, policy, nodeId, leaseMs: Number(leaseMs), isAlone: false },
  caughtUp: (position) => projector.caughtUp(position, ['webhooks']),
  sender: openSender({ policy }),
  slots: createSlots(),
  clock: { now: () => new Date(), nowMs: () => Date.now() },
  random: Math.random,
  lookMs: 1_000,
  onAttempt: () => undefined,
  async secretsOf(id) {
    const kept = await listWebhookSecrets(pool, `webhook:${id}`);
    return new Map(
      kept.map(({ fingerprint, sealed }) => [
        fingerprint,
        createSecretKey(secrets.unseal(sealed, webhookSecretPurpose(id, fingerprint))),
      ]),
    );
  },
});
process.once('SIGTERM', async () => {
  await worker.stop();
  process.exit(0);
});
console.log('delivering');
