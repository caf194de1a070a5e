import type pg from 'pg';
import type { Clock } from '../clock.ts';
import { keepAttemptDays } from '../db/webhook-attempts.ts';
import { forgetDeletedCursors } from '../db/webhook-cursors.ts';
import { pruneParked } from '../db/webhook-retries.ts';
import { sweepWebhookSecrets } from '../db/webhook-secrets.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import type { Projector } from '../projections/projector.ts';
import { listOrphanWebhooks, listWebhooks } from '../projections/webhooks.ts';
import { commandAsSystem } from './notes.ts';

type Deps = Readonly<{ pool: pg.Pool; log: EventLog; clock: Clock; nodeId: string }>;

const PAGE_WEBHOOKS = 1_000;

/** The rest of a mail domain's deletion: what was bound to it ends with it. */
export async function endWebhooksOfMailDomain(deps: Deps, mailDomain: number): Promise<void> {
  const rows = await listWebhooks(deps.pool, mailDomain, { before: null, limit: PAGE_WEBHOOKS });
  for (const row of rows) await commandAsSystem(deps, row, { type: 'DeleteWebhook' });
}

/** Ends what a deletion that was cut short has left, and forgets where ended ones stood. */
export async function sweepWebhooks(deps: Deps): Promise<void> {
  for (const row of await listOrphanWebhooks(deps.pool)) {
    await commandAsSystem(deps, row, { type: 'DeleteWebhook' });
  }
  await forgetDeletedCursors(deps.pool);
}

/** Forgets what is kept for a time, or up to a number, and is beyond it. */
export async function purgeWebhooks({
  pool,
  log,
  clock,
  projector,
}: Omit<Deps, 'nodeId'> & Readonly<{ projector: Projector }>): Promise<void> {
  const { position: head } = await log.head();
  // Which secrets sign is the read model's to say, where it is up to date.
  const isKnown = await projector.caughtUp(head, ['webhooks']);
  if (isKnown) await sweepWebhookSecrets(pool, clock.now());
  await keepAttemptDays(pool, clock.now());
  await pruneParked(pool);
}
