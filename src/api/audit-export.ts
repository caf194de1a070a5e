import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { constants, createGzip } from 'node:zlib';
import { DomainError } from '../domain/errors.ts';
import type { Position } from '../eventlog/eventlog.ts';
import { toEvidence } from '../eventlog/evidence.ts';
import { acceptsGzip } from './accept.ts';
import { gather, type Page, renderTable, renderText, tableHead } from './audit-page.ts';
import type { AuditReading } from './audit-query.ts';
import type { Context } from './context.ts';
import { CSV_CONTENT_TYPE } from './csv.ts';
import type { Call } from './route.ts';

export const EXPORTS_MAX = 8;
/** A client that takes nothing for this long is gone. */
const STALL_MS = 60_000;
const NDJSON_CONTENT_TYPE = 'application/x-ndjson; charset=utf-8';
const CHUNK_BYTES = 1_048_576;
const FILTERED_PAGE_LINES = 1_000;

/** How an export is written: lines of JSON and a trailer, or a table, which has none. */
type Layout = 'ndjson' | 'csv';
type Form = 'readable' | 'evidence';
type Options = Readonly<{ layout: Layout; form: Form; limit: number | null }>;
type Tally = { count: number; first: Position | null; last: Position | null; scannedTo: Position };

/** Lines as bytes, and how far they reach. */
type Batch = Readonly<{
  bytes: Buffer;
  count: number;
  first: Position | null;
  last: Position | null;
  scannedTo: Position;
}>;

/**
 * Streams matching events, one a line, up to the head at the start; NDJSON ends with a trailer. Holds no
 * connection while the client is slow, and two batches of memory at most. An export that cannot go on,
 * or whose key ends, resets its connection, so that it cannot be taken for whole.
 */
export async function streamExport(
  context: Context,
  call: Call<unknown, unknown, unknown>,
  reading: AuditReading,
  options: Options,
): Promise<void> {
  const { response } = call;
  const isTable = options.layout === 'csv';
  response.setHeader('Content-Type', isTable ? CSV_CONTENT_TYPE : NDJSON_CONTENT_TYPE);
  response.setHeader('X-Sealed-Through', sealedThrough(reading.head.recordedAt));
  if (call.request.method === 'HEAD') {
    response.end();
    return;
  }
  const release = admit(context);
  const abort = new AbortController();
  const cut = () => {
    abort.abort();
    response.destroy();
  };
  const forgetKey = context.liveKeys.onEnd(call.key, call.meta.source.ip ?? '', cut);
  const forgetStop = context.onStop(cut);
  response.once('close', () => abort.abort());
  // Its client may have gone while the export was prepared, and a connection closes once.
  if (response.destroyed) abort.abort();
  const scannedTo = reading.order === 'asc' ? reading.after : reading.until;
  const tally: Tally = { count: 0, first: null, last: null, scannedTo };
  let ended: 'complete' | 'cut' = 'cut';
  try {
    const sink = openSink(call, abort.signal);
    if (isTable) await sink.write(tableHead());
    const batches = batchesOf(context, reading, options);
    for await (const batch of ahead(batches)) {
      abort.signal.throwIfAborted();
      add(tally, batch);
      context.metrics.exportedLines.inc(batch.count);
      await sink.write(batch.bytes);
    }
    await sink.end(isTable ? null : trailerOf(context, reading, tally));
    ended = 'complete';
  } catch (error) {
    if (!abort.signal.aborted) context.logger.error({ err: error }, 'an export was cut');
    response.destroy();
  } finally {
    forgetKey();
    forgetStop();
    release();
    await recordEnd(context, call, { reading, form: options.form, tally, ended });
  }
}

/** `recorded_at` of the head and a microsecond: what was recorded before is visible for good. */
export function sealedThrough(recordedAt: string | null): string {
  if (recordedAt === null) return '1970-01-01T00:00:00.000000Z';
  const micros = Number(recordedAt.slice(20, 26)) + 1;
  if (micros < 1_000_000) return `${recordedAt.slice(0, 20)}${String(micros).padStart(6, '0')}Z`;
  const next = new Date(Date.parse(`${recordedAt.slice(0, 19)}Z`) + 1_000);
  return `${next.toISOString().slice(0, 19)}.000000Z`;
}

let running = 0;

function admit({ metrics }: Context): () => void {
  if (running >= EXPORTS_MAX) {
    throw new DomainError('unavailable', `${EXPORTS_MAX} exports are under way; try again.`, {
      retry_after_seconds: 5,
    });
  }
  running += 1;
  metrics.runningExports.set(running);
  return () => {
    running -= 1;
    metrics.runningExports.set(running);
  };
}

