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

/** Events, with their lines where a search has had to make them; null without one. */
export type Page = Readonly<{ events: readonly StoredEvent[]; lines: readonly AuditLine[] | null }>;

type Gathered = Page &
  Readonly<{
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
  const found: Found[] = [];
  let { after, until } = range;
  while (after < until && found.length <= limit) {
    // One more than the page, to know whether another follows.
    const wanted = range.search === null ? limit + 1 - found.length : SEARCH_EVENTS;
    const { filter, order } = range;
    const page = await log.readAll({ filter, order, after, until, limit: wanted });
    for (const one of await pick(log, page.events, range)) found.push(one);
    if (isUp) after = page.scannedTo;
    else until = page.scannedTo;
    if (performance.now() >= deadline) break;
  }
  const last = found[limit - 1];
  if (found.length > limit && last !== undefined) {
    return { ...toPage(found.slice(0, limit)), scannedTo: behind(last.event, isUp), hasMore: true };
  }
  return { ...toPage(found), scannedTo: isUp ? after : until, hasMore: after < until };
}

type Found = Readonly<{ event: StoredEvent; line: AuditLine | null }>;

function toPage(found: readonly Found[]): Page {
  const lines = found.flatMap(({ line }) => line ?? []);
  const events = found.map(({ event }) => event);
  return { events, lines: lines.length === events.length ? lines : null };
}

/** Where to go on behind a line. */
export const behind = ({ position }: Readonly<{ position: Position }>, isUp: boolean): Position =>
  isUp ? position : position - 1n;

/** Those of the events whose lines, as this reader sees them, are found by the search. */
async function pick(
  log: EventLog,
  events: readonly StoredEvent[],
  { search, viewer }: Range,
): Promise<readonly Found[]> {
  if (search === null) return events.map((event) => ({ event, line: null }));
  const lines = await renderEvents(log, events, viewer);
  return events.flatMap((event, index) => {
    const line = lines[index] as AuditLine;
    return search(line) ? [{ event, line }] : [];
  });
}

/** A page as one reader sees it; what its search has rendered is not rendered again. */
export const linesOf = async (
  log: EventLog,
  { events, lines }: Page,
  viewer: Viewer,
): Promise<readonly AuditLine[]> => lines ?? renderEvents(log, events, viewer);

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
  { events, lines: known }: Page,
  viewer: Viewer,
): Promise<Buffer> {
  const spliced = viewer === null && known === null ? await spliceAll(log, events) : [];
  const left = events.filter((_, index) => (spliced[index] ?? null) === null);
  const rendered = left.length === 0 ? [] : (known ?? (await renderEvents(log, left, viewer)));
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
export async function renderTable(log: EventLog, page: Page, viewer: Viewer): Promise<Buffer> {
  return Buffer.from(csvRows(COLUMNS, await linesOf(log, page, viewer)));
}

export const tableHead = (): Buffer => Buffer.from(csvHead(COLUMNS));
