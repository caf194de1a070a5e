import type pg from 'pg';
import type { Clock } from '../clock.ts';
import { forgetDeletedCursors } from '../db/webhook-cursors.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { listOrphanWebhooks, listWebhooks } from '../projections/webhooks.ts';
import { commandWebhook } from './notes.ts';

type Deps = Readonly<{ pool: pg.Pool; log: EventLog; clock: Clock; nodeId: string }>;

const PAGE_WEBHOOKS = 1_000;

/** The rest of a mail domain's deletion: what was bound to it ends with it. */
export async function endWebhooksOfMailDomain(deps: Deps, mailDomain: number): Promise<void> {
  const rows = await listWebhooks(deps.pool, mailDomain, { before: null, limit: PAGE_WEBHOOKS });
  for (const row of rows) await commandWebhook(deps, row, { type: 'DeleteWebhook' });
}

/** Ends what a deletion that was cut short has left, and forgets where ended ones stood. */
export async function sweepWebhooks(deps: Deps): Promise<void> {
  for (const row of await listOrphanWebhooks(deps.pool)) {
    await commandWebhook(deps, row, { type: 'DeleteWebhook' });
  }
  await forgetDeletedCursors(deps.pool);
}
