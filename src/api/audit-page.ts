import type { EventLog, LogFilter, Position, StoredEvent } from '../eventlog/eventlog.ts';
import { type RecordedEvent, readLine } from '../eventlog/upcast.ts';
import {
  type AuditLine,
  subjectsOf,
  toAuditLine,
  type Viewer,
} from '../projections/audit-lines.ts';

/** An unindexed search answers with what it has, and a cursor behind what it scanned, after this. */
const SCAN_BUDGET_MS = 5_000;

export type Gathered = Readonly<{
  events: readonly StoredEvent[];
  scannedTo: Position;
  hasMore: boolean;
}>;

/**
 * Up to `limit` matching events, and how far was looked. Never empty while more exists, unless the
 * scan budget ran out; then the cursor still moves.
 */
export async function gather(
  log: EventLog,
  range: Readonly<{ after: Position; until: Position; filter: LogFilter; limit: number }>,
): Promise<Gathered> {
  const deadline = performance.now() + SCAN_BUDGET_MS;
  const events: StoredEvent[] = [];
  let scannedTo = range.after;
  while (scannedTo < range.until && events.length <= range.limit) {
    // One more than the page, to know whether another follows.
    const limit = range.limit + 1 - events.length;
    const page = await log.readAll({ ...range, after: scannedTo, limit });
    for (const event of page.events) events.push(event);
    scannedTo = page.scannedTo;
    if (performance.now() >= deadline) break;
  }
  if (events.length > range.limit) {
    const page = events.slice(0, range.limit);
    return { events: page, scannedTo: page.at(-1)?.position ?? range.after, hasMore: true };
  }
  const hasMore = scannedTo < range.until;
  return { events, scannedTo: scannedTo > range.after ? scannedTo : range.after, hasMore };
}

/** Events as one reader sees them, names looked up once for all. */
export async function renderEvents(
  log: EventLog,
  events: readonly StoredEvent[],
  viewer: Viewer,
): Promise<AuditLine[]> {
  const parsed: RecordedEvent[] = events.map(({ line }) => readLine(line));
  const names = await log.readNames(subjectsOf(parsed));
  return parsed.map((event, index) =>
    toAuditLine(event, events[index]?.disclosures ?? '', { names, viewer }),
  );
}
