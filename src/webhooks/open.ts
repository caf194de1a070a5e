import { createSecretKey, type KeyObject } from 'node:crypto';
import type pg from 'pg';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import { keepAttemptDays } from '../db/webhook-attempts.ts';
import { listWebhookSecrets } from '../db/webhook-secrets.ts';
import type { WebhookDeliveries } from '../domain/webhook-delivery.ts';
import type { EventLog, Position } from '../eventlog/eventlog.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import { type Secrets, webhookSecretPurpose } from '../secrets.ts';
import { addressPolicy } from './addresses.ts';
import { testGuard } from './guard-test.ts';
import { locate, oldestWaiting } from './locate.ts';
import { ping } from './ping.ts';
import { pull } from './pull.ts';
import { openSender } from './send.ts';
import { createSlots } from './slots.ts';
import type { Subscription } from './subscription.ts';
import { checkTarget, type TargetPolicy } from './target.ts';
import { startWorker, type Worker } from './worker.ts';

/** Everything about webhooks that runs, for the API and for `main.ts`. */
export type Webhooks = WebhookDeliveries<WebhookRow> &
  Readonly<{
    subscriptions: () => readonly Subscription[];
    stop: () => Promise<void>;
  }>;

type Deps = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  clock: Clock;
  secrets: Secrets;
  nodeId: string;
  logger: Logger;
  caughtUp: (position: Position) => Promise<boolean>;
}>;

export type WebhookOptions = Readonly<{
  allowCidrs: readonly string[];
  allowHttp: boolean;
  /** For tests: what is otherwise fixed. */
  timeoutMs?: number;
  ca?: readonly string[];
  random?: () => number;
  lookMs?: number;
}>;

const LOOK_MS = 1_000;

/** Opens deliveries. Nothing is sent where the guard against forbidden targets does not hold. */
export async function openWebhooks(deps: Deps, options: WebhookOptions): Promise<Webhooks> {
  const policy: TargetPolicy = {
    addresses: addressPolicy(options.allowCidrs),
    allowHttp: options.allowHttp,
  };
  await keepAttemptDays(deps.pool, deps.clock.now());
  const { timeoutMs, ca } = options;
  const sending = {
    policy,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    ...(ca === undefined ? {} : { ca }),
  };
  const secretsOf = (id: number) => openSecrets(deps, id);
  let observe: (outcome: string, ms: number) => void = () => undefined;
  const sender = openSender(sending);
  const worker = await startGuarded(deps, {
    ...deps,
    ...{ policy, sender, secretsOf },
    slots: createSlots(),
    random: options.random ?? Math.random,
    lookMs: options.lookMs ?? LOOK_MS,
    // The gateway holds the database's serve lock.
    isAlone: true,
    onAttempt: (outcome, ms) => observe(outcome, ms),
  });
  return {
    refuseTarget: async (url) => (await checkTarget(url, policy)).refusal,
    ping: async (row) => ping({ ...deps, ...sending }, row, await secretsOf(row.id)),
    changed: async (id) => worker?.changed(id),
    locate: (row, eventId) => locate(deps, row, eventId),
    pull: (row, range) => pull(deps, row, range),
    oldestWaiting: (row) => oldestWaiting(deps, row),
    subscriptions: () => worker?.subscriptions() ?? [],
    onAttempt(listener) {
      observe = listener;
    },
    async stop() {
      await worker?.stop();
      await sender.close();
    },
  };
}

/** Null where a connection to a forbidden address came about: then nothing may be sent at all. */
async function startGuarded(
  { logger }: Deps,
  deps: Parameters<typeof startWorker>[0],
): Promise<Worker | null> {
  try {
    await testGuard();
  } catch (error) {
    logger.fatal({ err: error }, 'webhooks are off: their guard against forbidden targets fails');
    return null;
  }
  return startWorker(deps);
}

async function openSecrets(
  { pool, secrets, logger }: Deps,
  id: number,
): Promise<ReadonlyMap<string, KeyObject>> {
  const opened = new Map<string, KeyObject>();
  for (const { fingerprint, sealed } of await listWebhookSecrets(pool, `webhook:${id}`)) {
    try {
      const secret = secrets.unseal(sealed, webhookSecretPurpose(id, fingerprint));
      opened.set(fingerprint, createSecretKey(secret));
    } catch {
      logger.error({ webhook: id, fingerprint }, 'a secret cannot be opened');
    }
  }
  return opened;
}
