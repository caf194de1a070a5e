import { loadConfig } from '../config.ts';
import type { EventLog, Position } from '../eventlog/eventlog.ts';
import { type Command, EXIT, type Given, unusable, usageError } from './command.ts';
import type { Joined, Opened } from './join.ts';
import { startProgress } from './progress.ts';
import { JOINER } from './settings.ts';
import { clean, print, type Terminal } from './terminal.ts';

export const replay: Command = {
  name: 'replay',
  summary: 'Print a read model as it was, folded from the log up to a position or a time.',
  description: [
    'JSON, one row a line, in an order that two replays share. It is folded in tables of its own that are',
    'gone afterwards: nothing that serves is touched, and a gateway may run meanwhile. What was erased',
    'since is not in it, and neither is what is no fact of the log, such as whether a file is still there.',
  ],
  options: {
    projection: {
      value: 'NAME',
      required: true,
      help: 'The read model; projections list names them.',
    },
    to: {
      value: 'POSITION|TIME',
      required: true,
      help: 'Up to this position, or what was recorded before: 2027-01-31T00:00:00Z.',
    },
  },
  environment: JOINER,
  exits: { 2: 'wrong use, or there is no such read model, position or time' },
  run: runReplay,
};

async function runReplay(given: Given, terminal: Terminal): Promise<number> {
  const config = loadConfig(terminal.env);
  const { withDatabase, withLog } = await import('./join.ts');
  return withDatabase(config, (database: Joined) =>
    withLog(database, (opened) => printState(opened, given, terminal)),
  );
}

async function printState(
  { pool, log }: Opened,
  given: Given,
  terminal: Terminal,
): Promise<number> {
  const projection = await findProjection(log, given.text('projection') ?? '');
  const until = await readPlace(log, given.text('to') ?? '');
  const { replayProjection } = await import('../projections/replay.ts');
  const { stdout, signal } = terminal;
  const progress = startProgress(terminal, 'Replaying');
  const { name, version } = projection;
  const begin = JSON.stringify({ projection: name, version, position: until.toString() });
  await print(stdout, `${begin.slice(0, -1)},"tables":{`);
  const printer = tablePrinter(stdout);
  const onProgress = (position: Position, end: Position) => {
    signal.throwIfAborted();
    progress.update(Number(position), Number(end));
  };
  const take = (table: string, rows: readonly string[]) => {
    progress.end();
    return printer.take(table, rows);
  };
  await replayProjection({ pool, log, onProgress, take }, projection, until).finally(progress.end);
  await printer.end();
  return EXIT.done;
}

/** Prints tables as members of an object, one row a line. */
function tablePrinter(stdout: Terminal['stdout']) {
  const at = { table: '', hasRows: false };
  const close = () => (at.table === '' ? '' : `${at.hasRows ? '\n' : ''}]`);
  return {
    async take(table: string, rows: readonly string[]) {
      if (table !== at.table) {
        await print(stdout, `${close()}${at.table === '' ? '' : ','}"${table}":[`);
        Object.assign(at, { table, hasRows: false });
      }
      for (const row of rows) {
        await print(stdout, `${at.hasRows ? ',' : ''}\n${row}`);
        at.hasRows = true;
      }
    },
    end: () => print(stdout, `${close()}}}\n`),
  };
}

async function findProjection(log: EventLog, name: string) {
  const { projectionsOf } = await import('../projections/list.ts');
  // One without tables keeps nothing: folding it would do its work, not show it.
  const known = projectionsOf(log).filter(({ tables }) => tables.length > 0);
  const found = known.find((projection) => projection.name === name);
  if (found !== undefined) return found;
  const names = known.map((projection) => projection.name).join(', ');
  throw usageError(`no read model with rows is called "${clean(name)}", but ${names}`, replay.name);
}

const INSTANT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$/;

async function readPlace(log: EventLog, text: string): Promise<Position> {
  const { position: head } = await log.head();
  if (/^\d{1,19}$/.test(text)) {
    const position = BigInt(text);
    if (position <= head) return position;
    throw unusable(`The log ends at position ${head}.`);
  }
  if (!INSTANT.test(text) || Number.isNaN(Date.parse(text))) {
    throw usageError('--to is a position, or a time as 2027-01-31T00:00:00Z', replay.name);
  }
  return log.positionBefore(text);
}
