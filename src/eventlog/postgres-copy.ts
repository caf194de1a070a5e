import type pg from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import { NAMING_TYPES } from '../domain/events.ts';
import type { LogSegment, Position, RawEvent } from './eventlog.ts';

/** Some 2 to 5 MB: large enough to spread the cost of a query, small enough to hold two of. */
const SEGMENT_POSITIONS = 4_000n;

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
  const end = until - after > SEGMENT_POSITIONS ? after + SEGMENT_POSITIONS : until;
  const client = await pool.connect();
  let failure: Error | undefined;
  try {
    const naming = await readNamingDisclosures(client, after, end);
    // COPY takes no parameters; a bigint prints as digits alone.
    const rows = client.query(
      copyTo(`copy (
        select e.position, e.line, p.identity, p.network, p.content
        from eventlog.events e left join eventlog.event_personal p on p.position = e.position
        where e.position > ${after} and e.position <= ${end}
        order by e.position) to stdout (format binary)`),
    );
    const chunks: Buffer[] = [];
    for await (const chunk of rows) chunks.push(chunk as Buffer);
    return { events: parseRows(Buffer.concat(chunks), naming), scannedTo: end };
  } catch (error) {
    failure = error as Error;
    throw error;
  } finally {
    // A connection that failed in mid-copy is not fit for the next reader.
    client.release(failure);
  }
}

const HEADER_BYTES = 19;
const COLUMNS = 5;

/** Tuples of the binary COPY format: a 16-bit column count, then length and bytes per column. */
function parseRows(copied: Buffer, naming: ReadonlyMap<string, string>): RawEvent[] {
  const events: RawEvent[] = [];
  let at = HEADER_BYTES;
  while (copied.readInt16BE(at) === COLUMNS) {
    at += 2;
    const position = copied.readBigInt64BE(at + 4);
    at += 12;
    const lineBytes = copied.readInt32BE(at);
    const line = copied.subarray(at + 4, at + 4 + lineBytes);
    at += 4 + lineBytes;
    const lists: Buffer[] = [];
    for (let column = 2; column < COLUMNS; column += 1) {
      const bytes = copied.readInt32BE(at);
      at += 4;
      if (bytes <= 0) continue;
      lists.push(copied.subarray(at, at + bytes));
      at += bytes;
    }
    const names = naming.size === 0 ? undefined : naming.get(position.toString());
    events.push({ position, line, disclosures: joinLists(lists, names) });
  }
  return events;
}

const NONE = Buffer.alloc(0);

function joinLists(lists: readonly Buffer[], names: string | undefined): Buffer | string {
  if (names === undefined && lists.length <= 1) return lists[0] ?? NONE;
  return [
    ...lists.map((list) => list.toString('latin1')),
    ...(names === undefined ? [] : [names]),
  ].join(',');
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
