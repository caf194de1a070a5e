import { loadConfig } from '../config.ts';
import { type Api, openApi } from './api-client.ts';
import { CliError, type Command, EXIT, type Given, usageError } from './command.ts';
import { type Query, UnreachableError } from './connection.ts';
import { openSink, type Sink } from './export-sink.ts';
import { type Received, receive, type Trailer } from './export-stream.ts';
import { lastInstant } from './instant.ts';
import { counted } from './numbers.ts';
import { type Progress, startProgress } from './progress.ts';
import { CALLER } from './settings.ts';
import { printJson, say, type Terminal } from './terminal.ts';

const NDJSON = 'application/x-ndjson';
/** Tries in a row that bring no further line, and connections in all. */
const FRUITLESS_MAX = 5;
const CONNECTIONS_MAX = 100;
const FIRST_PAUSE_MS = 250;
const PAUSE_MS_MAX = 4_000;

export const auditExport: Command = {
  name: 'audit export',
  summary: 'Write the audit log to a file, whole or not at all.',
  description: [
    'One JSON line an event, then a trailer. It goes to FILE.part, which is renamed to FILE once the',
    'trailer is there and counts as many lines as arrived. A connection that is cut is taken up behind',
    'the last whole line, and the export then reaches the head of that moment; the trailer of FILE',
    'counts the lines of all connections. What cannot be ended stays in FILE.part.',
    'evidence is for verifying: the committed bytes with their disclosures (full-admin and read-only',
    'keys that are not narrowed). readable has names and values in place.',
  ],
  options: {
    out: { value: 'FILE', required: true, help: 'Where to; - is standard output.' },
    form: { value: 'FORM', help: 'evidence (the default) or readable.' },
    from: { value: 'T', help: 'Only what was recorded at or after: 2027-01-31T00:00:00Z.' },
    to: { value: 'T', help: 'Only what was recorded before.' },
    json: { help: 'Tell what was written as JSON (not with --out -).' },
  },
  environment: CALLER,
  exits: { 1: 'no whole export; FILE is as it was before' },
  run: runExport,
};

async function runExport(given: Given, terminal: Terminal): Promise<number> {
  const form = given.text('form') ?? 'evidence';
  if (form !== 'evidence' && form !== 'readable') {
    throw usageError('--form is evidence or readable', auditExport.name);
  }
  const file = given.text('out') ?? '-';
  const query = { form, from: given.text('from'), to: given.text('to') };
  const api = openApi(loadConfig(terminal.env), terminal);
  const sink = await openSink(file, terminal);
  const received: Received = { count: 0, first: null, last: null };
  const progress = startProgress(terminal, 'Exporting');
  let connections: number;
  try {
    connections = await exportAll({ api, terminal, query, sink, received, progress });
    await sink.commit();
  } catch (error) {
    progress.end();
    const left = await sink.abandon();
    if (left === null || !(error instanceof CliError) || terminal.signal.aborted) throw error;
    throw new CliError(`${error.message}\nThe export is not whole. ${left}`);
  }
  progress.end();
  if (given.has('json') && file !== '-') {
    const { count, first, last } = received;
    const told = { file, count, first_position: first, last_position: last, connections };
    await printJson(terminal.stdout, told);
  } else if (file !== '-') {
    const again = connections === 1 ? '' : ` over ${connections} connections`;
    await say(terminal, `${counted(received.count, 'line')} in ${file}${again}.`);
  }
  return EXIT.done;
}

type Run = Readonly<{
  api: Api;
  terminal: Terminal;
  query: Query;
  sink: Sink;
  received: Received;
  progress: Progress;
}>;

/** Everything up to the trailer, over as many connections as it takes; resolves to how many. */
async function exportAll(run: Run): Promise<number> {
  const { terminal, received } = run;
  const end = await estimateEnd(run);
  let fruitless = 0;
  for (let connections = 1; ; connections += 1) {
    const before = received.count;
    try {
      await exportOnce(run, end);
      return connections;
    } catch (error) {
      if (!(error instanceof UnreachableError) || terminal.signal.aborted) throw error;
      fruitless = received.count > before ? 0 : fruitless + 1;
      // No server there at all: better told at once.
      const isHopeless = connections === 1 && !error.isCut;
      if (isHopeless || fruitless > FRUITLESS_MAX || connections === CONNECTIONS_MAX) throw error;
      await say(terminal, `${error.message} Going on behind ${counted(received.count, 'line')}.`);
    }
    await terminal.pause(Math.min(PAUSE_MS_MAX, FIRST_PAUSE_MS * 2 ** fruitless));
  }
}

async function exportOnce(run: Run, end: number | null): Promise<void> {
  const { api, query, sink, received, progress } = run;
  const response = await api.stream('/audit/logs', { ...query, after: received.last }, NDJSON);
  const trailer = await receive(response, {
    received,
    write: async (lines) => {
      await sink.write(lines);
      const first = Number(received.first ?? 0);
      const reached = Number(received.last ?? 0) - first;
      // Positions are dense, so they tell how much is left; without an end there is but the count.
      if (end === null) progress.update(received.count, null);
      else progress.update(reached, end - first);
    },
  });
  await sink.write(Buffer.from(`${JSON.stringify({ trailer: whole(trailer, received) })}\n`));
}

/** The trailer of all connections: the last one's, counting the lines of every one. */
const whole = (trailer: Trailer, { count, first }: Received): Trailer => ({
  ...trailer,
  count,
  first_position: first,
});

/**
 * About where the log ends, for the progress bar: the position of its last commit. Null where nobody
 * watches, where the export ends earlier, or where this key does not see the last commit.
 */
async function estimateEnd({ api, terminal, query }: Run): Promise<number | null> {
  if (terminal.stderr.isTTY !== true || query['to'] !== null) return null;
  const { headers } = await api.get('/audit/logs', { limit: '1' });
  const { data } = await api.get('/audit/logs', { limit: '1', from: lastInstant(headers) });
  const [line] = data as readonly { position: string }[];
  return line === undefined ? null : Number(line.position);
}
