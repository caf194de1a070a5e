import { allowance } from './breaker.ts';
import type { Item, Lane } from './lane.ts';
import { roomIn } from './room.ts';
import { type DeliveryDeps, lanesOf, type Running, SLOTS } from './running.ts';

/** New events and retries leave each other a quarter of the slots; replays have no more than that. */
const RESERVED = SLOTS / 4;

/** True while something may be begun. */
const mayDeliver = (
  { loop, settings, untold, endpoint }: Running,
  deps: DeliveryDeps,
  nowMs: number,
) =>
  loop.phase === 'running' &&
  settings.row.status === 'active' &&
  untold.disable === null &&
  nowMs >= endpoint.quietUntilMs &&
  deps.holdsLease();

/** How many deliveries may be under way now. */
export function allowedNow(s: Running, deps: DeliveryDeps, nowMs: number): number {
  if (!mayDeliver(s, deps, nowMs)) return 0;
  // Replays and what somebody asked for take turns with the others: one at a time is what `strict` promises.
  return allowance(s.endpoint.breaker, s.ordering === 'strict' ? 1 : SLOTS, nowMs);
}

/** Takes the next event that may be sent, or null. Everything it can take has its mark. */
export function pick(s: Running, deps: DeliveryDeps, nowMs: number): Item | null {
  if (s.underWay.all >= allowedNow(s, deps, nowMs)) return null;
  // An endpoint that is down is looked at with what has waited longest.
  if (s.endpoint.breaker.state === 'open') return pickProbe(s, nowMs);
  const hasLive = s.live.ready.length > 0 || hasDue(s.live, nowMs);
  const hasRetry = s.retries.marked.length > 0;
  if (hasLive && !(hasRetry && s.live.sending >= SLOTS - RESERVED))
    return pickFrom(s, s.live, nowMs);
  if (hasRetry && !(hasLive && s.underWay.retries >= SLOTS - RESERVED)) {
    return s.retries.marked.shift() ?? null;
  }
  for (const lane of replaysOf(s)) {
    // In the order of the log where that is wanted; one that failed is waited for.
    const isOrdered = s.ordering !== 'none';
    if (lane.sending >= (isOrdered ? 1 : RESERVED)) continue;
    if (isOrdered && lane.again.length > 0 && !hasDue(lane, nowMs)) continue;
    const item = pickFrom(s, lane, nowMs);
    if (item !== null) return item;
  }
  return null;
}

/** Those that nobody has taken back, as far as is known; until that is looked up none goes on. */
const replaysOf = ({ loop, replays }: Running): readonly Lane[] =>
  loop.replaysAsOf === loop.changes ? replays : [];

const isReady = (item: Item, nowMs: number) => item.state === 'waiting' && item.dueAtMs <= nowMs;
const hasDue = (lane: Lane, nowMs: number) => lane.again.some((item) => isReady(item, nowMs));

/**
 * What has failed goes one at a time beside what is new, whose success tells whose fault that was; until there
 * was one, no other goes.
 */
function pickFrom(s: Running, lane: Lane, nowMs: number): Item | null {
  const { state, failed } = s.endpoint.breaker;
  const isAlone =
    lane.ready.length + lane.marking.length + lane.fresh.length === 0 &&
    (lane.feed.isAtEnd() || roomIn(s, lane) === 0);
  const isUnderWay = lane.again.some((item) => item.state === 'sending');
  const isTurn = state === 'closed' && failed.length === 0 && !isUnderWay;
  const due = isAlone || isTurn ? lane.again.find((item) => isReady(item, nowMs)) : undefined;
  return due ?? lane.ready.shift() ?? null;
}

/** Every other look is with an event that has not failed: it may be the others that are refused. */
function pickProbe(s: Running, nowMs: number): Item | null {
  const isTried = ({ state, dueAtMs }: Item) => state === 'waiting' && Number.isFinite(dueAtMs);
  for (const lane of [s.live, ...replaysOf(s)]) {
    const fresh = s.endpoint.breaker.probes % 2 === 1 ? lane.ready.shift() : undefined;
    const item = fresh ?? lane.again.find(isTried) ?? lane.ready.shift();
    if (item !== undefined) return item;
  }
  const first = s.retries.marked.findIndex((item) => item.dueAtMs <= nowMs);
  return first === -1 ? null : (s.retries.marked.splice(first, 1)[0] ?? null);
}

/**
 * Retries whose time has come and that have no mark yet, as many as could go. It goes through the retry set, as
 * `nextDueAt` does: `RETRIES_MAX` and what one key has read ahead at most, and while others are under way no more
 * often than each `PACE_MS`. An order by time would cost more than that, as each change of an event would have to keep it.
 */
export function dueRetries(s: Running, nowMs: number, max: number): readonly Item[] {
  const due: Item[] = [];
  for (const item of s.retries.byPosition.values()) {
    if (due.length + s.retries.marked.length >= max) break;
    if (isReady(item, nowMs) && !s.retries.marked.includes(item)) due.push(item);
  }
  return due;
}

/** When something will be due that is not now; null when only news can change anything. */
export function nextDueAt(s: Running, nowMs: number): number | null {
  const times = [
    s.endpoint.quietUntilMs,
    s.endpoint.breaker.state === 'open' ? s.endpoint.breaker.probeAtMs : 0,
  ];
  for (const { again } of lanesOf(s)) {
    for (const item of again) if (item.state === 'waiting') times.push(item.dueAtMs);
  }
  let soonest = Number.POSITIVE_INFINITY;
  for (const { state, dueAtMs } of s.retries.byPosition.values()) {
    if (state === 'waiting' && dueAtMs > nowMs && dueAtMs < soonest) soonest = dueAtMs;
  }
  times.push(soonest);
  // What is due already waits for something else than the time.
  const future = times.filter((time) => time > nowMs && Number.isFinite(time));
  return future.length === 0 ? null : Math.min(...future);
}