async function* batchesOf(
  context: Context,
  reading: AuditReading,
  { layout, form, limit }: Options,
): AsyncGenerator<Batch> {
  const { log } = context;
  const isUnfiltered = Object.keys(reading.filter).length === 0 && reading.search === null;
  const isWhole = isUnfiltered && limit === null && reading.order === 'asc';
  let { after, until } = reading;
  let left = limit ?? Number.POSITIVE_INFINITY;
  while (after < until && left > 0) {
    if (isWhole && form === 'evidence') {
      const segment = await log.readEvidence(after, until);
      after = segment.scannedTo;
      yield segment;
      continue;
    }
    const take = Math.min(left, FILTERED_PAGE_LINES);
    const page = isWhole
      ? { ...(await log.readSegment(after, until)), lines: null }
      : await gather(log, { ...reading, after, until }, take);
    const { scannedTo, events } = page;
    if (reading.order === 'asc') after = scannedTo;
    else until = scannedTo;
    left -= events.length;
    const lines =
      form === 'evidence'
        ? toEvidence(events)
        : await toReadable(context, reading, { page, layout });
    yield { ...lines, scannedTo };
  }
}

async function toReadable(
  { log }: Context,
  { viewer }: AuditReading,
  { page, layout }: Readonly<{ page: Page; layout: Layout }>,
): Promise<Omit<Batch, 'scannedTo'>> {
  const { events } = page;
  const render = layout === 'csv' ? renderTable : renderText;
  return {
    bytes: await render(log, page, viewer),
    count: events.length,
    first: events[0]?.position ?? null,
    last: events.at(-1)?.position ?? null,
  };
}

/** Reads one batch ahead: the database works while the client takes what it has. */
async function* ahead(batches: AsyncGenerator<Batch>): AsyncGenerator<Batch> {
  let next = batches.next();
  try {
    for (;;) {
      const turn = await next;
      if (turn.done === true) return;
      next = batches.next();
      // Its failure is met at the next turn; until then it is nobody's.
      next.catch(() => undefined);
      yield turn.value;
    }
  } finally {
    await next.catch(() => undefined);
  }
}

/** Writes to the client, waiting when it is slow and giving up when it has stalled. */
function openSink(call: Call<unknown, unknown, unknown>, signal: AbortSignal) {
  const { request, response } = call;
  const gzip = acceptsGzip(request) ? createGzip({ level: constants.Z_BEST_SPEED }) : null;
  response.setHeader('Vary', 'Accept-Encoding');
  if (gzip !== null) {
    response.setHeader('Content-Encoding', 'gzip');
    gzip.pipe(response);
    gzip.once('error', () => response.destroy());
  }
  const target = gzip ?? response;
  const write = async (bytes: Buffer) => {
    for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
      if (target.write(bytes.subarray(at, at + CHUNK_BYTES))) continue;
      await once(target, 'drain', {
        signal: AbortSignal.any([signal, AbortSignal.timeout(STALL_MS)]),
      });
    }
  };
  return {
    write,
    async end(last: Buffer | null) {
      if (last !== null) await write(last);
      target.end();
      await finished(response, signal);
    },
  };
}

async function finished(response: ServerResponse, signal: AbortSignal): Promise<void> {
  if (response.writableFinished) return;
  signal.throwIfAborted();
  const timeout = AbortSignal.timeout(STALL_MS);
  const gone = new AbortController();
  signal.addEventListener('abort', () => gone.abort(), { once: true });
  timeout.addEventListener('abort', () => gone.abort(), { once: true });
  await once(response, 'finish', { signal: gone.signal }).catch((error: unknown) => {
    if (!response.writableFinished) throw error;
  });
}

function add(tally: Tally, batch: Batch): void {
  tally.count += batch.count;
  tally.first ??= batch.first;
  tally.last = batch.last ?? tally.last;
  tally.scannedTo = batch.scannedTo;
}

function trailerOf(
  { cursors }: Context,
  { bound }: AuditReading,
  { count, first, last, scannedTo }: Tally,
): Buffer {
  const trailer = {
    count,
    first_position: first?.toString() ?? null,
    last_position: last?.toString() ?? null,
    next_cursor: cursors.encode(bound, scannedTo),
    tree_size: null,
    root_hash: null,
  };
  return Buffer.from(`${JSON.stringify({ trailer })}\n`);
}

async function recordEnd(
  { auditTrail, logger }: Context,
  { meta }: Call<unknown, unknown, unknown>,
  end: Readonly<{ reading: AuditReading; form: Form; tally: Tally; ended: 'complete' | 'cut' }>,
): Promise<void> {
  const { reading, form, tally, ended } = end;
  const outcome = ended === 'complete' ? 'success' : 'failure';
  const data = {
    form,
    count: tally.count,
    first_position: tally.first?.toString() ?? null,
    last_position: tally.last?.toString() ?? null,
    ended,
  };
  await auditTrail
    .recordExport({ ...meta, outcome }, data, reading.described)
    .catch((error: unknown) => logger.error({ err: error }, 'an export could not be recorded'));
}
