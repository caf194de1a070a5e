import type pg from 'pg';
import type { EventLog, Position, StoredEvent } from '../eventlog/eventlog.ts';
import { type RecordedEvent, readLine } from '../eventlog/upcast.ts';

/** One read model: which events it folds, and how. `apply` must be repeatable per event. */
export type Projection = Readonly<{
  name: string;
  version: number;
  types: readonly string[];
  /** Names tables without a schema: a rebuild has it write to others of the same names. */
  apply: (db: pg.ClientBase, events: readonly ProjectedEvent[]) => Promise<void>;
  /**
   * Its own tables, which hold nothing but what it folded: a rebuild makes them anew and puts them in the
   * place of the old ones. Without any, it is folded again where it stands.
   */
  tables: readonly string[];
  /**
   * Tables that it adds to, and that hold the work of others besides. A rebuild writes to scratch in their
   * place: what was asked for long ago must not begin again.
   */
  shared?: readonly string[];
  /** What of its tables does not follow from the log alone, by table. */
  unlike?: Readonly<Record<string, Unlike>>;
}>;

/** What two folds of one log need not have alike, so that a comparison leaves it out. */
type Unlike = Readonly<{
  columns?: readonly string[];
  /** Rows whose time in this column is further back are forgotten some day. */
  olderThan?: Readonly<{ column: string; hours: number }>;
}>;

export type ProjectedEvent = Readonly<{ event: RecordedEvent; stored: StoredEvent }>;

/** What is applied in one transaction at most. */
const PAGE_EVENTS = 1_000;

export type Page = Readonly<{ events: readonly ProjectedEvent[]; scannedTo: Position }>;

/** The next events that a projection folds, and how far the log was looked through for them. */
export async function readPage(
  log: EventLog,
  { types }: Pick<Projection, 'types'>,
  range: Readonly<{ after: Position; until: Position; limit?: number }>,
): Promise<Page> {
  const { events, scannedTo } = await log.readAll({
    limit: PAGE_EVENTS,
    ...range,
    filter: { types },
  });
  return { events: events.map((stored) => ({ event: readLine(stored.line), stored })), scannedTo };
}
