import type { Ordering } from '../domain/webhook.ts';
import type { Position } from '../eventlog/eventlog.ts';
import type { PreparedDelivery } from '../projections/webhook-payload.ts';
import type { Feed, Matched, Place } from './feed.ts';

/** One event on its way to one endpoint. */
export type Item = {
  readonly position: Position;
  readonly eventId: string;
  readonly key: string;
  readonly epoch: number;
  readonly sequence: number | null;
  /** Null until it is needed: the retry set holds places, not events. */
  event: PreparedDelivery | null;
  /** Where it was read; null for what is behind the cursor and tried again by itself. */
  lane: Lane | null;
  state: 'fresh' | 'blocked' | 'waiting' | 'sending' | 'over';
  /** Failed tries that count. */
  tries: number;
  /** Posts of it, those that do not count among them. */
  posts: number;
  dueAtMs: number;
  firstFailedAtMs: number | null;
  lastOutcome: string | null;
  replayId: bigint | null;
  /** When somebody last asked for it. */
  askedAt: Date | null;
};

/**
 * The events between a low watermark and how far was read, in order: each is over (delivered, or in the
 * retry set) or still to be sent. What has no mark in the database yet is `fresh` and must not be sent.
 */
export type Lane = {
  readonly feed: Feed;
  /** Null: the subscription's own cursor. */
  readonly replay: Replay | null;
  items: Item[];
  fresh: Item[];
  /** Their mark is on its way to the database. */
  marking: Item[];
  /** Marked, and not tried yet. */
  ready: Item[];
  /** Tried, and not over. */
  again: Item[];
  sending: number;
  sentTo: Position;
  /** The low watermark as it was last put down. */
  saved: Position;
  delivered: bigint;
  failed: bigint;
};

/** What is sent again, and what of it a former owner may have sent already. */
type Replay = Readonly<{
  id: bigint;
  until: Position;
  eventTypes: readonly string[] | null;
  doubtUntil: Position;
  known: ReadonlySet<Position>;
}>;

export function createLane(
  feed: Feed,
  start: Readonly<{
    sentTo: Position;
    replay?: Lane['replay'];
    delivered?: bigint;
    failed?: bigint;
  }>,
): Lane {
  const { sentTo, replay = null, delivered = 0n, failed = 0n } = start;
  const lists = { items: [], fresh: [], marking: [], ready: [], again: [] };
  const { position: saved } = feed.place();
  return { feed, replay, ...lists, sending: 0, sentTo, saved, delivered, failed };
}

export const toItem = (lane: Lane, { event, epoch, sequence }: Matched): Item => ({
  position: event.position,
  eventId: event.eventId,
  key: event.key,
  epoch,
  sequence,
  event,
  lane,
  state: 'fresh',
  tries: 0,
  posts: 0,
  dueAtMs: 0,
  firstFailedAtMs: null,
  lastOutcome: null,
  replayId: lane.replay?.id ?? null,
  askedAt: null,
});

/** Everything at or below it is over; forgets what is. */
export function lowWatermark(lane: Lane): Place {
  let over = 0;
  while (lane.items[over]?.state === 'over') over += 1;
  if (over > 0) lane.items.splice(0, over);
  const [first] = lane.items;
  return first === undefined ? lane.feed.place() : before(first);
}

const before = ({ epoch, position, sequence }: Item): Place => ({
  epoch,
  position: position - 1n,
  sequence: Math.max(0, (sequence ?? 1) - 1),
});

/** Marks the next of what is fresh; they may be sent once the mark is in the database. */
export function takeFresh(lane: Lane, max: number): readonly Item[] {
  lane.marking = lane.fresh.splice(0, max);
  return [...lane.marking];
}

/** The marks are in the database, up to there. Those that were taken back meanwhile are not given again by that. */
export function areMarked(lane: Lane, sentTo: Position): void {
  if (lane.marking.length === 0) return;
  lane.sentTo = sentTo;
  for (const item of lane.marking) item.state = 'waiting';
  lane.ready.push(...lane.marking.splice(0));
}

/** The marks did not get there. */
export function areNotMarked(lane: Lane): void {
  lane.fresh = [...lane.marking.splice(0), ...lane.fresh].sort(byPosition);
}

