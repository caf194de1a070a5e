import { mkdir, readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type pg from 'pg';
import { loadConfig } from '../config.ts';
import type { Schema } from '../db/table-copies.ts';
import {
  FORMAT,
  type Manifest,
  type TableFile,
  writeManifest,
  writePacked,
} from './backup-files.ts';
import { openSpoolCopy, type SpoolCopy } from './backup-spool.ts';
import { CliError, type Command, EXIT, type Given, JSON_OPTION } from './command.ts';
import { JOINER } from './help.ts';
import type { Joined } from './join.ts';
import { count, counted, startProgress } from './progress.ts';
import { dataDirOf } from './server-of.ts';
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
    'Mail that Postfix holds is in Postfix’s queue, and not in here.',
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
  return EXIT.done;
}

async function makeEmpty(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  if ((await readdir(dir)).length > 0) {
    throw new CliError(
      `${dir} is not empty; a backup takes a directory of its own.`,
      EXIT.unusable,
    );
  }
  await mkdir(join(dir, 'tables'), { mode: 0o700 });
}

type Work = Readonly<{ joined: Joined; dir: string; spoolDir: string; terminal: Terminal }>;

/** What a backup in the making works with. */
type Run = Readonly<{
  dir: string;
  spool: SpoolCopy | null;
  terminal: Terminal;
  onRows: (rows: number) => void;
}>;

async function writeBackup({ joined, dir, spoolDir, terminal }: Work): Promise<Manifest> {
  const progress = startProgress(terminal, 'Copying rows');
  let rows = 0;
  const onRows = (more: number) => {
    terminal.signal.throwIfAborted();
    rows += more;
    progress.update(rows, null);
  };
  const run: Run = { dir, spool: await openSpoolCopy(spoolDir, dir), terminal, onRows };
  // What is held when the database is looked at was in the spool before, or comes in the second pass; a file never
  // changes. So both passes together have all of them, but for what is decided in the moment between.
  await run.spool?.pass();
  try {
    const { log, rest } = await copyDatabases(joined, run);
    const manifest: Manifest = {
      format: FORMAT,
      product: productVersion(),
      made_at: new Date().toISOString(),
      ...{ log: log.state, ...rest, tables: [...log.tables, ...rest.tables] },
      spool: (await run.spool?.end()) ?? null,
    };
    await writeManifest(dir, manifest);
    return manifest;
  } finally {
    progress.end();
  }
}

/**
 * Log and read models at one moment. Where they are in two databases the log comes first: whoever is in it has credentials
 * in what is looked at later, and read models that are ahead of it are folded anew at the next start.
 */
async function copyDatabases({ url, logUrl }: Joined, run: Run) {
  const isOne = url === logUrl;
  const { log, rest } = await inSnapshot(logUrl, async (db) => {
    if (isOne) await run.spool?.pass();
    return { log: await copyLog(db, run), rest: isOne ? await copyRest(db, run) : null };
  });
  if (rest !== null) return { log, rest };
  const other = await inSnapshot(url, async (db) => {
    await run.spool?.pass();
    return copyRest(db, run);
  });
  return { log, rest: other };
}

async function copyLog(db: pg.Client, run: Run) {
  const { readLogState } = await import('../db/table-copies.ts');
  return { state: await readLogState(db), tables: await copySchema(db, 'eventlog', run) };
}

async function copyRest(db: pg.Client, run: Run) {
  const { listMigrations, listSequences, readFingerprint } = await import('../db/table-copies.ts');
  await tellMissing(db, run);
  return {
    migrations: [...(await listMigrations(db))],
    key_fingerprint: await readFingerprint(db),
    tables: await copySchema(db, 'public', run),
    sequences: [...(await listSequences(db))],
  };
}

/** Says how many messages were decided while the backup ran, so that it lists them without their bytes. */
async function tellMissing(db: pg.Client, { spool, terminal }: Run): Promise<void> {
  if (spool === null) return;
  const { listSpooled } = await import('../db/table-copies.ts');
  let missing = 0;
  for await (const ids of listSpooled(db)) {
    for (const id of ids) if (!(await spool.has(id))) missing += 1;
  }
  if (missing === 0) return;
  const noun = counted(missing, 'message');
  await say(
    terminal,
    `${noun}: held in the database, but not in the spool (decided meanwhile, or lost).`,
  );
}

async function copySchema(db: pg.Client, schema: Schema, run: Run): Promise<TableFile[]> {
  const { copyOut, listTables } = await import('../db/table-copies.ts');
  const files: TableFile[] = [];
  for (const table of await listTables(db, schema)) {
    const file = `tables/${schema}.${table.name}.copy.gz`;
    const measured = await writePacked(copyOut(db, table), join(run.dir, file));
    files.push({
      schema,
      name: table.name,
      columns: [...table.columns],
      partitions: [...table.partitions],
      file,
      ...measured,
    });
    run.onRows(measured.rows);
  }
  return files;
}

/** Everything that `work` reads is as it was at one moment, and nothing can be changed. */
async function inSnapshot<T>(url: string, work: (db: pg.Client) => Promise<T>): Promise<T> {
  const { openClient } = await import('../db/pool.ts');
  const db = openClient({ url, role: null, statementTimeoutMs: 0 });
  await db.connect();
  try {
    await db.query('begin isolation level repeatable read read only');
    // The first statement is what takes the snapshot.
    await db.query('select 1');
    return await work(db);
  } finally {
    await db.end();
  }
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
  `${dir}: the log up to position ${manifest.log.head}, ${counted(rowsOf(manifest), 'row')} of ` +
  `${count(manifest.tables.length)} tables, ${counted(manifest.spool?.messages ?? 0, 'held message')}.\n`;
