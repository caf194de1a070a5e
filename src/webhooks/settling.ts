import { type ReplayProgress, type Settlement, settle } from '../db/webhook-cursors.ts';
import type { Position } from '../eventlog/eventlog.ts';
import { toKept } from './breaker.ts';
import { type Item, type Lane, lowWatermark, sentToWith, takeFresh } from './lane.ts';
import { type DeliveryDeps, keep, PAGE_EVENTS, type Running } from './running.ts';

/** What is put down is put down together, at the latest after this time: so much a crash leaves in doubt. */
export const FLUSH_MS = 25;
/** While others are under way, marks are given no more often: each costs a write to the disk. */
export const PACE_MS = 10;
/** A cursor that moved over events of no interest is saved at most this often. */
const IDLE_POSITIONS = 5_000n;
const IDLE_MS = 60_000;

/** Events that are to be sent next and need their mark first. */
export type Wanted = Readonly<{
  lanes: readonly Readonly<{ lane: Lane; items: readonly Item[] }>[];
  retries: readonly Item[];
}>;

/** True when a round is due: something waits for its mark, or has waited long enough to be put down. */
export function isDue(s: Running, wanted: Wanted, nowMs: number): boolean {
  if (wanted.retries.length > 0 || wanted.lanes.some(({ items }) => items.length > 0)) return true;
  if (s.dirtySinceMs !== null) {
    return s.attempts.length >= PAGE_EVENTS || nowMs - s.dirtySinceMs >= FLUSH_MS;
  }
  if (s.replays.some(isAtItsEnd)) return true;
  const moved = lowWatermark(s.live).position - s.live.saved;
  return moved >= IDLE_POSITIONS || (moved > 0n && nowMs - s.savedAtMs >= IDLE_MS);
}

/** A replay that has come to its end, which is not put down yet. */
const isAtItsEnd = (lane: Lane): boolean =>
  lane.replay !== null &&
  lane.saved < lane.replay.until &&
  lowWatermark(lane).position >= lane.replay.until;

/** True when marks may be given now: at once where nothing is under way, else in good company. */
export const mayMark = (s: Running): boolean =>
  (s.inFlight === 0 && s.live.ready.length === 0) || performance.now() - s.settledAtMs >= PACE_MS;

/** How many may get their marks: a page, or of an endpoint on probation no more than may go. */
export function takeWanted(s: Running, allowed: number, due: readonly Item[]): Wanted {
  const isWide = s.breaker.state === 'closed';
  const lanes = [s.live, ...s.replays].map((lane) => {
    // In few large rounds rather than many small ones.
    const isLow = lane.ready.length <= PAGE_EVENTS / 2;
    const room = isWide ? (isLow ? PAGE_EVENTS : 0) : Math.max(0, allowed - lane.ready.length);
    return { lane, items: allowed === 0 ? [] : takeFresh(lane, room) };
  });
  return { lanes, retries: allowed === 0 ? [] : due };
}

/**
 * Puts down what has come of deliveries and marks what is sent next, in one statement. False when another
 * owner has the subscription. When the database is away nothing is forgotten, and the error is thrown.
 */
export async function settleRound(
  s: Running,
  deps: DeliveryDeps,
  wanted: Wanted,
  isClean = false,
): Promise<boolean> {
  for (const item of wanted.retries) keep(s, item, true);
  const marks = new Map(
    wanted.lanes.map(({ lane, items }) => [lane, sentToWith(lane, items)] as const),
  );
  const batch = toBatch(s, marks, isClean);
  const { attempts, kept, done } = s;
  s.attempts = [];
  s.kept = new Map();
  s.done = new Map();
  s.dirtySinceMs = null;
  let isOurs: boolean;
  try {
    isOurs = await settle(deps.pool, batch);
  } catch (error) {
    s.attempts = [...attempts, ...s.attempts];
    // What came since is newer.
    s.kept = new Map([...[...kept].filter(([at]) => !s.done.has(at)), ...s.kept]);
    s.done = new Map([...[...done].filter(([at]) => !s.kept.has(at)), ...s.done]);
    s.dirtySinceMs = 0;
    for (const { lane, items } of wanted.lanes) lane.fresh.unshift(...items);
    throw error;
  }
  if (!isOurs) return false;
  s.settledAtMs = performance.now();
  s.savedAtMs = deps.clock.nowMs();
  s.live.saved = batch.place.position;
  for (const lane of s.replays) {
    lane.saved = batch.replays.find(({ id }) => id === lane.replay?.id)?.position ?? lane.saved;
  }
  for (const { lane, items } of wanted.lanes) {
    lane.sentTo = marks.get(lane) ?? lane.sentTo;
    for (const item of items) item.state = 'waiting';
    lane.ready.push(...items);
  }
  s.marked.push(...wanted.retries);
  return true;
}

function toBatch(s: Running, marks: ReadonlyMap<Lane, Position>, isClean: boolean): Settlement {
  const marksOf = (lane: Lane): Position => marks.get(lane) ?? lane.sentTo;
  const place = lowWatermark(s.live);
  const sentTo = marksOf(s.live);
  return {
    webhookId: s.id,
    token: s.token,
    place: { ...place, sentTo: sentTo > place.position ? sentTo : place.position, isClean },
    breaker: toKept(s.breaker),
    quietUntil: s.quietUntilMs > 0 ? new Date(s.quietUntilMs) : null,
    attempts: s.attempts,
    done: [...s.done].map(([position, askedAt]) => ({ position, askedAt })),
    kept: [...s.kept.values()],
    replays: s.replays.map((lane) => toProgress(lane, marksOf(lane))),
  };
}

function toProgress(lane: Lane, sentTo: Position): ReplayProgress {
  const { position } = lowWatermark(lane);
  const { delivered, failed, replay } = lane;
  return {
    id: replay?.id ?? 0n,
    position,
    sentTo: sentTo > position ? sentTo : position,
    delivered,
    failed,
  };
}
