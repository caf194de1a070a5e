import { join, resolve } from 'node:path';
import type pg from 'pg';
import { type Config, loadConfig } from '../config.ts';
import type { Database } from '../db/open.ts';
import { type Manifest, readManifest, readPacked } from './backup-files.ts';
import { restoreSpool, verifySpool } from './backup-spool.ts';
import { CliError, type Command, EXIT, type Given, JSON_OPTION } from './command.ts';
import { JOINER } from './help.ts';
import { counted, startProgress } from './progress.ts';
import { dataDirOf, readSecretFile } from './server-of.ts';
import { print, printJson, say, type Terminal } from './terminal.ts';

export const restore: Command = {
  name: 'restore',
  summary: 'Put a backup into an installation that holds nothing yet.',
  description: [
    'The master key of the backup must be there first: as MAILGUARD_MASTER_KEY, or as the file master-key (0600)',
    'in the data directory. The whole backup is checked before anything is written. The database is filled in one',
    'transaction: what is cut can be run again. No gateway may run on it meanwhile.',
    'The log begins a new epoch: cursors of before are refused (cursor_log_mismatch), since what was recorded',
    'after the backup is gone, and its positions will be given out again; readers go on with after=. Webhooks may',
    'be sent again what they had. What was erased after the backup was made is back, and must be erased again.',
  ],
  parameters: ['DIR'],
  options: JSON_OPTION,
  environment: [...JOINER, 'MAILGUARD_MASTER_KEY'],
  exits: {
    1: 'the backup is damaged, or could not be restored: the database holds nothing of it',
    2: 'wrong use: no backup, another master key, or an installation that is in use or not empty',
  },
  run: runRestore,
};

async function runRestore(given: Given, terminal: Terminal): Promise<number> {
  const config = loadConfig(terminal.env);
  const dir = resolve(given.parameters[0] ?? '');
  const manifest = await readManifest(dir);
  await requireMasterKey(config, manifest);
  await verify(dir, manifest, terminal);
  const epoch = await restoreAll({ config, dir, manifest, terminal });
  const { head } = manifest.log;
  const messages = manifest.spool?.messages ?? 0;
  if (given.has('json')) await printJson(terminal.stdout, { head, epoch, messages });
  else {
    const text = `Restored: the log up to position ${head}, ${counted(messages, 'held message')}.\n`;
    await print(terminal.stdout, text);
  }
  await say(
    terminal,
    `The log is in epoch ${epoch}; what was erased after ${manifest.made_at} is back.`,
  );
  return EXIT.done;
}

/** Verifiers, cursors and sealed secrets are worth nothing under another key. */
async function requireMasterKey(config: Config, manifest: Manifest): Promise<void> {
  const { deriveSecrets } = await import('../secrets.ts');
  const text = () => readSecretFile(config, 'master-key', 'MAILGUARD_MASTER_KEY');
  const key = config.masterKey ?? Buffer.from(text(), 'hex');
  const isOurs = key.length === 32 && deriveSecrets(key).fingerprint.toString('hex');
  if (manifest.key_fingerprint === null || isOurs === manifest.key_fingerprint) return;
  throw new CliError('The master key is not the one of this backup.', EXIT.unusable);
}

async function verify(dir: string, manifest: Manifest, terminal: Terminal): Promise<void> {
  const progress = startProgress(terminal, 'Checking rows');
  let done = 0;
  try {
    for (const table of manifest.tables) {
      terminal.signal.throwIfAborted();
      const { file, rows, sha256 } = table;
      const found = await readPacked(join(dir, file), null).catch(() => null);
      if (found?.sha256 !== sha256 || found.rows !== rows) {
        throw new CliError(`The backup is damaged: ${file}.`);
      }
      done += rows;
      progress.update(done, null);
    }
    await verifySpool(dir, manifest.spool);
  } finally {
    progress.end();
  }
}

type Work = Readonly<{ config: Config; dir: string; manifest: Manifest; terminal: Terminal }>;

