import { chmod, mkdir, readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { loadConfig } from '../config.ts';
import type { Snapshot } from '../db/copy-session.ts';
import { makeDirectory } from '../make-directory.ts';
import {
  FORMAT,
  type Manifest,
  type TableFile,
  type Watch,
  writeManifest,
  writePacked,
} from './backup-files.ts';
import { openSpoolCopy, type SpoolCopy } from './backup-spool.ts';
import { CliError, type Command, EXIT, type Given, JSON_OPTION, unusable } from './command.ts';
import { dataDirOf } from './data-dir.ts';
import type { Joined } from './join.ts';
import { count, counted } from './numbers.ts';
import { startProgress } from './progress.ts';
import { JOINER } from './settings.ts';
import { print, printJson, say, type Terminal } from './terminal.ts';
import { productVersion } from './version.ts';

export const backup: Command = {
  name: 'backup',
  summary: 'Copy the database and the mail that is held into an empty directory.',
  description: [
    'A gateway may run meanwhile, and notices nothing: the log and the read models are copied as they were at',
    'one moment. DIR/manifest.json comes last; a directory without one is no backup. What is personal, and what',
    'is sealed, is in it as it is in the database: guard it like the database.',
    'The master key is not in it, and without that key a backup is worth nothing: keep a copy of it elsewhere.',
    'Mail that Postfix holds is in Postfix’s queue, and not in here. While a backup runs, no rebuild of a read model',
    'can put its rows in place: it says so, and is run again.',
  ],
  parameters: ['DIR'],
  options: JSON_OPTION,
  environment: JOINER,
  exits: { 1: 'no backup; what there is of it can be deleted' },
  run: runBackup,
};

async function runBackup(given: Given, terminal: Terminal): Promise<number> {
  const config = loadConfig(terminal.env);
  const dir = resolve(given.parameters[0] ?? '');
  const { withDatabase } = await import('./join.ts');
  const dataDir = dataDirOf(config);
  const manifest = await withDatabase(config, async (joined) => {
    await makeEmpty(dir);
    return writeBackup({ joined, dir, spoolDir: join(dataDir, 'spool'), terminal });
  });
  if (given.has('json')) await printJson(terminal.stdout, { dir, ...summaryOf(manifest) });
  else await print(terminal.stdout, describe(dir, manifest));
  const where =
    config.masterKey === null
      ? `in ${join(dataDir, 'master-key')}`
      : 'the one of MAILGUARD_MASTER_KEY';
  await say(terminal, `The master key, ${where}, is not in it: keep a copy of it elsewhere.`);
  if (config.postfix !== null) {
    await say(terminal, 'Mail that Postfix holds is in its own queue, and not in this backup.');
  }
  return EXIT.done;
}

async function makeEmpty(dir: string): Promise<void> {
  const refused = (why: string) => unusable(`${dir} ${why}`);
  try {
    await makeDirectory(dir, 0o700);
    if ((await readdir(dir)).length > 0) {
      throw refused('is not empty; a backup takes a directory of its own.');
    }
    await chmod(dir, 0o700);
    await mkdir(join(dir, 'tables'), { mode: 0o700 });
  } catch (error) {
    throw 'syscall' in (error as Error)
      ? refused(`cannot be used: ${(error as Error).message}.`)
      : error;
  }
}

type Work = Readonly<{ joined: Joined; dir: string; spoolDir: string; terminal: Terminal }>;

/** What a backup in the making works with. */
type Run = Readonly<{ dir: string; spool: SpoolCopy | null; terminal: Terminal; watch: Watch }>;

async function writeBackup({ joined, dir, spoolDir, terminal }: Work): Promise<Manifest> {
  const progress = startProgress(terminal, 'Copying rows');
  const { signal } = terminal;
  let rows = 0;
  const onRows = (more: number) => {
    rows += more;
    progress.update(rows, null);
  };
  const spool = await openSpoolCopy(spoolDir, dir, signal);
  const run: Run = { dir, spool, terminal, watch: { signal, onRows } };
  // What is held when the database is looked at was in the spool before, or comes in the second pass; a file never
  // changes. So both passes together have all of them, but for what is decided in the moment between.
  await spool?.pass();
  try {
    const copied = await copyDatabases(joined, run);
    const manifest: Manifest = {
      format: FORMAT,
      product: productVersion(),
      made_at: new Date().toISOString(),
      ...copied,
      spool: (await spool?.end()) ?? null,
    };
    await writeManifest(dir, manifest);
    return manifest;
  } finally {
    progress.end();
  }
}

/**
 * Log and read models at one moment. Where they are in two databases the log is seen first, and the other at once after
 * it: whoever is in the log has credentials, and what is ahead of it is taken back by the restore and the next start.
 */
async function copyDatabases({ url, logUrl }: Joined, run: Run) {
  const { inSnapshot } = await import('../db/copy-session.ts');
  return inSnapshot(logUrl, (log) =>
    url === logUrl
      ? copySnapshots({ log, rest: log }, run)
      : inSnapshot(url, (rest) => copySnapshots({ log, rest }, run)),
  );
}

async function copySnapshots(
  { log, rest }: Readonly<{ log: Snapshot; rest: Snapshot }>,
  run: Run,
): Promise<Omit<Manifest, 'format' | 'product' | 'made_at' | 'spool'>> {
  const [
    { readLogState },
    { listAppliedMigrations },
    { listSequences },
    { readFingerprint },
    { readServerVersion },
  ] = await Promise.all([
    import('../db/log-state.ts'),
    import('../db/migrate.ts'),
    import('../db/sequences.ts'),
    import('../db/installation.ts'),
    import('../db/copy-session.ts'),
  ]);
  await run.spool?.pass();
  await tellMissing(rest, run);
  const migrations = await listAppliedMigrations(rest.db);
  if ((await listAppliedMigrations(log.db)).join() !== migrations.join()) {
    throw new CliError('Log and read models are of two releases: start the gateway once.');
  }
  return {
    postgres: await readServerVersion(rest.db),
    migrations: [...migrations],
    log: await readLogState(log.db),
    key_fingerprint: await readFingerprint(rest.db),
    tables: [
      ...(await copySchema(log, 'eventlog', run)),
      ...(await copySchema(rest, 'public', run)),
    ],
    sequences: [...(await listSequences(rest.db))],
  };
}

/**
 * Says how many messages were decided while the backup ran, so that it lists them without their bytes. Where there is no
 * spool for any of them, another data directory was named than the gateway's, and all of its mail would be left out.
 */
async function tellMissing({ db }: Snapshot, { spool, terminal }: Run): Promise<void> {
  const { listSpooled } = await import('../projections/quarantine-work.ts');
  let missing = 0;
  for await (const ids of listSpooled(db)) {
    for (const id of ids) if ((await spool?.has(id)) !== true) missing += 1;
  }
  if (missing === 0) return;
  const held = `${counted(missing, 'message')}: held in the database, but not in the spool`;
  if (spool !== null) return say(terminal, `${held} (decided meanwhile, or lost).`);
  throw unusable(`${held}. Set MAILGUARD_DATA_DIR to the data directory of the gateway.`);
}

async function copySchema(
  { db, tables }: Snapshot,
  schema: TableFile['schema'],
  { dir, watch }: Run,
): Promise<TableFile[]> {
  const { copyOut } = await import('../db/table-copies.ts');
  const files: TableFile[] = [];
  for (const table of tables) {
    if (table.schema !== schema) continue;
    const file = `tables/${schema}.${table.name}.copy.gz`;
    const measured = await writePacked(copyOut(db, table), join(dir, file), watch);
    const [columns, partitions] = [[...table.columns], [...table.partitions]];
    files.push({ schema, name: table.name, columns, partitions, file, ...measured });
  }
  return files;
}

const rowsOf = ({ tables }: Manifest): number => tables.reduce((sum, { rows }) => sum + rows, 0);

const summaryOf = (manifest: Manifest) => ({
  head: manifest.log.head,
  log_id: manifest.log.log_id,
  epoch: manifest.log.epoch,
  tables: manifest.tables.length,
  rows: rowsOf(manifest),
  messages: manifest.spool?.messages ?? 0,
  message_bytes: manifest.spool?.bytes ?? 0,
});

const describe = (dir: string, manifest: Manifest): string =>
  `${dir}: the log up to position ${manifest.log.head} (epoch ${manifest.log.epoch}), ${counted(rowsOf(manifest), 'row')} of ` +
  `${count(manifest.tables.length)} tables, ${counted(manifest.spool?.messages ?? 0, 'held message')}.\n`;
