import { loadConfig } from '../config.ts';
import { type Api, openApi } from './api-client.ts';
import { type Command, EXIT, type Given, usageError } from './command.ts';
import { type Query, UnreachableError } from './connection.ts';
import { fromMicros, lastInstant, toMicros } from './instant.ts';
import { CALLER } from './settings.ts';
import { toLine } from './table.ts';
import { clean, print, say, type Terminal } from './terminal.ts';

type Subject = Readonly<{ type: string; id: string; name: string | null }>;
type Line = Readonly<{
  recorded_at: string;
  type: string;
  actor: Subject;
  resource: Subject;
  outcome: string;
}>;
type Page = Readonly<{ lines: readonly Line[]; next: string; hasMore: boolean }>;

const LIMIT_DEFAULT = 20;
const LIMIT_MAX = 10_000;
const PAGE_LINES_MIN = 1_000;
const POLL_MS = 1_000;
/** Polls in a row without an answer, after which the gateway is taken to be gone. */
const MISSED_MAX = 60;
const FIRST_LOOK_MICROS = 1_000_000n;
const LOOK_FACTOR = 4n;

export const auditTail: Command = {
  name: 'audit tail',
  summary: 'Print the latest audit lines, and with --follow those that come.',
  description: [
    'A line has time, action, actor, resource and outcome; with --json it is the whole line as JSON.',
    'With --follow it asks for more each second, until SIGINT ends it with exit status 0.',
  ],
  options: {
    follow: { help: 'Go on with the lines that come.' },
    action: { value: 'A', help: 'Only these event types: api_key.revoked, or api_key.* for all.' },
    limit: { value: 'N', help: `How many of the latest lines to begin with (${LIMIT_DEFAULT}).` },
    json: { help: 'Print a line of JSON for each.' },
  },
  environment: CALLER,
  run: runTail,
};

async function runTail(given: Given, terminal: Terminal): Promise<number> {
  const limit = given.text('limit') ?? String(LIMIT_DEFAULT);
  if (!/^\d{1,5}$/.test(limit) || Number(limit) > LIMIT_MAX) {
    throw usageError(`--limit takes 0 to ${LIMIT_MAX}`, auditTail.name);
  }
  const api = openApi(loadConfig(terminal.env), terminal);
  const show = async (lines: readonly Line[]) => {
    const text = lines.map(given.has('json') ? toJson : toRow).join('');
    if (text !== '') await print(terminal.stdout, text);
  };
  const latest = await readLatest(api, given.text('action'), Number(limit));
  await show(latest.lines);
  if (!given.has('follow')) return EXIT.done;
  try {
    await follow(api, latest, terminal, show);
  } catch (error) {
    // How following ends: the user has seen enough.
    if (!terminal.signal.aborted) throw error;
  }
  return EXIT.done;
}

type Latest = Readonly<{ lines: readonly Line[]; query: Query; next: string }>;

/**
 * The latest lines. The API reads forwards, so this looks back over ever longer stretches of time
 * until one has enough lines, or reaches the first line. It works for every filter and every key: a
 * narrowed one need not know where the log ends.
 */
async function readLatest(api: Api, action: string | null, limit: number): Promise<Latest> {
  const first = await api.get('/audit/logs', { action, limit: '1' });
  const firstAt = (first.data as readonly Line[])[0]?.recorded_at;
  const endAt = lastInstant(first.headers);
  const end = toMicros(endAt);
  // A cursor goes on with the filter that it was given for, so the start stays in the query.
  const queryFrom = (micros: bigint): Query => ({
    action,
    from: fromMicros(micros),
    limit: String(Math.min(LIMIT_MAX, Math.max(PAGE_LINES_MIN, limit))),
  });
  for (let stretch = FIRST_LOOK_MICROS; ; stretch *= LOOK_FACTOR) {
    const from = end - stretch;
    const query = queryFrom(from);
    const latest = await readTo(api, query, { endAt, limit });
    const isAll = firstAt === undefined || from <= toMicros(firstAt);
    if (latest.lines.length >= limit || isAll) return latest;
  }
}

/** Every page of a query up to the head at the start, of which the last lines are kept. */
async function readTo(
  api: Api,
  query: Query,
  { endAt, limit }: Readonly<{ endAt: string; limit: number }>,
): Promise<Latest> {
  let kept: readonly Line[] = [];
  let cursor: string | null = null;
  for (;;) {
    const page: Page = await readPage(api, query, cursor);
    const lines = [...kept, ...page.lines];
    kept = lines.slice(Math.max(0, lines.length - limit));
    // A log that grows faster than it is read would never be read to its end.
    const isPast = (page.lines.at(-1)?.recorded_at ?? '') > endAt;
    if (!page.hasMore || isPast) return { lines: kept, query, next: page.next };
    cursor = page.next;
  }
}

async function follow(
  api: Api,
  { query, next }: Latest,
  terminal: Terminal,
  show: (lines: readonly Line[]) => Promise<void>,
): Promise<never> {
  let cursor = next;
  let missed = 0;
  for (;;) {
    await terminal.pause(POLL_MS);
    try {
      let page: Page;
      do {
        page = await readPage(api, query, cursor);
        await show(page.lines);
        cursor = page.next;
      } while (page.hasMore);
      missed = 0;
    } catch (error) {
      missed += 1;
      if (!(error instanceof UnreachableError) || missed > MISSED_MAX) throw error;
      if (missed === 1) await say(terminal, `${error.message} Trying on.`);
    }
  }
}

async function readPage(api: Api, query: Query, cursor: string | null): Promise<Page> {
  const { data, headers } = await api.get('/audit/logs', { ...query, cursor });
  return {
    lines: data as readonly Line[],
    next: String(headers['x-next-cursor']),
    hasMore: headers['x-has-more'] === 'true',
  };
}

const toJson = (line: Line): string => `${JSON.stringify(line)}\n`;

const WIDTHS = [27, 26, 28, 28];
const toRow = (line: Line): string =>
  toLine(
    [
      line.recorded_at,
      line.type,
      toSubject(line.actor),
      toSubject(line.resource),
      line.outcome,
    ].map(clean),
    WIDTHS,
  );

const toSubject = ({ type, id, name }: Subject): string =>
  name === null ? `${type}:${id}` : `${type}:${id} (${name})`;
