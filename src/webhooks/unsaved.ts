import type { Attempt } from '../db/webhook-attempts.ts';
import type { RetryRow } from '../db/webhook-retries.ts';
import type { Position } from '../eventlog/eventlog.ts';
import type { Item } from './lane.ts';

/** What has happened and is in memory alone, until the next round puts it down with the cursor. */
export type Unsaved = {
  readonly attempts: Attempt[];
  /** Retries as their rows are to be. */
  readonly kept: Map<Position, RetryRow>;
  /** Retries that are over, with when they were last asked for. */
  readonly done: Map<Position, Date | null>;
  /** Since when there is something, by the clock; null while there is nothing. */
  sinceMs: number | null;
};

export const nothingUnsaved = (): Unsaved => ({
  ...{ attempts: [], kept: new Map(), done: new Map() },
  sinceMs: null,
});

export function markDirty(unsaved: Unsaved, nowMs: number): void {
  unsaved.sinceMs ??= nowMs;
}

/** Notes how a retry's row is to be. */
export function keep(
  { done, kept }: Unsaved,
  item: Item,
  { isSending = false, state = 'retrying' }: Partial<Pick<RetryRow, 'isSending' | 'state'>> = {},
): void {
  done.delete(item.position);
  kept.set(item.position, {
    position: item.position,
    eventId: item.eventId,
    key: item.key,
    epoch: item.epoch,
    sequence: item.sequence,
    tries: item.tries,
    dueAt: new Date(item.dueAtMs),
    firstFailedAt: new Date(item.firstFailedAtMs ?? item.dueAtMs),
    lastOutcome: item.lastOutcome,
    state,
    isSending,
    askedAt: item.askedAt,
  });
}

/** What could not be put down, together with what came meanwhile, which is newer. Due at once. */
export function putBack(earlier: Unsaved, since: Unsaved): Unsaved {
  const kept = new Map([...earlier.kept].filter(([position]) => !since.done.has(position)));
  for (const [position, row] of since.kept) kept.set(position, row);
  const done = new Map([...earlier.done].filter(([position]) => !kept.has(position)));
  for (const [position, askedAt] of since.done) done.set(position, askedAt);
  return { attempts: [...earlier.attempts, ...since.attempts], kept, done, sinceMs: 0 };
}
