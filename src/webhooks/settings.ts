import type { KeyObject } from 'node:crypto';
import type { Position } from '../eventlog/eventlog.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import { UNTOLD } from './breaker.ts';
import { dropTo, release } from './lane.ts';
import type { DeliveryDeps, Running } from './running.ts';
import { eventFailingSince } from './schedule.ts';
import { parseTarget, type Target } from './target.ts';

/** How a subscription is set. */
export type Settings = {
  row: WebhookRow;
  /** The row's URL, read once for all deliveries. */
  target: Target;
  secrets: ReadonlyMap<string, KeyObject>;
};

/** Takes over how a subscription is set now, and leaves out what it says is to be left out. */
export function takeOver(
  s: Running,
  row: WebhookRow,
  { policy, clock }: Pick<DeliveryDeps, 'policy' | 'clock'>,
): void {
  const { settings } = s;
  const isBegunAnew = row.status === 'active' && settings.row.status !== 'active';
  if (row.url !== settings.row.url || isBegunAnew) giveAnotherChance(s, clock.nowMs());
  const known = settings.row.epochs.length;
  settings.row = row;
  settings.target = parseTarget(row.url, policy);
  const skipped = row.epochs.findLast(({ skips }) => skips);
  if (skipped === undefined) return;
  const dropped = dropTo(s.live, skipped.after);
  // All of them first, or one that waited for another would be begun.
  for (const item of dropped) item.state = 'over';
  for (const item of dropped) release(s.gate, item);
  // Only once: whoever asks for one of them afterwards gets it.
  if (row.epochs.length > known) leaveOutRetries(s, skipped.after);
}

/** In strict order what is tried again holds up all others: it is left out like those. */
function leaveOutRetries({ ordering, retries, unsaved, gate }: Running, until: Position): void {
  if (ordering !== 'strict') return;
  for (const item of [...retries.byPosition.values()]) {
    if (item.position > until || item.state === 'sending') continue;
    item.state = 'over';
    retries.byPosition.delete(item.position);
    unsaved.kept.delete(item.position);
    unsaved.done.set(item.position, item.askedAt);
    release(gate, item);
  }
  const left = retries.marked.filter(({ state }) => state !== 'over');
  retries.marked.splice(0, retries.marked.length, ...left);
}

/** What was learned of an endpoint says nothing of another, nor of one that somebody has seen to. */
function giveAnotherChance({ endpoint, ordering, retries, untold }: Running, nowMs: number): void {
  endpoint.quietUntilMs = 0;
  untold.disable = null;
  // Where there is no breaker to wait for, an event waits for its own time.
  for (const item of ordering === 'strict' ? retries.byPosition.values() : []) {
    // About to be parked.
    if (!Number.isFinite(item.dueAtMs)) continue;
    item.firstFailedAtMs = eventFailingSince(item, nowMs);
    item.dueAtMs = Math.min(item.dueAtMs, nowMs);
  }
  endpoint.breaker = { ...endpoint.breaker, ...UNTOLD, probeAtMs: 0, probes: 0 };
}
