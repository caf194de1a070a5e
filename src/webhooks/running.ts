import type { KeyObject } from 'node:crypto';
import type pg from 'pg';
import type { Clock } from '../clock.ts';
import type { Attempt } from '../db/webhook-attempts.ts';
import type { RetryRow } from '../db/webhook-cursors.ts';
import type { DisableCause, ParkCause, WebhookNote } from '../domain/webhook.ts';
import type { EventLog, Position } from '../eventlog/eventlog.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import { type Breaker, UNTOLD } from './breaker.ts';
import { dropTo, type Item, type KeyGate, type Lane } from './lane.ts';
import type { Sender } from './send.ts';
import type { Slots } from './slots.ts';
import type { Tail } from './tail.ts';
import { parseTarget, type Target, type TargetPolicy } from './target.ts';

/** What every subscription of a process works with. */
export type DeliveryDeps = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  tail: Tail;
  sender: Sender;
  slots: Slots;
  policy: TargetPolicy;
  clock: Clock;
  random: () => number;
  nodeId: string;
  /** The secrets of a subscription by their fingerprints. */
  secretsOf: (id: number) => Promise<ReadonlyMap<string, KeyObject>>;
  /** At the latest after this time it is looked whether the clock says something new. */
  lookMs: number;
  /** False once this process may have been taken for dead: then nothing more may be sent. */
  holdsLease: () => boolean;
  onAttempt: (outcome: string, ms: number) => void;
  logger: Readonly<Record<'warn' | 'error', (fields: object, message: string) => void>>;
}>;

/** A subscription that this process has: everything about it that is in memory. */
export type Running = {
  readonly id: number;
  readonly token: bigint;
  row: WebhookRow;
  /** The row's URL, read. */
  target: Target;
  secrets: ReadonlyMap<string, KeyObject>;
  breaker: Breaker;
  quietUntilMs: number;
  readonly live: Lane;
  replays: Lane[];
  /** Behind the cursor, by position; parked ones are only counted. */
  readonly retries: Map<Position, Item>;
  /** Retries whose next try has its mark in the database. */
  readonly marked: Item[];
  parked: number;
  readonly gate: KeyGate;
  inFlight: number;
  retriesInFlight: number;
  /** What is to be put down. */
  attempts: Attempt[];
  kept: Map<Position, RetryRow>;
  done: Map<Position, Date | null>;
  dirtySinceMs: number | null;
  /** What is to be recorded in the log, in order. */
  toNote: { note: WebhookNote; occasion: string; atMs: number }[];
  toPark: { item: Item; cause: ParkCause }[];
  toDisable: DisableCause | null;
  isBacklogTold: boolean;
  /** When something was last put down, by the clock. */
  savedAtMs: number;
  /** Up to here a former owner may have sent what it has not put down. */
  readonly doubt: Readonly<{ until: Position; delivered: ReadonlySet<Position>; isClean: boolean }>;
  /** Replays or resends were asked for, or taken back. */
  isStale: boolean;
  /** When something was last put down, by the process's own timer. */
  settledAtMs: number;
  phase: 'running' | 'stopping' | 'deleted' | 'fenced';
  /** Ends the loop's wait. */
  wake: () => void;
  readonly cut: AbortController;
};

/** Deliveries of one subscription under way at once. */
export const SLOTS = 16;
/** Behind the cursor; more and the cursor waits. Parked ones are bounded by themselves. */
export const RETRIES_MAX = 10_000;
/** Read and not over: so far an event that takes its time lets the others go ahead. */
export const AHEAD_MAX = 10_000;
/** What is marked at once, and read at once. */
export const PAGE_EVENTS = 200;

/** True while something may be begun. */
export const mayDeliver = (s: Running, deps: DeliveryDeps, nowMs: number): boolean =>
  s.phase === 'running' &&
  s.row.status === 'active' &&
  s.toDisable === null &&
  nowMs >= s.quietUntilMs &&
  deps.holdsLease();

export const isFull = (s: Running): boolean => s.retries.size >= RETRIES_MAX;

export function markDirty(s: Running, nowMs: number): void {
  s.dirtySinceMs ??= nowMs;
}

/**
 * Puts an event behind the cursor, to be tried again by itself; and those of its key that wait for it, or the
 * cursor would wait for them.
 */
export function moveToRetries(s: Running, item: Item, nowMs: number): void {
  const followers = s.gate.behind(item).filter(({ lane }) => lane !== null);
  for (const one of [item, ...followers]) moveOne(s, one, nowMs);
}

function moveOne(s: Running, item: Item, nowMs: number): void {
  if (item.lane !== null) {
    // The lane's own entry is over; the watermark may pass it, in the statement that keeps the row.
    const { lane } = item;
    lane.items = lane.items.map((other) => (other === item ? { ...item, state: 'over' } : other));
    lane.again = lane.again.filter((other) => other !== item);
    item.lane = null;
  }
  // It is there already, since somebody has asked for it: that one goes on for both.
  if (s.retries.has(item.position)) {
    item.state = 'over';
    release(s, item);
    return;
  }
  item.firstFailedAtMs ??= nowMs;
  if (item.dueAtMs === 0) item.dueAtMs = nowMs;
  if (item.state !== 'blocked') item.state = 'waiting';
  s.retries.set(item.position, item);
  keep(s, item, false);
  markDirty(s, nowMs);
}

/** Notes how a retry's row is to be. */
export function keep(
  s: Running,
  item: Item,
  isSending: boolean,
  state: RetryRow['state'] = 'retrying',
): void {
  s.done.delete(item.position);
  s.kept.set(item.position, {
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

/** Takes over how a subscription is set now, and leaves out what it says is to be left out. */
export function takeOver(s: Running, row: WebhookRow, policy: TargetPolicy): void {
  const isBegunAnew = row.status === 'active' && s.row.status !== 'active';
  if (row.url !== s.row.url || isBegunAnew) giveAnotherChance(s);
  s.row = row;
  s.target = parseTarget(row.url, policy);
  const skipped = row.epochs.findLast(({ skips }) => skips);
  if (skipped === undefined) return;
  const dropped = dropTo(s.live, skipped.after);
  for (const item of dropped) {
    item.state = 'over';
    release(s, item);
  }
}

/** What was learned of an endpoint says nothing of another, nor of one that somebody has seen to. */
function giveAnotherChance(s: Running): void {
  s.quietUntilMs = 0;
  s.breaker = { ...s.breaker, ...UNTOLD, probeAtMs: 0, probes: 0 };
}

/** An event is over: whoever waited behind it may go. */
export function release(s: Running, item: Item): void {
  const next = s.gate.leave(item);
  if (next === null || next.state !== 'blocked') return;
  if (next.lane === null) {
    next.state = 'waiting';
    return;
  }
  const { lane } = next;
  // In front: its turn is long due. It may have its mark already, by those around it.
  const isMarked = next.position <= lane.sentTo;
  next.state = isMarked ? 'waiting' : 'fresh';
  (isMarked ? lane.ready : lane.fresh).unshift(next);
  if (!isMarked) lane.fresh.sort((a, b) => (a.position < b.position ? -1 : 1));
}

/** A try is under way. */
export function begin(s: Running, item: Item): void {
  item.posts += 1;
  item.state = 'sending';
  s.inFlight += 1;
  if (item.lane === null) s.retriesInFlight += 1;
  else item.lane.sending += 1;
}

/** It is no more; `lane` is where the event stood when it began. */
export function end(s: Running, lane: Lane | null): void {
  s.inFlight -= 1;
  if (lane === null) s.retriesInFlight -= 1;
  else lane.sending -= 1;
}
