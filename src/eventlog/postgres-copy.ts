import type pg from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import { NAMING_TYPES } from '../domain/events.ts';
import type { EvidenceSegment, LogSegment, Position, StoredEvent } from './eventlog.ts';

/** Some 4 to 5 MB: large enough to spread the cost of a query, small enough to hold two of. */
const EVIDENCE_POSITIONS = 5_000n;
/** Fewer for events that are rendered: as objects they take much more, and rendering blocks others. */
const SEGMENT_POSITIONS = 1_500n;
/** A guess that spares growing; longer rows only cost a copy. */
const ROW_BYTES = 1_200;

/**
 * The next run of events, read whole by one binary COPY: no escaping, no text parsing, and neither
 * connection nor snapshot outlives the call, however slow the reader of an export is.
 */
export async function copySegment(
  pool: pg.Pool,
  after: Position,
  until: Position,
): Promise<LogSegment> {
  if (after >= until) return { events: [], scannedTo: until };
  const { rows, naming, end } = await copyRows(pool, after, cut(after, until, SEGMENT_POSITIONS));
  return { events: parseRows(rows, naming), scannedTo: end };
}

/** The same events as lines of evidence: the bytes go from the copy to the answer without a detour. */
export async function copyEvidence(
  pool: pg.Pool,
  after: Position,
  until: Position,
): Promise<EvidenceSegment> {
  if (after >= until) {
    return { bytes: NOTHING, count: 0, first: null, last: null, scannedTo: until };
  }
  const { rows, naming, end } = await copyRows(pool, after, cut(after, until, EVIDENCE_POSITIONS));
  return { ...assembleEvidence(rows, naming), scannedTo: end };
}

type Copied = Readonly<{ rows: Buffer; naming: ReadonlyMap<string, string>; end: Position }>;

const cut = (after: Position, until: Position, most: bigint): Position =>
  until - after > most ? after + most : until;

async function copyRows(pool: pg.Pool, after: Position, end: Position): Promise<Copied> {
  const client = await pool.connect();
  let failure: Error | undefined;
  try {
    const naming = await readNamingDisclosures(client, after, end);
    // COPY takes no parameters; a bigint prints as digits alone.
    const stream = client.query(
      copyTo(`copy (
        select e.position, e.line, p.identity, p.network, p.content
        from eventlog.events e
        -- The range on both sides lets two index scans run side by side instead of a probe per row.
        left join eventlog.event_personal p on p.position = e.position
          and p.position > ${after} and p.position <= ${end}
        where e.position > ${after} and e.position <= ${end}
        order by e.position) to stdout (format binary)`),
    );
    let rows: Buffer = Buffer.allocUnsafeSlow(Number(end - after) * ROW_BYTES);
    let length = 0;
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      if (length + chunk.length > rows.length) rows = grow(rows, length + chunk.length);
      length += chunk.copy(rows, length);
    }
    return { rows: rows.subarray(0, length), naming, end };
  } catch (error) {
    failure = error as Error;
    throw error;
  } finally {
    // A connection that failed in mid-copy is not fit for the next reader.
    client.release(failure);
  }
}

function grow(buffer: Buffer, needed: number): Buffer {
  const larger = Buffer.allocUnsafeSlow(Math.max(needed, buffer.length * 2));
  buffer.copy(larger);
  return larger;
}

// The binary COPY format: a header, then per row a 16-bit column count (-1 at the end), and per column a 32-bit
// length (-1 for null) and its bytes.
const HEADER_BYTES = 19;
const COLUMNS = 5;
const LISTS = COLUMNS - 2;

function parseRows(rows: Buffer, naming: ReadonlyMap<string, string>): StoredEvent[] {
  const events: StoredEvent[] = [];
  let at = HEADER_BYTES;
  while (rows.readInt16BE(at) === COLUMNS) {
    const position = rows.readBigInt64BE(at + 6);
    const lineEnd = at + 18 + rows.readInt32BE(at + 14);
    const line = rows.toString('utf8', at + 18, lineEnd);
    at = lineEnd;
    const lists: string[] = [];
    for (let list = 0; list < LISTS; list += 1) {
      const bytes = Math.max(0, rows.readInt32BE(at));
      at += 4;
      if (bytes > 0) lists.push(rows.toString('latin1', at, at + bytes));
      at += bytes;
    }
    const names = naming.size === 0 ? undefined : naming.get(position.toString());
    if (names !== undefined) lists.push(names);
    events.push({ position, line, disclosures: lists.join(',') });
  }
  return events;
}

const NOTHING = Buffer.alloc(0);
const OPEN = Buffer.from('{"line":');
const MIDDLE = Buffer.from(',"disclosures":[');
const CLOSE = Buffer.from(']}\n');
const COMMA = ','.charCodeAt(0);

/** `{"line":…,"disclosures":[…]}` per row, the committed bytes copied as they are. */
function assembleEvidence(
  rows: Buffer,
  naming: ReadonlyMap<string, string>,
): Omit<EvidenceSegment, 'scannedTo'> {
  // What is put around a row is shorter than the lengths and the position that COPY puts into it.
  const names = [...naming.values()].reduce((sum, text) => sum + text.length + 1, 0);
  const bytes = Buffer.allocUnsafeSlow(rows.length + names);
  let at = HEADER_BYTES;
  let to = 0;
  let count = 0;
  let lastRow = 0;
  while (rows.readInt16BE(at) === COLUMNS) {
    lastRow = at;
    count += 1;
    const lineAt = at + 18;
    const lineEnd = lineAt + rows.readInt32BE(at + 14);
    to += OPEN.copy(bytes, to);
    to += rows.copy(bytes, to, lineAt, lineEnd);
    to += MIDDLE.copy(bytes, to);
    const listsFrom = to;
    at = lineEnd;
    for (let list = 0; list < LISTS; list += 1) {
      const length = Math.max(0, rows.readInt32BE(at));
      at += 4;
      if (length === 0) continue;
      if (to > listsFrom) to = bytes.writeUInt8(COMMA, to);
      to += rows.copy(bytes, to, at, at + length);
      at += length;
    }
    if (naming.size > 0) {
      const text = naming.get(rows.readBigInt64BE(lastRow + 6).toString());
      if (text !== undefined) to += bytes.write((to > listsFrom ? ',' : '') + text, to, 'latin1');
    }
    to += CLOSE.copy(bytes, to);
  }
  const positionAt = (row: number) => (count === 0 ? null : rows.readBigInt64BE(row + 6));
  return {
    bytes: bytes.subarray(0, to),
    count,
    first: positionAt(HEADER_BYTES),
    last: positionAt(lastRow),
  };
}

async function readNamingDisclosures(
  client: pg.PoolClient,
  after: Position,
  end: Position,
): Promise<ReadonlyMap<string, string>> {
  const { rows } = await client.query<[string, string | null]>({
    name: 'naming_disclosures',
    text: `
      select e.position, s.disclosures->>e.event_id::text
      from eventlog.events e join eventlog.subject_names s on s.subject = e.resource
      where e.type = any($1) and e.position > $2 and e.position <= $3`,
    values: [NAMING_TYPES, after, end],
    rowMode: 'array',
  });
  return new Map(rows.flatMap(([at, list]) => (list === null ? [] : [[at, list] as const])));
}
