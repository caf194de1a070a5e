import assert from 'node:assert/strict';
import type { EventLog, LogFilter, Position, StoredEvent } from '../eventlog/eventlog.ts';
import { type RecordedEvent, readLine } from '../eventlog/upcast.ts';
import { glanceSubjects, shareTexts, spliceLine } from '../projections/audit-line-text.ts';
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

/** The same lines as NDJSON; ordinary ones are spliced from the stored text, for speed. */
export async function renderText(
  log: EventLog,
  events: readonly StoredEvent[],
  viewer: Viewer,
): Promise<Buffer> {
  const spliced = viewer === null ? await spliceAll(log, events) : [];
  const left = events.filter((_, index) => (spliced[index] ?? null) === null);
  const rendered = left.length === 0 ? [] : await renderEvents(log, left, viewer);
  const rest = rendered.map((line) => Buffer.from(`${JSON.stringify(line)}\n`)).values();
  const lines = events.map((_, index) => {
    const line = spliced[index] ?? rest.next().value;
    assert(line, 'what is not spliced is rendered');
    return line;
  });
  return Buffer.concat(lines);
}

/** The lines as bytes, since text would be kept in many pieces; null for each that must be parsed. */
async function spliceAll(
  log: EventLog,
  events: readonly StoredEvent[],
): Promise<readonly (Buffer | null)[]> {
  const asked = glanceSubjects(events);
  const shared = shareTexts(asked, await log.readNames([...asked]));
  return events.map((event) => {
    const text = spliceLine(event, shared);
    return text === null ? null : Buffer.from(`${text}\n`);
  });
}
