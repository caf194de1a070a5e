import { loadConfig } from '../config.ts';
import { type Command, EXIT, type Given, JSON_OPTION, usageError } from './command.ts';
import { JOINER } from './help.ts';
import type { Joined, Opened } from './join.ts';
import { count, startProgress } from './progress.ts';
import { table } from './table.ts';
import { clean, print, printJson, type Terminal } from './terminal.ts';

export const projectionsList: Command = {
  name: 'projections list',
  summary: 'List the read models and how far each has applied the log.',
  description: [
    'The position is the one last saved: one that moved over events of no interest to a read model is',
    'saved every 5,000 positions, or when the gateway stops.',
  ],
  options: JSON_OPTION,
  environment: JOINER,
  run: (given, terminal) => joined(terminal, (opened) => list(opened, given, terminal)),
};

export const projectionsRebuild: Command = {
  name: 'projections rebuild',
  summary: 'Empty a read model and fold the whole log into it anew.',
  description: [
    'Readers see the old rows until the new ones are whole. A gateway may run meanwhile; it goes on',
    'from where the rebuild ends.',
  ],
  parameters: ['NAME'],
  options: JSON_OPTION,
  environment: JOINER,
  run: (given, terminal) => joined(terminal, (opened) => rebuild(opened, given, terminal)),
};

async function joined(
  terminal: Terminal,
  work: (opened: Opened) => Promise<number>,
): Promise<number> {
  const config = loadConfig(terminal.env);
  const { withDatabase, withLog } = await import('./join.ts');
  return withDatabase(config, (database: Joined) => withLog(database, work));
}

async function list({ pool, log }: Opened, given: Given, { stdout }: Terminal): Promise<number> {
  const { readCheckpoints } = await import('./checkpoints.ts');
  const { projectionsOf } = await import('../projections/list.ts');
  const saved = new Map((await readCheckpoints(pool)).map((row) => [row.name, row]));
  const { position: head } = await log.head();
  const rows = projectionsOf(log).map(({ name, version }) => {
    const { position = 0n, updatedAt = null } = saved.get(name) ?? {};
    const behind = head > position ? head - position : 0n;
    return {
      name,
      version,
      position: position.toString(),
      behind: behind.toString(),
      updated_at: updatedAt,
    };
  });
  if (given.has('json')) {
    await printJson(stdout, rows);
    return EXIT.done;
  }
  const cells = rows.map((row) => [
    row.name,
    String(row.version),
    row.position,
    row.behind,
    row.updated_at ?? '-',
  ]);
  await print(stdout, table(['name', 'version', 'position', 'behind', 'saved'], cells));
  return EXIT.done;
}

async function rebuild({ pool, log }: Opened, given: Given, terminal: Terminal): Promise<number> {
  const { projectionsOf } = await import('../projections/list.ts');
  const { rebuildProjection } = await import('../projections/projector.ts');
  const [name = ''] = given.parameters;
  const projections = projectionsOf(log);
  const projection = projections.find((known) => known.name === name);
  if (projection === undefined) {
    const names = projections.map((known) => known.name).join(', ');
    throw usageError(
      `no read model is called "${clean(name)}", but ${names}`,
      'projections rebuild',
    );
  }
  const progress = startProgress(terminal, 'Rebuilding');
  const position = await rebuildProjection({ pool, log }, projection, (at, head) => {
    terminal.signal.throwIfAborted();
    progress.update(Number(at), Number(head));
  }).finally(() => progress.end());
  const told = { name, position: position.toString() };
  if (given.has('json')) await printJson(terminal.stdout, told);
  else {
    await print(terminal.stdout, `${name} is rebuilt up to position ${count(Number(position))}.\n`);
  }
  return EXIT.done;
}
