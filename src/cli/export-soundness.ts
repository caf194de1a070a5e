import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { createGunzip } from 'node:zlib';
import { type CliError, messageOf, unusable } from './command.ts';
import type { Trailer } from './export-stream.ts';
import { type Findings, openFindings, type Problem } from './findings.ts';
import { type Report, verifyCommitted, verifyLine } from './line-soundness.ts';

/** What `audit verify` found. */
export type ExportVerdict = Readonly<{
  ok: boolean;
  /** Whether somebody vouches for the lines: there are no signatures yet, so an edit that fits is not seen. */
  signed: false;
  events: number;
  streams: number;
  disclosures: number;
  /** Members that lines committed to and whose values are not here: erased, or never disclosed. */
  undisclosed: number;
  first: string | null;
  last: string | null;
  problems: readonly Problem[];
}>;

type Options = Readonly<{
  /** Positions may be left out: the export was filtered. */
  isFiltered: boolean;
  onProgress: (done: number) => void;
  signal: AbortSignal;
}>;

/** A line and all its disclosures are far smaller; without a bound a broken file fills the memory. */
const LINE_BYTES_MAX = 16_777_216;
const NEWLINE = 10;

type Walk = {
  readonly findings: Findings;
  readonly isFiltered: boolean;
  /** The latest revision of each stream. */
  readonly revisions: Map<string, number>;
  events: number;
  disclosures: number;
  undisclosed: number;
  first: bigint | null;
  last: bigint;
  recordedAt: string;
  trailer: Trailer | null;
};

/**
 * Checks an export of evidence against itself, with nothing but the file: each line and what is disclosed of it,
 * positions and revisions and times from line to line, and the trailer. Memory is bounded but for one number a
 * stream. Rejects with status 2 where the file is no such export.
 */
export async function verifyExport(
  file: string,
  options: Options,
): Promise<{ verdict: ExportVerdict; findings: Findings }> {
  const findings = openFindings();
  const walk: Walk = {
    findings,
    isFiltered: options.isFiltered,
    revisions: new Map(),
    events: 0,
    disclosures: 0,
    undisclosed: 0,
    first: null,
    last: 0n,
    recordedAt: '',
    trailer: null,
  };
  try {
    await verifyLines(walk, file, options);
  } catch (error) {
    if (!isOfZlib(error)) throw error;
    findings.add('cut', walk.last + 1n, `the packed file cannot be read on (${error.message})`);
  }
  verifyTrailer(walk);
  const problems = findings.problems();
  const { events, revisions, disclosures, undisclosed, first, last } = walk;
  const verdict: ExportVerdict = {
    ok: problems.length === 0,
    signed: false,
    ...{ events, streams: revisions.size, disclosures, undisclosed },
    first: first?.toString() ?? null,
    last: first === null ? null : last.toString(),
    problems,
  };
  return { verdict, findings };
}

const isOfZlib = (error: unknown): error is Error =>
  error instanceof Error && String((error as NodeJS.ErrnoException).code).startsWith('Z_');

async function verifyLines(walk: Walk, file: string, options: Options): Promise<void> {
  for await (const { text, isWhole } of linesOf(file)) {
    options.signal.throwIfAborted();
    if (walk.trailer !== null) {
      walk.findings.add('trailer', walk.last, 'something follows the trailer');
      return;
    }
    if (isWhole) verifyEntry(walk, text);
    else walk.findings.add('cut', walk.last + 1n, 'the last line has no end');
    options.onProgress(walk.events);
  }
}

type Entry = Readonly<{ line: unknown; disclosures: unknown }>;

function verifyEntry(walk: Walk, text: string): void {
  const { findings } = walk;
  const parsed = parseObject(text);
  const trailer = parsed?.['trailer'];
  if (typeof trailer === 'object' && trailer !== null) {
    walk.trailer = trailer as Trailer;
    return;
  }
  const entry = parsed !== null && 'line' in parsed && 'disclosures' in parsed ? parsed : null;
  if (entry === null && walk.events === 0) throw noEvidence();
  walk.events += 1;
  const where = walk.last + 1n;
  if (entry === null) {
    findings.add('line', where, `line ${walk.events} of the file is no evidence`);
    return;
  }
  verifyEvent(walk, text, entry as Entry);
}

