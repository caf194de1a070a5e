import type {
  Actor,
  Json,
  Outcome,
  PersonalMember,
  ResourceRef,
  SubjectNames,
} from '../domain/decider.ts';

/**
 * Place in the whole log, from 1. Totally ordered; its exact text form is `position.toString()`.
 * Only the PostgreSQL adapter promises that positions are dense.
 */
export type Position = bigint;

/** Where the request came from; address and user agent are personal, the node is not. */
type Source = Readonly<{ node: string; ip: string | null; userAgent: string | null }>;

/** What an event records beside its fact: who asked, through which request, from where. */
export type EventMeta = Readonly<{
  actor: Actor;
  source: Source;
  requestId: string | null;
  correlationId: string;
  causationId: string | null;
  outcome: Outcome;
  /** RFC 3339 in UTC with six fractional digits. */
  occurredAt: string;
}>;

export type EventToAppend = Readonly<{
  eventId: string;
  type: string;
  schemaVersion: number;
  resource: ResourceRef;
  mailDomains: readonly string[];
  data: Readonly<Record<string, Json>>;
  personal: readonly PersonalMember[];
  names: SubjectNames | null;
  meta: EventMeta;
}>;

/** `any` checks nothing, `none` wants a new stream, `exists` an old one, a number that revision. */
export type ExpectedRevision = bigint | 'any' | 'none' | 'exists';

/** One command appends to one stream, all of its events or none. */
export type AppendCommand = Readonly<{
  stream: string;
  expected: ExpectedRevision;
  events: readonly EventToAppend[];
}>;

/**
 * How one command ended. `position` and `revision` are those of the command's last event;
 * `duplicate` means that its first event id is already in the log: it is a retry, and has these.
 */
export type AppendOutcome =
  | Readonly<{
      kind: 'appended' | 'duplicate';
      position: Position;
      revision: bigint;
      recordedAt: string;
    }>
  | Readonly<{ kind: 'conflict'; revision: bigint }>;

/** A stored event: the committed line byte for byte, and what is still disclosed of it. */
export type StoredEvent = Readonly<{
  position: Position;
  line: string;
  /** SD-JWT disclosures as JSON strings joined by commas; empty when there are none left. */
  disclosures: string;
}>;

/** A committed line by itself, for those who need nothing personal. */
export type StoredLine = Readonly<{ position: Position; type: string; line: string }>;

/** Lines in order, and how far was looked, as `LogPage` says. */
export type LinePage = Readonly<{ lines: readonly StoredLine[]; scannedTo: Position }>;

/**
 * Narrows a read; every member that is given must match, and of a list one value. `mailDomains` and
 * `visibleTo` are ids, `actors` and `resources` are `type:id`.
 */
export type LogFilter = Readonly<{
  types?: readonly string[];
  typePrefixes?: readonly string[];
  actors?: readonly string[];
  actorTypes?: readonly string[];
  resources?: readonly string[];
  resourceTypes?: readonly string[];
  mailDomains?: readonly string[];
  /** One more, for readers that are narrowed and also filter. */
  visibleTo?: string;
  outcomes?: readonly string[];
  /** When it happened, as its recorder says: at or after, and before. Six digits, in UTC. */
  occurredFrom?: string;
  occurredTo?: string;
}>;

/**
 * Events in the order that was asked for, and how far was looked: ascending, nothing that matches was left
 * out up to `scannedTo`, which is the next `after`; descending, nothing above it, and it is the next `until`.
 */
export type LogPage = Readonly<{ events: readonly StoredEvent[]; scannedTo: Position }>;

/** A run of whole events, for exports: no connection is held while one is written out. */
export type LogSegment = Readonly<{ events: readonly StoredEvent[]; scannedTo: Position }>;

/** The same as lines of `{"line":…,"disclosures":[…]}`, the committed bytes untouched. */
export type EvidenceSegment = Readonly<{
  bytes: Buffer;
  count: number;
  first: Position | null;
  last: Position | null;
  scannedTo: Position;
}>;

export type Head = Readonly<{ position: Position; recordedAt: string | null }>;

/** Identity of a log. The epoch grows when a restore may have taken positions back. */
export type LogIdentity = Readonly<{ logId: string; epoch: number; minimumPosition: Position }>;

/** The event log. Every promise here is checked by `test/eventlog/contract.ts` for every adapter. */
export type EventLog = Readonly<{
  identity: LogIdentity;
  /** Resolves per command; durable when resolved. Rejects with `unavailable` when the queue is full. */
  append: (command: AppendCommand) => Promise<AppendOutcome>;
  /** Events of one stream from a revision on, in order, at most `limit`. */
  readStream: (stream: string, from?: bigint, limit?: number) => Promise<readonly StoredEvent[]>;
  /** Matching events after a position up to another, at most `limit`, from either end; bounded work per call. */
  readAll: (range: ReadRange) => Promise<LogPage>;
  /** The same of committed lines alone. */
  readLines: (range: ReadRange) => Promise<LinePage>;
  /** How many events between two positions match; it costs their index entries, not their lines. */
  count: (range: Omit<ReadRange, 'limit'>) => Promise<bigint>;
  /** Where an event stands, null when there is none of this id. */
  positionOf: (eventId: string) => Promise<Position | null>;
  /** The next run of events after a position, unfiltered and cheap per event. */
  readSegment: (after: Position, until: Position) => Promise<LogSegment>;
  readEvidence: (after: Position, until: Position) => Promise<EvidenceSegment>;
  /** Yields the head whenever it may have moved, until the signal; never misses the last move. */
  follow: (after: Position, signal: AbortSignal) => AsyncIterable<Position>;
  head: () => Promise<Head>;
  /** The last position that was recorded before a time, 0 if none. */
  positionBefore: (time: string) => Promise<Position>;
  /** Current names of subjects (`type:id`); erased and unknown ones are absent. */
  readNames: (subjects: readonly string[]) => Promise<ReadonlyMap<string, SubjectNames>>;
  /** Removes a subject's names and its personal values of class identity; lines stay. Idempotent. */
  eraseSubject: (subject: string) => Promise<void>;
  /** Commands that wait to be appended or are under way. */
  queueDepth: () => number;
  close: () => Promise<void>;
}>;

export type ReadRange = Readonly<{
  after: Position;
  until: Position;
  filter: LogFilter;
  limit: number;
  /** From `after` up (the default), or from `until` down. */
  order?: Order;
}>;

export type Order = 'asc' | 'desc';

/** `type:id`, as filters and names are keyed. */
export const subjectOf = (ref: ResourceRef): string => `${ref.type}:${ref.id}`;
