import type { KeyObject } from 'node:crypto';
import type pg from 'pg';
import type { Clock } from '../clock.ts';
import type { DisableCause, Ordering, ParkCause, WebhookNote } from '../domain/webhook.ts';
import type { EventLog, Position } from '../eventlog/eventlog.ts';
import type { Waker } from '../waker.ts';
import type { Breaker } from './breaker.ts';
import type { Gate, Item, Lane } from './lane.ts';
import type { RetrySet } from './retry-set.ts';
import type { Sender } from './send.ts';
import type { Settings } from './settings.ts';
import type { Slots } from './slots.ts';
import type { Tail } from './tail.ts';
import type { TargetPolicy } from './target.ts';
import type { Unsaved } from './unsaved.ts';

/** Deliveries of one subscription under way at once. */
export const SLOTS = 16;
/** What is marked at once, and read at once. */
export const PAGE_EVENTS = 200;

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
  /** How often that has been so, and is not any more. */
  lapses: () => number;
  onAttempt: (outcome: string, ms: number) => void;
  logger: Readonly<Record<'warn' | 'error', (fields: object, message: string) => void>>;
}>;

/**
 * A subscription that this process has: everything about it that is in memory, by what it is for. Each part says
 * which files change it; whoever else has it in hand only reads.
 */
export type Running = {
  readonly id: number;
  /** By which what is put down is told from what a former owner still writes. */
  readonly token: bigint;
  /** Changed by `settings` and `subscription` for others, by `chores` when the worker disables it. */
  readonly settings: Settings;
  readonly endpoint: Endpoint;
  /** From the cursor on; `reading` fills it, and `pick`, `record` and `retry-set` take from it. */
  readonly live: Lane;
  /** As `live`, one for each replay; `replays` opens and ends them. */
  replays: Lane[];
  /**
   * `retry-set` and `recovery` put events into it, `record` and `chores` take them out; `settling` adds to what has
   * its mark, and `pick` takes from that.
   */
  readonly retries: RetrySet;
  /** What its order is; another one takes another start, from what was put down. */
  readonly ordering: Ordering;
  /** Who may go by that order; `reading` and `recovery` let in, `release` lets out. */
  readonly gate: Gate;
  readonly underWay: UnderWay;
  /** `record`, `chores` and `recovery` add to it; `settling` puts it down and begins another. */
  unsaved: Unsaved;
  readonly untold: Untold;
  readonly saved: Saved;
  /** Up to here a former owner may have sent what it has not put down. */
  readonly doubt: Readonly<{ until: Position; delivered: ReadonlySet<Position>; isClean: boolean }>;
  readonly loop: Loop;
};

/** What is known of the URL's other side: `record` learns it, `chores` counts notices, `settings` forgets it. */
type Endpoint = { breaker: Breaker; quietUntilMs: number };

/** How many tries have begun and not ended; changed by `attempt` alone. */
type UnderWay = { all: number; retries: number };

/**
 * What is to be recorded in the log, in order; `record` and `chores` ask for it, `chores` does it, `settings` and
 * `recovery` take back what is not so any more.
 */
type Untold = {
  readonly notes: Readonly<{ note: WebhookNote; occasion: string; atMs: number }>[];
  readonly parks: Readonly<{ item: Item; cause: ParkCause }>[];
  disable: DisableCause | null;
  /** It was told that the retry set is full, and it still is. */
  isBacklogTold: boolean;
};

/** When something was last put down, so that it was ours then; changed by `settling` alone. */
type Saved = {
  /** By the clock. */
  atMs: number;
  /** By the process's own timer, which nobody sets. */
  ownMs: number;
  /** By the lease, which has lapsed so often until then. */
  lapses: number;
};

/** How the work goes on; changed by `subscription`, but that `record` and `recovery` may find it stale. */
type Loop = {
  phase: 'running' | 'stopping' | 'deleted' | 'fenced';
  /** Replays or resends were asked for, or taken back. */
  isStale: boolean;
  /** How often others have changed it, and of how many of that the replays are known: one may have been taken back. */
  changes: number;
  replaysAsOf: number;
  /** Between two rounds. */
  readonly waker: Waker;
  /** Cuts what is under way. */
  readonly cut: AbortController;
};

/** Everything that events are read into, live ones first. */
export const lanesOf = ({ live, replays }: Running): readonly Lane[] => [live, ...replays];