function verifyEvent(walk: Walk, text: string, { line, disclosures }: Entry): void {
  const { findings } = walk;
  const listed = Array.isArray(disclosures) ? disclosures.map(String) : [];
  // The committed bytes are what stands between: whatever was put around or into them shows here.
  const end = `,"disclosures":${JSON.stringify(disclosures)}}`;
  const isAsWritten = text.startsWith('{"line":') && text.endsWith(end);
  const committed = isAsWritten ? text.slice('{"line":'.length, -end.length) : JSON.stringify(line);
  const position = positionOf(line) ?? walk.last + 1n;
  const report: Report = (damage, detail) => findings.add(damage, position, detail);
  if (!isAsWritten) report('line', 'is not written as evidence is');
  const facts = verifyLine(committed, report);
  if (facts === null) return;
  verifyCommitted(listed, facts.digests, report);
  walk.disclosures += listed.length;
  walk.undisclosed += Math.max(0, facts.digests.size - new Set(listed).size);
  verifyPlace(walk, position, facts.event);
}

type Placed = Readonly<{ stream: string; revision: string; recorded_at: string }>;

/** Position, revision and time go on from the line before. */
function verifyPlace(walk: Walk, position: bigint, { stream, revision, recorded_at }: Placed) {
  const { findings, revisions } = walk;
  if (walk.first !== null && position <= walk.last) {
    findings.add('order', position, `it comes behind position ${walk.last}`);
    return;
  }
  if (walk.first !== null && position > walk.last + 1n && !walk.isFiltered) {
    findings.add('gap', walk.last + 1n, `nothing until position ${position}`);
  }
  walk.first ??= position;
  walk.last = position;
  const before = revisions.get(stream);
  const number = Number(revision);
  const begins = walk.first === 1n && !walk.isFiltered ? 0 : number;
  const wanted = before === undefined ? begins : before + 1;
  const isLater = walk.isFiltered && number > (before ?? -1);
  if (number !== wanted && !isLater) {
    findings.add('stream', position, `revision ${revision} of ${stream}, not ${wanted}`);
  }
  revisions.set(stream, number);
  if (recorded_at < walk.recordedAt) {
    findings.add('time', position, `recorded at ${recorded_at}, after ${walk.recordedAt}`);
  }
  walk.recordedAt = recorded_at;
}

function verifyTrailer({ findings, trailer, events, first, last }: Walk): void {
  if (trailer === null) {
    findings.add('cut', last + 1n, 'there is no trailer: the export was cut');
    return;
  }
  const { root_hash } = trailer as Trailer & { root_hash?: string | null };
  if (typeof root_hash === 'string') {
    throw unusable('The trailer has a tree, which this version cannot check.');
  }
  if (Object.keys(trailer).toString() !== TRAILER_MEMBERS.toString()) {
    findings.add('trailer', last, 'it has not the members that a trailer has');
    return;
  }
  const isWhole =
    trailer.count === events &&
    trailer.first_position === (first?.toString() ?? null) &&
    trailer.last_position === (first === null ? null : last.toString());
  if (isWhole) return;
  const counted = `${trailer.count} from ${trailer.first_position} to ${trailer.last_position}`;
  findings.add('trailer', last, `it counts ${counted}; there are ${events} up to ${last}`);
}

/** As they are written, in their order. */
const TRAILER_MEMBERS = [
  'count',
  'first_position',
  'last_position',
  'next_cursor',
  'tree_size',
  'root_hash',
];

const noEvidence = (): CliError =>
  unusable('This is no export of evidence (audit export --form evidence).');

function positionOf(line: unknown): bigint | null {
  const { position } = (line ?? {}) as { position?: unknown };
  return typeof position === 'string' && /^\d{1,19}$/.test(position) ? BigInt(position) : null;
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const parsed: unknown = JSON.parse(text);
    const isObject = typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed);
    return isObject ? (parsed as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** The lines of a file, packed (RFC 1952) or not; the last one may lack its end. */
async function* linesOf(file: string): AsyncGenerator<{ text: string; isWhole: boolean }> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of await openFile(file)) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let from = 0;
    for (let end = rest.indexOf(NEWLINE); end !== -1; end = rest.indexOf(NEWLINE, from)) {
      yield { text: rest.toString('utf8', from, end), isWhole: true };
      from = end + 1;
    }
    rest = rest.subarray(from);
    if (rest.length > LINE_BYTES_MAX) throw noEvidence();
  }
  if (rest.length > 0) yield { text: rest.toString('utf8'), isWhole: false };
}

async function openFile(file: string): Promise<AsyncIterable<Buffer>> {
  try {
    const handle = await open(file, 'r');
    const { bytesRead, buffer } = await handle
      .read(Buffer.alloc(2), 0, 2, 0)
      .finally(() => handle.close());
    const isPacked = bytesRead === 2 && buffer[0] === 0x1f && buffer[1] === 0x8b;
    const bytes = createReadStream(file, { highWaterMark: 1_048_576 });
    return isPacked ? bytes.pipe(createGunzip()) : bytes;
  } catch (error) {
    throw unusable(messageOf(error));
  }
}
