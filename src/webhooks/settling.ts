import { type ReplayProgress, type Settlement, settle } from '../db/webhook-cursors.ts';
import type { Position } from '../eventlog/eventlog.ts';
import { toKept } from './breaker.ts';
import {
  areMarked,
  areNotMarked,
  type Item,
  type Lane,
  lowWatermark,
  sentToWith,
  takeFresh,
} from './lane.ts';
import { type DeliveryDeps, lanesOf, PAGE_EVENTS, type Running } from './running.ts';
import { keep, nothingUnsaved, putBack } from './unsaved.ts';

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
  if (s.unsaved.sinceMs !== null) {
    return s.unsaved.attempts.length >= PAGE_EVENTS || nowMs - s.unsaved.sinceMs >= FLUSH_MS;
  }
  if (s.replays.some(isAtItsEnd)) return true;
  const moved = lowWatermark(s.live).position - s.live.saved;
  return moved >= IDLE_POSITIONS || (moved > 0n && nowMs - s.saved.atMs >= IDLE_MS);
}

/** A replay that has come to its end, which is not put down yet. */
const isAtItsEnd = (lane: Lane): boolean =>
  lane.replay !== null &&
  lane.saved < lane.replay.until &&
  lowWatermark(lane).position >= lane.replay.until;

/** True when marks may be given now: at once where nothing is under way, else in good company. */
export const mayMark = (s: Running): boolean =>
  (s.underWay.all === 0 && s.live.ready.length === 0) ||
  performance.now() - s.saved.ownMs >= PACE_MS;

/** How many may get their marks: a page, or of an endpoint on probation no more than may go. */
export function takeWanted(s: Running, allowed: number, due: readonly Item[]): Wanted {
  const isWide = s.endpoint.breaker.state === 'closed';
  const lanes = lanesOf(s).map((lane) => {
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
  for (const item of wanted.retries) keep(s.unsaved, item, { isSending: true });
  const marks = new Map(
    wanted.lanes.map(({ lane, items }) => [lane, sentToWith(lane, items)] as const),
  );
  const batch = toBatch(s, marks, isClean);
  const lapses = deps.lapses();
  const wasClosed = s.endpoint.breaker.state === 'closed';
  const taken = s.unsaved;
  s.unsaved = nothingUnsaved();
  let isOurs: boolean;
  try {
    isOurs = await settle(deps.pool, batch);
  } catch (error) {
    s.unsaved = putBack(taken, s.unsaved);
    for (const { lane } of wanted.lanes) areNotMarked(lane);
    throw error;
  }
  if (!isOurs) return false;
  s.saved.lapses = lapses;
  s.saved.ownMs = performance.now();
  s.saved.atMs = deps.clock.nowMs();
  s.live.saved = batch.place.position;
  for (const lane of s.replays) {
    lane.saved = batch.replays.find(({ id }) => id === lane.replay?.id)?.position ?? lane.saved;
  }
  for (const [lane, sentTo] of marks) areMarked(lane, sentTo);
  // Opened meanwhile: then nothing is to be marked as if it were sent, whatever was on its way.
  if (!(wasClosed && s.endpoint.breaker.state === 'open')) s.retries.marked.push(...wanted.retries);
  else for (const item of wanted.retries) keep(s.unsaved, item);
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
    breaker: toKept(s.endpoint.breaker),
    quietUntil: s.endpoint.quietUntilMs > 0 ? new Date(s.endpoint.quietUntilMs) : null,
    attempts: s.unsaved.attempts,
    done: [...s.unsaved.done].map(([position, askedAt]) => ({ position, askedAt })),
    kept: [...s.unsaved.kept.values()],
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
