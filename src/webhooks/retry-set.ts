import type { Position } from '../eventlog/eventlog.ts';
import { type Item, unmark } from './lane.ts';
import type { Running } from './running.ts';
import { keep, markDirty } from './unsaved.ts';

/** What is behind the cursor and tried again by itself. */
export type RetrySet = {
  readonly byPosition: Map<Position, Item>;
  /** Those whose next try has its mark in the database. */
  readonly marked: Item[];
  /** Parked ones are only counted. */
  parked: number;
};

/** More and the cursor waits. Parked ones are bounded by themselves. */
export const RETRIES_MAX = 10_000;

export const isFull = ({ byPosition }: RetrySet): boolean => byPosition.size >= RETRIES_MAX;

/**
 * Puts an event behind the cursor, to be tried again by itself; and those of its key that wait for it, or the
 * cursor would wait for them. Where all wait for it, the cursor is to wait, too.
 */
export function moveToRetries(s: Running, item: Item, nowMs: number): void {
  const isStrict = s.ordering === 'strict';
  const followers = isStrict ? [] : s.gate.behind(item).filter(({ lane }) => lane !== null);
  leaveLanes([item, ...followers]);
  for (const one of [item, ...followers]) enter(s, one, nowMs);
  // Those that were marked along with it are not sent for now.
  if (isStrict) unmark(s.live);
}

/** Each lane is gone through once, since a whole stream may wait behind one event. */
function leaveLanes(items: readonly Item[]): void {
  const leaving = new Set(items);
  for (const lane of new Set(items.map((item) => item.lane))) {
    if (lane === null) continue;
    // The lane's own entry is over; the watermark may pass it, in the statement that keeps the row.
    lane.items = lane.items.map((one) => (leaving.has(one) ? { ...one, state: 'over' } : one));
    lane.again = lane.again.filter((one) => !leaving.has(one));
  }
  for (const item of items) item.lane = null;
}

function enter(s: Running, item: Item, nowMs: number): void {
  // It is there already, since somebody has asked for it: that one goes on for both, and none overtakes it.
  const asked = s.retries.byPosition.get(item.position);
  if (asked !== undefined) {
    item.state = 'over';
    s.gate.replace(item, asked);
    return;
  }
  item.firstFailedAtMs ??= nowMs;
  if (item.dueAtMs === 0) item.dueAtMs = nowMs;
  if (item.state !== 'blocked') item.state = 'waiting';
  s.retries.byPosition.set(item.position, item);
  keep(s.unsaved, item);
  markDirty(s.unsaved, nowMs);
}