/** Mail first, whose files nobody asks for until the database names them; the log's commit is the end. */
async function restoreAll(work: Work): Promise<number> {
  const { config, dir, manifest } = work;
  const dataDir = dataDirOf(config);
  const database = await openEmpty(config, dataDir);
  try {
    const logUrl = config.eventlogUrl ?? database.url;
    if (logUrl !== database.url) {
      const { migrate } = await import('../db/migrate.ts');
      await migrate(logUrl);
    }
    await requireEmpty(database.url, logUrl, manifest);
    if (manifest.spool !== null) {
      await restoreSpool(dir, join(dataDir, 'spool'), () => work.terminal.signal.throwIfAborted());
    }
    const isOne = logUrl === database.url;
    if (!isOne) await inTransaction(database.url, (db) => fillRest(db, work));
    return await inTransaction(logUrl, async (db) => {
      if (isOne) await fillRest(db, work);
      return fillLog(db, work);
    });
  } finally {
    await database.close();
  }
}

/** The database of the settings with the lock of `serve`, migrated; it is made where there is none. */
async function openEmpty(config: Config, dataDir: string): Promise<Database> {
  const [{ AlreadyRunningError, openDatabase }, { prepareDataDir }, { createLogger }] =
    await Promise.all([import('../db/open.ts'), import('../data-dir.ts'), import('../logger.ts')]);
  await prepareDataDir(config);
  const logger = createLogger('silent');
  const onUsurped = () => undefined;
  try {
    return await openDatabase({ url: config.databaseUrl, dataDir, logger, onUsurped });
  } catch (error) {
    const isTaken = error instanceof AlreadyRunningError;
    const why = error instanceof Error ? error.message : String(error);
    throw new CliError(isTaken ? why : `The database cannot be used. ${why}`, EXIT.unusable);
  }
}

async function requireEmpty(url: string, logUrl: string, { migrations }: Manifest): Promise<void> {
  const { listMigrations, readLogState } = await import('../db/table-copies.ts');
  const head = await inTransaction(logUrl, async (db) => (await readLogState(db)).head);
  if (head !== '0') {
    throw new CliError(
      `This installation is not empty: its log has ${head} events.`,
      EXIT.unusable,
    );
  }
  const ours = await inTransaction(url, listMigrations);
  if (ours.join() === migrations.join()) return;
  throw new CliError(
    `The backup has the migrations up to ${migrations.at(-1)}, this program those up to ${ours.at(-1)}: restore it ` +
      'with the version that made it, and upgrade then.',
    EXIT.unusable,
  );
}

async function fillRest(db: pg.Client, work: Work): Promise<void> {
  const { setSequence } = await import('../db/table-copies.ts');
  await fillSchema(db, 'public', work);
  for (const sequence of work.manifest.sequences) await setSequence(db, sequence);
}

async function fillLog(db: pg.Client, work: Work): Promise<number> {
  const { beginEpoch } = await import('../db/table-copies.ts');
  await fillSchema(db, 'eventlog', work);
  return beginEpoch(db);
}

async function fillSchema(db: pg.Client, schema: string, work: Work): Promise<void> {
  const { copyIn, prepareTable } = await import('../db/table-copies.ts');
  const { dir, manifest, terminal } = work;
  const progress = startProgress(terminal, 'Restoring rows');
  const tables = manifest.tables.filter((table) => table.schema === schema);
  let done = 0;
  try {
    // What refers to others stands behind them, and is emptied before them.
    for (const table of tables.toReversed()) await prepareTable(db, table);
    for (const table of tables) {
      terminal.signal.throwIfAborted();
      const { rows, sha256 } = await readPacked(join(dir, table.file), copyIn(db, table));
      if (sha256 !== table.sha256) throw new CliError(`${table.file} has changed meanwhile.`);
      done += rows;
      progress.update(done, null);
    }
  } finally {
    progress.end();
  }
}

async function inTransaction<T>(url: string, work: (db: pg.Client) => Promise<T>): Promise<T> {
  const { openClient } = await import('../db/pool.ts');
  const db = openClient({ url, role: null, statementTimeoutMs: 0 });
  await db.connect();
  try {
    await db.query('begin');
    const result = await work(db);
    await db.query('commit');
    return result;
  } finally {
    // Without a commit the end of the session takes everything back.
    await db.end();
  }
}
