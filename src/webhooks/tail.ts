import { setTimeout as sleep } from 'node:timers/promises';
import type { EventLog, Position, StoredLine } from '../eventlog/eventlog.ts';
import { isWebhookType } from '../projections/webhook-catalogue.ts';
import { type PreparedDelivery, prepareEvent } from '../projections/webhook-payload.ts';
import { WEBHOOK_CHANGES } from '../projections/webhooks.ts';

/** The end of the log as all subscriptions of a process share it: each event is read once. */
export type Tail = Readonly<{
  /** Up to here every change of a subscription is known, so that its filter can be trusted. */
  head: () => Position;
  /** Deliverable events between two positions, or null when that is longer ago than is kept. */
  read: (after: Position, until: Position, limit: number) => readonly PreparedDelivery[] | null;
  /** Reads a line for its deliveries; who is behind shares that with others who are about as far. */
  prepare: (line: StoredLine) => PreparedDelivery;
  stop: () => Promise<void>;
}>;

type Deps = Readonly<{
  log: EventLog;
  /** Subscriptions were changed at or below a position; resolves when all that run know it. */
  onChanges: (position: Position) => Promise<void>;
  onMove: () => void;
  /** Nobody is at the end, so that nothing but changes need be read. */
  isIdle: () => boolean;
  logger: Readonly<{ warn: (fields: object, message: string) => void }>;
}>;

const PAGE_EVENTS = 500;
/** Events at the end of the log that are kept; who is further behind reads for itself. */
const KEPT_EVENTS_MAX = 4_000;
const RETRY_MS = 200;

/** Follows the log from a head on whose changes are known already. */
export function startTail(deps: Deps, from: Position): Tail {
  const abort = new AbortController();
  const ring: PreparedDelivery[] = [];
  let start = from;
  let head = from;

  async function advance(to: Position): Promise<void> {
    let reached = head;
    let hasChanges = false;
    while (reached < to) {
      const isBehind = to - reached > BigInt(KEPT_EVENTS_MAX);
      const onlyChanges = deps.isIdle() || isBehind;
      // Most of a long way is stepped over, once it is known that nobody's filter changed on it.
      const until = isBehind ? to - BigInt(KEPT_EVENTS_MAX) : to;
      const filter = onlyChanges ? { types: [...WEBHOOK_CHANGES] } : {};
      const page = await deps.log.readLines({ after: reached, until, filter, limit: PAGE_EVENTS });
      hasChanges ||= page.lines.some(({ type }) => WEBHOOK_CHANGES.has(type));
      if (onlyChanges) {
        ring.length = 0;
        start = page.scannedTo;
      } else keep(page.lines);
      reached = page.scannedTo;
    }
    if (hasChanges) await deps.onChanges(to);
    head = to;
    deps.onMove();
  }

  function keep(lines: readonly StoredLine[]): void {
    for (const line of lines) if (isWebhookType(line.type)) ring.push(prepareEvent(line));
    const surplus = ring.length - KEPT_EVENTS_MAX;
    if (surplus <= 0) return;
    start = ring[surplus - 1]?.position ?? start;
    ring.splice(0, surplus);
  }

  async function follow(): Promise<void> {
    for await (const to of deps.log.follow(from, abort.signal)) {
      // While the database is away nothing is stepped over: it is tried again.
      for (let isFailing = false; !abort.signal.aborted && head < to; isFailing = true) {
        try {
          await advance(to);
        } catch (error) {
          ring.length = 0;
          start = head;
          if (!isFailing) deps.logger.warn({ err: error }, 'the log cannot be followed');
          await sleep(RETRY_MS);
        }
      }
    }
  }

  const shared = new Map<Position, PreparedDelivery>();
  const following = follow();
  return {
    head: () => head,
    prepare(line) {
      const known = shared.get(line.position);
      if (known !== undefined) return known;
      const made = prepareEvent(line);
      shared.set(line.position, made);
      const [oldest] = shared.keys();
      if (shared.size > KEPT_EVENTS_MAX && oldest !== undefined) shared.delete(oldest);
      return made;
    },
    read(after, until, limit) {
      if (after < start) return null;
      const found: PreparedDelivery[] = [];
      for (let i = firstAfter(ring, after); i < ring.length && found.length < limit; i += 1) {
        const event = ring[i];
        if (event === undefined || event.position > until) break;
        found.push(event);
      }
      return found;
    },
    async stop() {
      abort.abort();
      await following;
    },
  };
}

/** The index of the first event behind a position, by halves. */
function firstAfter(events: readonly PreparedDelivery[], after: Position): number {
  let low = 0;
  let high = events.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((events[middle]?.position ?? 0n) <= after) low = middle + 1;
    else high = middle;
  }
  return low;
}
