import type { Matched } from './feed.ts';
import { type Lane, toItem } from './lane.ts';
import { unknownAttempt } from './record.ts';
import { moveToRetries } from './retry-set.ts';
import { roomIn } from './room.ts';
import { type DeliveryDeps, lanesOf, PAGE_EVENTS, type Running } from './running.ts';
import { markDirty } from './unsaved.ts';

/** Reads on, so that there is always a page at hand; of an endpoint on probation only what may go. */
export async function fill(s: Running, deps: DeliveryDeps, allowed: number): Promise<void> {
  for (const lane of lanesOf(s)) {
    // What has failed is no reason to read nothing else: that may show whose fault it is.
    const waiting = lane.fresh.length + lane.ready.length;
    const wanted = s.endpoint.breaker.state === 'closed' ? PAGE_EVENTS : allowed;
    const limit = Math.min(wanted, roomIn(s, lane));
    if (waiting >= wanted || limit === 0) continue;
    for (const matched of await lane.feed.next(limit)) add(s, deps, lane, matched);
  }
}

function add(s: Running, deps: DeliveryDeps, lane: Lane, matched: Matched): void {
  const { replay } = lane;
  if (replay?.eventTypes?.includes(matched.event.type) === false) return;
  const item = toItem(lane, matched);
  const asked = replay === null ? s.retries.byPosition.get(item.position) : undefined;
  if (asked !== undefined) {
    // Somebody has asked for it already: it goes by itself, in strict order when it is its turn.
    if (s.ordering === 'strict' && s.gate.enter(asked)) asked.state = 'waiting';
    return;
  }
  const doubt = replay === null ? s.doubt : { until: replay.doubtUntil, delivered: replay.known };
  if (item.position <= doubt.until) {
    if (doubt.delivered.has(item.position)) return;
    if (!s.doubt.isClean) s.unsaved.attempts.push(unknownAttempt(item, deps.clock.now()));
    markDirty(s.unsaved, deps.clock.nowMs());
  }
  lane.items.push(item);
  // A replay goes one by one where there is an order, and nobody waits for it.
  if (replay !== null || s.gate.enter(item)) {
    lane.fresh.push(item);
    return;
  }
  item.state = 'blocked';
  // Behind one that may take days it must not hold up the cursor, unless that is what is wanted.
  if (s.ordering === 'key' && s.gate.ahead(item)?.lane === null)
    moveToRetries(s, item, deps.clock.nowMs());
}
