import { loadConfig } from '../config.ts';
import type { CopyKind } from '../db/projection-copies.ts';
import type { Rebuilding } from '../projections/copy-fold.ts';
import type { Projection } from '../projections/projection.ts';
import type { Difference } from '../projections/rebuild-refused.ts';
import { CliError, type Command, EXIT, type Given, JSON_OPTION, usageError } from './command.ts';
import type { Joined, Opened } from './join.ts';
import { count, counted } from './numbers.ts';
import { startProgress } from './progress.ts';
import { JOINER } from './settings.ts';
import { table } from './table.ts';
import { clean, print, printJson, type Terminal } from './terminal.ts';

export const projectionsList: Command = {
  name: 'projections list',
  summary: 'List the read models and how far each has applied the log.',
  description: [
    'The position is the one last saved: one that moved over events of no interest to a read model is',
    'saved every 5,000 positions, or when the gateway stops. A rebuild that is under way, or was cut off, and',
    'the rows that served before the last one are shown with where they are.',
  ],
  options: JSON_OPTION,
  environment: JOINER,
  run: (given, terminal) => joined(terminal, (opened) => list(opened, given, terminal)),
};

export const projectionsRebuild: Command = {
  name: 'projections rebuild',
  summary: 'Fold the log into a read model anew, beside the rows that serve.',
  description: [
    'A gateway may run meanwhile. The new rows take the place of the old ones when they are as far and, of',
    'one version, alike; if they are not, nothing changes, and how many rows of which table differ is said.',
    'The old ones are kept for `projections rollback`. What is cut off goes on where it was.',
  ],
  parameters: ['NAME'],
  options: {
    force: { help: 'Put the new rows in place of the old ones even if they differ.' },
    ...JSON_OPTION,
  },
  environment: JOINER,
  exits: { 1: 'refused, or failed; standard error says why, and nothing has changed' },
  run: (given, terminal) => joined(terminal, (opened) => rebuild(opened, given, terminal)),
};

export const projectionsRollback: Command = {
  name: 'projections rollback',
  summary: 'Put the rows that served before the last rebuild back in place.',
  description: [
    'What has come since is folded into them first. Those that serve now are kept in turn, so that a second',
    'rollback undoes the first.',
  ],
  parameters: ['NAME'],
  options: JSON_OPTION,
  environment: JOINER,
  exits: { 1: 'refused, or failed; standard error says why, and nothing has changed' },
  run: (given, terminal) => joined(terminal, (opened) => rollBack(opened, given, terminal)),
};

export const projectionsClean: Command = {
  name: 'projections clean',
  summary: 'Drop what rebuilds of a read model have left: previous and unfinished rows.',
  description: ['A gateway does the same with what has been left for seven days.'],
  parameters: ['NAME'],
  options: JSON_OPTION,
  environment: JOINER,
  run: (given, terminal) => joined(terminal, (opened) => clear(opened, given, terminal)),
};

async function joined(
  terminal: Terminal,
  work: (opened: Opened) => Promise<number>,
): Promise<number> {
  const config = loadConfig(terminal.env);
  const { requireTable, withDatabase, withLog } = await import('./join.ts');
  return withDatabase(config, async (database: Joined) => {
    await requireTable(database.url, 'public.projection_copies');
    return withLog(database, work);
  });
}

async function list({ pool, log }: Opened, given: Given, { stdout }: Terminal): Promise<number> {
  const { listCheckpoints } = await import('../projections/checkpoint.ts');
  const { listCopies } = await import('../db/projection-copies.ts');
  const { projectionsOf } = await import('../projections/list.ts');
  const saved = new Map((await listCheckpoints(pool)).map((row) => [row.name, row]));
  const copies = await listCopies(pool);
  const { position: head } = await log.head();
  const rows = projectionsOf(log).map(({ name, version }) => {
    const { position = 0n, updatedAt = null } = saved.get(name) ?? {};
    const behind = head > position ? head - position : 0n;
    const copyOf = (kind: CopyKind) => {
      const copy = copies.find((one) => one.name === name && one.kind === kind);
      if (copy === undefined) return null;
      return { version: copy.version, position: String(copy.position), updated_at: copy.updatedAt };
    };
    return {
      name,
      version,
      position: position.toString(),
      behind: behind.toString(),
      updated_at: updatedAt,
      rebuild: copyOf('rebuild'),
      previous: copyOf('previous'),
    };
  });
  if (given.has('json')) {
    await printJson(stdout, rows);
    return EXIT.done;
  }
  const told = (copy: (typeof rows)[number]['rebuild']) =>
    copy === null ? '-' : `${copy.position} (version ${copy.version})`;
  const cells = rows.map((row) => [
    row.name,
    String(row.version),
    row.position,
    row.behind,
    row.updated_at ?? '-',
    told(row.rebuild),
    told(row.previous),
  ]);
  const heads = ['name', 'version', 'position', 'behind', 'saved', 'rebuild', 'previous'];
  await print(stdout, table(heads, cells));
  return EXIT.done;
}

