import type { IncomingMessage } from 'node:http';
import { CliError, messageOf } from './command.ts';
import { UnreachableError } from './connection.ts';

/** What closes an export: a stream without it was cut. Members unknown here are kept. */
export type Trailer = Readonly<{
  count: number;
  first_position: string | null;
  last_position: string | null;
  next_cursor: string;
}>;

/** The lines that have arrived so far, over all connections. */
export type Received = {
  count: number;
  first: string | null;
  last: string | null;
};

type Handlers = Readonly<{
  received: Received;
  write: (lines: Buffer) => Promise<void>;
}>;

const NEWLINE = 10;
/** A line and all its disclosures are far smaller; without a bound a broken server fills the memory. */
const LINE_BYTES_MAX = 16_777_216;
const TRAILER_START = Buffer.from('{"trailer":');

/**
 * Takes one connection's lines until its trailer, checked against them. Rejects with
 * `UnreachableError` when the connection is cut; `received` then says how far the whole lines reach.
 */
export async function receive(
  response: IncomingMessage,
  { received, write }: Handlers,
): Promise<Trailer> {
  const own: Received = { count: 0, first: null, last: null };
  const before = received.last;
  let trailer: Trailer | null = null;
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of chunksOf(response)) {
    if (trailer !== null) throw broken('something follows its trailer');
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    const end = bytes.lastIndexOf(NEWLINE) + 1;
    rest = bytes.subarray(end);
    if (rest.length > LINE_BYTES_MAX) throw broken('a line does not end');
    if (end === 0) continue;
    const lastLine = bytes.subarray(lastStartOf(bytes.subarray(0, end)), end);
    const hasTrailer = lastLine.indexOf(TRAILER_START) === 0;
    const lines = bytes.subarray(0, hasTrailer ? end - lastLine.length : end);
    if (lines.length > 0) {
      const batch = tally(lines);
      requireBehind(before, batch);
      add(own, batch);
      add(received, batch);
      await write(lines);
    }
    if (hasTrailer) trailer = (parse(lastLine) as { trailer: Trailer }).trailer;
  }
  if (trailer === null || rest.length > 0) throw cut('The connection was cut.');
  const isWhole = trailer.count === own.count && trailer.last_position === own.last;
  if (!isWhole) throw broken(`its trailer counts ${trailer.count} lines, ${own.count} arrived`);
  return trailer;
}

/** The body as it comes; whatever ends it early is a cut. */
async function* chunksOf(response: IncomingMessage): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of response) yield chunk as Buffer;
  } catch (error) {
    throw cut(`The connection was cut (${messageOf(error)}).`);
  }
}

const cut = (message: string): UnreachableError => new UnreachableError(message, { isCut: true });

function tally(lines: Buffer): Received {
  let count = 0;
  for (let at = lines.indexOf(NEWLINE); at !== -1; at = lines.indexOf(NEWLINE, at + 1)) count += 1;
  const first = positionOf(lines.subarray(0, lines.indexOf(NEWLINE)));
  return { count, first, last: positionOf(lines.subarray(lastStartOf(lines))) };
}

/** Where the last of some whole lines begins. */
const lastStartOf = (lines: Buffer): number => lines.subarray(0, -1).lastIndexOf(NEWLINE) + 1;

function requireBehind(before: string | null, { first }: Received): void {
  if (before === null || first === null || BigInt(first) > BigInt(before)) return;
  throw broken(`it repeats position ${first}`);
}

function add(sum: Received, batch: Received): void {
  sum.count += batch.count;
  sum.first ??= batch.first;
  sum.last = batch.last;
}

/** The position of a line of either form. */
function positionOf(line: Buffer): string {
  const parsed = parse(line) as { position?: string; line?: { position?: string } };
  const position = parsed.line?.position ?? parsed.position;
  if (position === undefined || !/^\d{1,19}$/.test(position)) {
    throw broken('a line has no position');
  }
  return position;
}

function parse(line: Buffer): unknown {
  try {
    return JSON.parse(line.toString('utf8'));
  } catch {
    throw broken('a line is no JSON');
  }
}

const broken = (what: string): CliError => new CliError(`The export is not sound: ${what}.`);