/** How far is marked is told by the last of what is taken: it must be the furthest. */
const byPosition = (a: Item, b: Item): number => (a.position < b.position ? -1 : 1);

/** Up to where something may have been sent, with these; those that wait behind them are marked along. */
export function sentToWith(lane: Lane, marked: readonly Item[]): Position {
  if (marked.length === 0) return lane.sentTo;
  const blocked = lane.items.findLast(({ state }) => state === 'blocked');
  const last = [lane.sentTo, marked.at(-1)?.position ?? 0n, blocked?.position ?? 0n];
  return last.reduce((a, b) => (a > b ? a : b));
}

/**
 * Takes back the marks of what has not been tried, also those that are on their way, so that a crash does not cast doubt
 * on it.
 */
export function unmark(lane: Lane): void {
  for (const item of lane.ready) item.state = 'fresh';
  lane.fresh = [...lane.ready, ...lane.marking, ...lane.fresh].sort(byPosition);
  lane.ready = [];
  lane.marking = [];
  const tried = lane.items.findLast(({ state }) => state !== 'fresh' && state !== 'blocked');
  const fresh = lane.fresh[0]?.position;
  const low = lowWatermark(lane).position;
  const highest = tried !== undefined && tried.position > low ? tried.position : low;
  // Marks are taken back from the end only.
  if (fresh !== undefined && fresh <= highest) return;
  lane.sentTo = highest;
}

/** Forgets what was read up to a position and is not under way; those that are go on. */
export function dropTo(lane: Lane, position: Position): readonly Item[] {
  const isDropped = (item: Item) => item.position <= position && item.state !== 'sending';
  const dropped = lane.items.filter(isDropped);
  const left = (items: readonly Item[]) => items.filter((item) => !isDropped(item));
  lane.items = left(lane.items);
  lane.fresh = left(lane.fresh);
  lane.marking = left(lane.marking);
  lane.ready = left(lane.ready);
  lane.again = left(lane.again);
  return dropped;
}

/** Where there is an order, events of one queue go one after the other: who comes first goes, the others wait. */
export type Gate = Readonly<{
  /** True when it may go. */
  enter: (item: Item) => boolean;
  /** Who is ahead of it, null when it may go. */
  ahead: (item: Item) => Item | null;
  /** Who waits behind it. */
  behind: (item: Item) => readonly Item[];
  /** It is over; the one that may go now, if any. */
  leave: (item: Item) => Item | null;
  /** Another stands for it from here on, in its place. */
  replace: (item: Item, other: Item) => void;
}>;

export function createGate(ordering: Ordering): Gate {
  const queues = new Map<string, Item[]>();
  const queueOf = ({ key }: Item) => (ordering === 'strict' ? THE_ONLY_QUEUE : key);
  return {
    enter(item) {
      if (ordering === 'none') return true;
      const name = queueOf(item);
      const queue = queues.get(name);
      if (queue === undefined) {
        queues.set(name, [item]);
        return true;
      }
      queue.push(item);
      return false;
    },
    ahead(item) {
      const first = queues.get(queueOf(item))?.[0] ?? null;
      return first === item ? null : first;
    },
    behind(item) {
      const queue = queues.get(queueOf(item)) ?? [];
      const index = queue.indexOf(item);
      return index === -1 ? [] : queue.slice(index + 1);
    },
    leave(item) {
      const name = queueOf(item);
      const queue = queues.get(name);
      if (queue === undefined) return null;
      const index = queue.indexOf(item);
      if (index !== -1) queue.splice(index, 1);
      if (queue.length === 0) queues.delete(name);
      return index === 0 ? (queue[0] ?? null) : null;
    },
    replace(item, other) {
      const queue = queues.get(queueOf(item));
      if (queue === undefined) return;
      const left = queue.filter((one) => one !== other);
      const index = left.indexOf(item);
      if (index === -1) return;
      left[index] = other;
      queues.set(queueOf(item), left);
      if (index === 0 && other.state === 'blocked') other.state = 'waiting';
    },
  };
}

const THE_ONLY_QUEUE = '';

/** An event is over: whoever waited behind it may go. */
export function release(gate: Gate, item: Item): void {
  const next = gate.leave(item);
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
  if (!isMarked) lane.fresh.sort(byPosition);
}
