import { canonicalJson } from '../eventlog/canonical.ts';
import { digestOf } from '../eventlog/personal.ts';
import type { RecordedEvent } from '../eventlog/upcast.ts';
import type { DamageClass } from './findings.ts';

/** One row of `eventlog.events`, times and integers as text. */
export type EventRow = Readonly<{
  position: string;
  revision: string;
  recorded_at: string;
  event_id: string;
  stream: string;
  type: string;
  actor: string;
  resource: string;
  line: string;
}>;

/** What the rest of the checks needs of a line. */
export type LineFacts = Readonly<{
  event: RecordedEvent;
  /** Every digest of its `_sd` members. */
  digests: ReadonlySet<string>;
  mailDomains: readonly string[];
}>;

export type Report = (damage: DamageClass, detail: string) => void;

const MEMBERS = [
  'actor',
  'causation_id',
  'correlation_id',
  'data',
  'event_id',
  'mail_domains',
  'occurred_at',
  'outcome',
  'position',
  'recorded_at',
  'request_id',
  'resource',
  'revision',
  'schema_version',
  'source',
  'stream',
  'type',
  'v',
].join();
const OBJECTS = ['actor', 'data', 'resource', 'source'] as const;
/** The columns that stand in the line as they are; actor and resource stand there in parts. */
const COLUMNS = [
  'position',
  'revision',
  'recorded_at',
  'event_id',
  'stream',
  'type',
] as const satisfies readonly (keyof EventRow)[];

/** Checks one line against itself and against the columns beside it; null when it is no line at all. */
export function verifyRow(row: EventRow, report: Report): LineFacts | null {
  const facts = verifyLine(row.line, report);
  if (facts === null) return null;
  const { event } = facts;
  for (const column of COLUMNS) {
    if (event[column] !== row[column]) differs(report, column, row[column], event[column]);
  }
  for (const column of ['actor', 'resource'] as const) {
    const { type, id } = event[column];
    if (`${type}:${id}` !== row[column]) differs(report, column, row[column], `${type}:${id}`);
  }
  return facts;
}

/**
 * Checks one line against itself: canonical JSON with the members of design.md 4 and no others. Null when it is
 * not even that much of a line.
 */
export function verifyLine(line: string, report: Report): LineFacts | null {
  const event = parseLine(line);
  if (event === null) {
    report('line', 'is not a JSON object');
    return null;
  }
  if (!isCanonical(event, line)) report('line', 'is not canonical JSON (RFC 8785)');
  const members = Object.keys(event).sort().join();
  if (members !== MEMBERS) {
    report('line', `has not the members of a line: ${members.slice(0, 200)}`);
    return null;
  }
  const broken = OBJECTS.find((member) => !isObject(event[member]));
  if (broken !== undefined) {
    report('line', `${broken} is no object`);
    return null;
  }
  return {
    event,
    digests: digestsOf(event),
    mailDomains: Array.isArray(event.mail_domains) ? event.mail_domains : [],
  };
}

/** Checks that each text of a stored list was committed by the line; returns how many there are. */
export function verifyDisclosures(
  list: string,
  digests: ReadonlySet<string>,
  report: Report,
): number {
  const disclosures = parseList(list);
  if (disclosures === null) report('disclosure', 'its disclosures are no list of texts');
  else verifyCommitted(disclosures, digests, report);
  return disclosures?.length ?? 0;
}

/** Checks that a line has committed to each disclosure. */
export function verifyCommitted(
  disclosures: readonly string[],
  digests: ReadonlySet<string>,
  report: Report,
): void {
  for (const disclosure of disclosures) {
    if (digests.has(digestOf(disclosure))) continue;
    // The text is personal, so only its digest is told.
    report('disclosure', `${digestOf(disclosure)} is not among the digests of its line`);
  }
}

/** A stored list (comma-joined JSON strings) as texts; null when it is none. */
export function parseList(list: string): readonly string[] | null {
  try {
    const texts: unknown = JSON.parse(`[${list}]`);
    const isList = Array.isArray(texts) && texts.every((text) => typeof text === 'string');
    return isList ? texts : null;
  } catch {
    return null;
  }
}

/** Every digest that a line commits to, in whichever of its objects. */
export function digestsOf({ actor, data, resource, source }: RecordedEvent): ReadonlySet<string> {
  const objects: readonly object[] = [actor, data, resource, source];
  return new Set(
    objects.flatMap((object) => {
      const digests: unknown = '_sd' in object ? object._sd : [];
      return Array.isArray(digests) ? digests.map(String) : [];
    }),
  );
}

/** A line as an object whose members still have to be checked; null when it is none. */
export function parseLine(line: string): RecordedEvent | null {
  try {
    const parsed: unknown = JSON.parse(line);
    return isObject(parsed) ? (parsed as RecordedEvent) : null;
  } catch {
    return null;
  }
}

const isObject = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function isCanonical(event: RecordedEvent, line: string): boolean {
  try {
    return canonicalJson(event) === line;
  } catch {
    // A lone surrogate has no canonical form.
    return false;
  }
}

const differs = (report: Report, column: string, stored: string, inLine: unknown): void =>
  report('column', `${column} is ${stored}, the line says ${String(inLine)}`);