async function rebuild(opened: Opened, given: Given, terminal: Terminal): Promise<number> {
  const { rebuildProjection } = await import('../projections/rebuild.ts');
  const projection = await find(opened, given, 'projections rebuild');
  const { name } = projection;
  const { position, differences } = await watched(opened, terminal, (d) =>
    rebuildProjection(d, projection, { force: given.has('force') }),
  );
  if (given.has('json')) {
    const differing = differences.map(({ table: of, onlyOld, onlyNew }) => ({
      table: of,
      only_old: onlyOld,
      only_new: onlyNew,
    }));
    await printJson(terminal.stdout, { name, position: position.toString(), differing });
    return EXIT.done;
  }
  const lines = [`${name} is rebuilt up to position ${count(Number(position))}.`];
  await print(terminal.stdout, `${[...lines, ...describe(differences)].join('\n')}\n`);
  return EXIT.done;
}

async function rollBack(opened: Opened, given: Given, terminal: Terminal): Promise<number> {
  const { rollBackProjection } = await import('../projections/rebuild.ts');
  const projection = await find(opened, given, 'projections rollback');
  const { name } = projection;
  const { position } = await watched(opened, terminal, (d) => rollBackProjection(d, projection));
  if (given.has('json')) await printJson(terminal.stdout, { name, position: position.toString() });
  else {
    const at = count(Number(position));
    await print(terminal.stdout, `${name} has its previous rows again, up to position ${at}.\n`);
  }
  return EXIT.done;
}

async function clear(opened: Opened, given: Given, terminal: Terminal): Promise<number> {
  const { dropCopies } = await import('../projections/rebuild.ts');
  const projection = await find(opened, given, 'projections clean');
  const { name } = projection;
  const dropped = await watched(opened, terminal, ({ pool }) => dropCopies(pool, projection));
  if (given.has('json')) await printJson(terminal.stdout, { name, dropped });
  else {
    const what = { rebuild: 'an unfinished rebuild', previous: 'the previous rows' };
    const told = dropped.map((kind) => what[kind]).join(' and ');
    await print(terminal.stdout, `${name}: ${told === '' ? 'nothing' : told} dropped.\n`);
  }
  return EXIT.done;
}

async function find({ log }: Opened, given: Given, command: string): Promise<Projection> {
  const { projectionsOf } = await import('../projections/list.ts');
  const [name = ''] = given.parameters;
  const projections = projectionsOf(log);
  const projection = projections.find((known) => known.name === name);
  if (projection !== undefined) return projection;
  const names = projections.map((known) => known.name).join(', ');
  throw usageError(`no read model is called "${clean(name)}", but ${names}`, command);
}

/** Shows how far it is, ends when the user interrupts, and says what was refused. */
async function watched<T>(
  opened: Opened,
  terminal: Terminal,
  work: (d: Rebuilding) => Promise<T>,
): Promise<T> {
  const { RebuildRefused } = await import('../projections/rebuild-refused.ts');
  const progress = startProgress(terminal, 'Rebuilding');
  const onProgress = (at: bigint, until: bigint) => {
    terminal.signal.throwIfAborted();
    progress.update(Number(at), Number(until));
  };
  try {
    return await work({ ...opened, onProgress });
  } catch (error) {
    if (!(error instanceof RebuildRefused)) throw error;
    const { message, differences } = error;
    const hint =
      differences.length === 0 ? [] : ['Nothing has changed; --force puts the new rows in place.'];
    throw new CliError([message, ...describe(differences), ...hint].join('\n'));
  } finally {
    progress.end();
  }
}

const describe = (differences: readonly Difference[]): string[] =>
  differences.map(
    ({ table: of, onlyOld, onlyNew }) =>
      `- ${of}: ${counted(onlyOld, 'row')} only in the old, ${counted(onlyNew, 'row')} only in the new`,
  );
