import type { EventLog, LogFilter, Position } from '../eventlog/eventlog.ts';
import { isWebhookType } from '../projections/webhook-catalogue.ts';
import type { PreparedDelivery } from '../projections/webhook-payload.ts';
import type { Epoch, WebhookRow } from '../projections/webhooks.ts';
import type { Tail } from './tail.ts';

/** A place between two events, and how many of the epoch's matches lie before it. */
export type Place = Readonly<{ epoch: number; position: Position; sequence: number }>;

/** An event that a subscription is to have, with its number. */
export type Matched = Readonly<{
  event: PreparedDelivery;
  epoch: number;
  /** Null before the first epoch. */
  sequence: number | null;
}>;

export type Feed = Readonly<{
  /** The next matches, none of them twice; fewer than `limit` also before the end. */
  next: (limit: number) => Promise<readonly Matched[]>;
  /** How far was looked. */
  place: () => Place;
  /** True when there is nothing more to read, as far as is known. */
  isAtEnd: () => boolean;
}>;

type Source = Readonly<{ log: EventLog; tail: Pick<Tail, 'head' | 'read' | 'prepare'> }>;

/** Events that one step looks through at the end of the log. */
const STEP_EVENTS = 1_000;
/** Lines that are read at once where a filter does not say which. */
const SIFTED_LINES_MIN = 200;
const ALL_TYPES = '*';

/** The epoch that counts for an event at a position: the last that began before it; null before the first. */
export function epochAt(epochs: readonly Epoch[], position: Position): Epoch | null {
  return epochs.findLast(({ after }) => after < position) ?? null;
}

/** The filter of a subscription as the log takes it; `*` is sifted afterwards. */
export function filterOf(row: Pick<WebhookRow, 'mailDomain'>, { eventTypes }: Epoch): LogFilter {
  return {
    ...(eventTypes.includes(ALL_TYPES) ? {} : { types: eventTypes }),
    ...(row.mailDomain === null ? {} : { mailDomains: [String(row.mailDomain)] }),
  };
}

/** True when a subscription is to have an event that stands in an epoch. */
export function matches(
  row: Pick<WebhookRow, 'mailDomain'>,
  { eventTypes }: Epoch,
  { type, mailDomains }: Pick<PreparedDelivery, 'type' | 'mailDomains'>,
): boolean {
  if (row.mailDomain !== null && !mailDomains.includes(String(row.mailDomain))) return false;
  return eventTypes.includes(ALL_TYPES) ? isWebhookType(type) : eventTypes.includes(type);
}

/**
 * What a subscription matches, from a place on up to what the tail (or `until`) allows. The row is asked for
 * anew each time: epochs are only added behind what the tail has let through.
 */
export function createFeed(
  { log, tail }: Source,
  rowOf: () => WebhookRow,
  from: Place,
  until: Position | null = null,
): Feed {
  let place = from;

  /** Begins the next epoch where this one ends, and leaves out what is to be skipped. */
  function enterEpoch(end: Position): void {
    for (const { epoch, after, skips } of rowOf().epochs) {
      if (epoch <= place.epoch || after > end) continue;
      const isReached = after <= place.position;
      // A replay goes over what was skipped, too.
      if (isReached || (skips && until === null)) {
        place = { epoch, position: isReached ? place.position : after, sequence: 0 };
      }
    }
  }

  async function step(end: Position, limit: number): Promise<readonly Matched[]> {
    const { epochs } = rowOf();
    // Before the first epoch its filter counts, but nothing is numbered.
    const current = epochs.find(({ epoch }) => epoch === Math.max(place.epoch, 1));
    if (current === undefined) throw new Error(`there is no epoch ${place.epoch}`);
    const next = epochs.find(({ epoch }) => epoch === place.epoch + 1);
    const stop = next !== undefined && next.after < end ? next.after : end;
    const { events, scannedTo } = await read(current, stop, limit);
    const matched = events.map((event, index) => ({
      event,
      epoch: place.epoch,
      sequence: place.epoch === 0 ? null : place.sequence + index + 1,
    }));
    place = { ...place, position: scannedTo, sequence: place.sequence + events.length };
    return matched;
  }

  async function read(epoch: Epoch, stop: Position, limit: number) {
    const row = rowOf();
    const isMatch = (event: PreparedDelivery) => matches(row, epoch, event);
    const kept = tail.read(place.position, stop, STEP_EVENTS);
    if (kept !== null) {
      const events: PreparedDelivery[] = [];
      for (const event of kept) {
        if (isMatch(event)) events.push(event);
        if (events.length === limit) return { events, scannedTo: event.position };
      }
      const isCut = kept.length === STEP_EVENTS;
      return { events, scannedTo: isCut ? (kept.at(-1)?.position ?? stop) : stop };
    }
    // Of what is sifted afterwards most may be of no interest: it is not read one by one.
    const isSifted = epoch.eventTypes.includes(ALL_TYPES);
    const most = isSifted ? Math.max(limit, SIFTED_LINES_MIN) : limit;
    const range = { after: place.position, until: stop, filter: filterOf(row, epoch), limit: most };
    const { lines, scannedTo } = await log.readLines(range);
    const known = lines.filter(({ type }) => isWebhookType(type));
    const events = known.map(tail.prepare).filter(isMatch);
    const last = events[limit - 1];
    if (events.length <= limit || last === undefined) return { events, scannedTo };
    return { events: events.slice(0, limit), scannedTo: last.position };
  }

  return {
    async next(limit) {
      const end = until ?? tail.head();
      enterEpoch(end);
      if (place.position >= end) return [];
      return step(end, limit);
    },
    place: () => place,
    isAtEnd: () => place.position >= (until ?? tail.head()),
  };
}
