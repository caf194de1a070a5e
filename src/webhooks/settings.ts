import type { KeyObject } from 'node:crypto';
import type { WebhookRow } from '../projections/webhooks.ts';
import { UNTOLD } from './breaker.ts';
import { dropTo, release } from './lane.ts';
import type { Running } from './running.ts';
import { parseTarget, type Target, type TargetPolicy } from './target.ts';

/** How a subscription is set. */
export type Settings = {
  row: WebhookRow;
  /** The row's URL, read once for all deliveries. */
  target: Target;
  secrets: ReadonlyMap<string, KeyObject>;
};

/** Takes over how a subscription is set now, and leaves out what it says is to be left out. */
export function takeOver(s: Running, row: WebhookRow, policy: TargetPolicy): void {
  const { settings } = s;
  const isBegunAnew = row.status === 'active' && settings.row.status !== 'active';
  if (row.url !== settings.row.url || isBegunAnew) giveAnotherChance(s);
  settings.row = row;
  settings.target = parseTarget(row.url, policy);
  const skipped = row.epochs.findLast(({ skips }) => skips);
  if (skipped === undefined) return;
  const dropped = dropTo(s.live, skipped.after);
  // All of them first, or one that waited for another would be begun.
  for (const item of dropped) item.state = 'over';
  for (const item of dropped) release(s.gate, item);
}

/** What was learned of an endpoint says nothing of another, nor of one that somebody has seen to. */
function giveAnotherChance({ endpoint }: Running): void {
  endpoint.quietUntilMs = 0;
  endpoint.breaker = { ...endpoint.breaker, ...UNTOLD, probeAtMs: 0, probes: 0 };
}
