import assert from 'node:assert/strict';
import type { EventLog, Position, StoredEvent } from '../eventlog/eventlog.ts';
import { type RecordedEvent, readLine } from '../eventlog/upcast.ts';
import { glanceSubjects, shareTexts, spliceLine } from '../projections/audit-line-text.ts';
import {
  type AuditLine,
  subjectsOf,
  toAuditLine,
  type Viewer,
} from '../projections/audit-lines.ts';
import { AuditLineView } from './audit-line-view.ts';
import type { AuditReading } from './audit-query.ts';
import { columnsOf, csvHead, csvRows } from './csv.ts';

/** An unindexed search answers with what it has, and a cursor behind what it scanned, after this. */
const SCAN_BUDGET_MS = 5_000;

/** Events that a search looks through at a time. */
const SEARCH_EVENTS = 1_000;

export type Gathered = Readonly<{
  events: readonly StoredEvent[];
  /** Where to go on: behind it ascending, from it down descending. */
  scannedTo: Position;
  hasMore: boolean;
}>;

type Range = Pick<AuditReading, 'after' | 'until' | 'filter' | 'order' | 'search' | 'viewer'>;

/**
 * Up to `limit` matching events, and how far was looked. Never empty while more exists, unless the
 * scan budget ran out; then the cursor still moves.
 */
export async function gather(log: EventLog, range: Range, limit: number): Promise<Gathered> {
  const deadline = performance.now() + SCAN_BUDGET_MS;
  const isUp = range.order === 'asc';
  const events: StoredEvent[] = [];
  let { after, until } = range;
  while (after < until && events.length <= limit) {
    // One more than the page, to know whether another follows.
    const wanted = range.search === null ? limit + 1 - events.length : SEARCH_EVENTS;
    const { filter, order } = range;
    const page = await log.readAll({ filter, order, after, until, limit: wanted });
    for (const event of await pick(log, page.events, range)) events.push(event);
    if (isUp) after = page.scannedTo;
    else until = page.scannedTo;
    if (performance.now() >= deadline) break;
  }
  const last = events[limit - 1];
  if (events.length > limit && last !== undefined) {
    return { events: events.slice(0, limit), scannedTo: behind(last, isUp), hasMore: true };
  }
  return { events, scannedTo: isUp ? after : until, hasMore: after < until };
}

/** Where to go on behind a line. */
export const behind = ({ position }: Readonly<{ position: Position }>, isUp: boolean): Position =>
  isUp ? position : position - 1n;

/** Those of the events whose lines, as this reader sees them, are found by the search. */
async function pick(
  log: EventLog,
  events: readonly StoredEvent[],
  { search, viewer }: Range,
): Promise<readonly StoredEvent[]> {
  if (search === null) return events;
  const lines = await renderEvents(log, events, viewer);
  return events.filter((_, index) => search(lines[index] as AuditLine));
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

const COLUMNS = columnsOf(AuditLineView.omit({ cursor: true }));

/** The same lines as a table, without its head. */
export async function renderTable(
  log: EventLog,
  events: readonly StoredEvent[],
  viewer: Viewer,
): Promise<Buffer> {
  return Buffer.from(csvRows(COLUMNS, await renderEvents(log, events, viewer)));
}

export const tableHead = (): Buffer => Buffer.from(csvHead(COLUMNS));
