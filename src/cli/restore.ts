import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type pg from 'pg';
import { type Config, loadConfig } from '../config.ts';
import { ConfigError } from '../config-error.ts';
import type { Database } from '../db/open.ts';
import { type Manifest, readManifest, readPacked, type TableFile } from './backup-files.ts';
import { restoreSpool, verifySpool } from './backup-spool.ts';
import {
  CliError,
  type Command,
  EXIT,
  type Given,
  JSON_OPTION,
  messageOf,
  unusable,
} from './command.ts';
import { dataDirOf } from './data-dir.ts';
import { counted } from './numbers.ts';
import { startProgress } from './progress.ts';
import { JOINER } from './settings.ts';
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
  const { log, made_at: madeAt, spool } = manifest;
  await requireMasterKey(config, manifest);
  await requireOurs(manifest);
  await verify(dir, manifest, terminal);
  const epoch = await restoreAll({ config, dir, manifest, terminal });
  const { head } = log;
  const messages = spool?.messages ?? 0;
  if (given.has('json')) await printJson(terminal.stdout, { head, epoch, messages });
  else {
    const text = `Restored: the log up to position ${head}, ${counted(messages, 'held message')}.\n`;
    await print(terminal.stdout, text);
  }
  await say(
    terminal,
    `The log is in epoch ${epoch}: cursors of before are refused; a SIEM starts anew, with after= and the\n` +
      'last position it has. Webhooks may be sent again what they had, under the same webhook-id.\n' +
      `What was erased after ${madeAt} is back, and must be erased again.`,
  );
  return EXIT.done;
}

/** Verifiers, cursors and sealed secrets are worth nothing under another key, so none is made here. */
async function requireMasterKey(config: Config, { key_fingerprint }: Manifest): Promise<void> {
  if (key_fingerprint === null) return;
  const { deriveSecrets } = await import('../secrets.ts');
  const file = join(dataDirOf(config), 'master-key');
  const key = config.masterKey ?? Buffer.from(await readKey(file), 'hex');
  const found = key.length === 32 ? deriveSecrets(key).fingerprint.toString('hex') : null;
  if (found === key_fingerprint) return;
  throw unusable(
    `The master key (${config.masterKey === null ? file : 'MAILGUARD_MASTER_KEY'}) is not the one of this backup.`,
  );
}

const readKey = (file: string): Promise<string> =>
  readFile(file, 'utf8').then(
    (text) => text.trim(),
    () => {
      throw unusable(
        `There is no ${file} that can be read: put the master key of this backup there first, or set ` +
          'MAILGUARD_MASTER_KEY to it.',
      );
    },
  );

/** What an older release made is filled in as it was, and brought to this release's schema then. */
async function requireOurs({ migrations, product }: Manifest): Promise<void> {
  const { listOwnMigrations } = await import('../db/migrate.ts');
  const ours = await listOwnMigrations();
  if (migrations.every((name, n) => ours[n] === name)) return;
  throw unusable(
    `The backup has the migrations up to ${migrations.at(-1)}, this program those up to ${ours.at(-1)}: restore ` +
      `it with the release that made it, ${product}, or a later one.`,
  );
}

async function verify(dir: string, manifest: Manifest, terminal: Terminal): Promise<void> {
  const { progress, onRows } = startCount(terminal, 'Checking rows', manifest.tables);
  const { signal } = terminal;
  try {
    for (const table of manifest.tables) {
      const { file, rows, sha256 } = table;
      const found = await readPacked(join(dir, file), null, { signal, onRows }).catch(() => null);
      signal.throwIfAborted();
      if (found?.sha256 !== sha256 || found.rows !== rows) {
        throw new CliError(`The backup is damaged: ${file}.`);
      }
    }
    await verifySpool(dir, manifest.spool);
  } finally {
    progress.end();
  }
}

function startCount(terminal: Terminal, what: string, tables: readonly TableFile[]) {
  const progress = startProgress(terminal, what);
  const total = tables.reduce((sum, { rows }) => sum + rows, 0);
  let done = 0;
  const onRows = (more: number) => {
    done += more;
    progress.update(done, total);
  };
  return { progress, onRows };
}

type Work = Readonly<{ config: Config; dir: string; manifest: Manifest; terminal: Terminal }>;

/** Mail first, whose files nobody asks for until the database names them; the log's commit is the end. */
async function restoreAll(work: Work): Promise<number> {
  const { config, dir, manifest, terminal } = work;
  const [{ migrate }, { inOwnTransaction }, { forgetHome }] = await Promise.all([
    import('../db/migrate.ts'),
    import('../db/copy-session.ts'),
    import('../db/log-state.ts'),
  ]);
  const dataDir = dataDirOf(config);
  const database = await openEmpty(work, dataDir);
  const { url } = database;
  const logUrl = config.eventlogUrl ?? url;
  const isOne = logUrl === url;
  try {
    if (!isOne) await migrate(logUrl, manifest.migrations.length);
    if (manifest.spool !== null) {
      await restoreSpool(dir, join(dataDir, 'spool'), () => terminal.signal.throwIfAborted());
    }
    if (!isOne) await inOwnTransaction(url, (db) => fillRest(db, work));
    const epoch = await inOwnTransaction(logUrl, async (db) => {
      if (isOne) await fillRest(db, work);
      return fillLog(db, work);
    });
    await migrate(url);
    if (!isOne) await migrate(logUrl);
    await inOwnTransaction(logUrl, forgetHome);
    return epoch;
  } finally {
    await database.close();
  }
}

/** The empty database of the settings, as the backup's release made it, with the lock of `serve`. */
async function openEmpty({ config, manifest }: Work, dataDir: string): Promise<Database> {
  const [{ AlreadyRunningError, openDatabase }, { prepareDataDir }, { createLogger }] =
    await Promise.all([import('../db/open.ts'), import('../data-dir.ts'), import('../logger.ts')]);
  await prepareDataDir(config);
  const logger = createLogger('silent');
  const onUsurped = () => undefined;
  // Looked at before any migration: a database that was named by mistake stays as it is.
  const beforeMigrating = async (url: string) => {
    for (const one of new Set([url, config.eventlogUrl ?? url])) await requireEmpty(one, manifest);
  };
  const migrations = manifest.migrations.length;
  const options = { url: config.databaseUrl, dataDir, logger, onUsurped };
  try {
    return await openDatabase({ ...options, beforeMigrating, migrations });
  } catch (error) {
    if (error instanceof CliError || error instanceof ConfigError) throw error;
    const isTaken = error instanceof AlreadyRunningError;
    const why = messageOf(error);
    throw unusable(isTaken ? why : `The database cannot be used: ${why}`);
  }
}

async function requireEmpty(url: string, { migrations }: Manifest): Promise<void> {
  const [{ readLogState }, { isThere }, { listAppliedMigrations }, { inOwnTransaction }] =
    await Promise.all([
      import('../db/log-state.ts'),
      import('../db/relations.ts'),
      import('../db/migrate.ts'),
      import('../db/copy-session.ts'),
    ]);
  await inOwnTransaction(url, async (db) => {
    const isMade = await isThere(db, { schema: 'eventlog', name: 'events' });
    const head = isMade ? (await readLogState(db)).head : '0';
    if (head !== '0') {
      throw unusable(`This installation is not empty: its log has ${head} events.`);
    }
    const found = await listAppliedMigrations(db);
    if (found.every((name, n) => migrations[n] === name)) return;
    throw unusable(
      `This database is of a later release than the backup (${found.at(-1)}): name a new one.`,
    );
  });
}

async function fillRest(db: pg.Client, work: Work): Promise<void> {
  const { setSequence } = await import('../db/sequences.ts');
  const { takeWebhooksBack } = await import('../db/webhook-rewind.ts');
  await fillSchema(db, 'public', work);
  for (const sequence of work.manifest.sequences) await setSequence(db, sequence);
  await takeWebhooksBack(db, work.manifest.log.head);
}

async function fillLog(db: pg.Client, work: Work): Promise<number> {
  const { beginEpoch, readLogState } = await import('../db/log-state.ts');
  await fillSchema(db, 'eventlog', work);
  const { head } = await readLogState(db);
  if (head !== work.manifest.log.head) throw new CliError(`The log ends at ${head}.`);
  return beginEpoch(db);
}

async function fillSchema(db: pg.Client, schema: string, work: Work): Promise<void> {
  const { analyze, copyIn, prepareTable } = await import('../db/table-copies.ts');
  const { dir, terminal } = work;
  const tables = await ownTables(db, schema, work);
  const { progress, onRows } = startCount(terminal, 'Restoring rows', tables);
  const { signal } = terminal;
  try {
    // What refers to others stands behind them, and is emptied before them.
    for (const table of tables.toReversed()) await prepareTable(db, table);
    for (const table of tables) {
      const found = await readPacked(join(dir, table.file), copyIn(db, table), { signal, onRows });
      if (found.sha256 !== table.sha256) {
        throw new CliError(`${table.file} has changed meanwhile.`);
      }
      await analyze(db, table);
    }
  } finally {
    progress.end();
  }
}

/** A table that these migrations do not make was somebody else's, in our schema; it is named, and left out. */
async function ownTables(
  db: pg.Client,
  schema: string,
  { manifest, terminal }: Work,
): Promise<readonly TableFile[]> {
  const { isThere } = await import('../db/relations.ts');
  const own: TableFile[] = [];
  for (const table of manifest.tables) {
    if (table.schema !== schema) continue;
    if (await isThere(db, table)) own.push(table);
    else await say(terminal, `${table.name}: no table of this program, left out.`);
  }
  return own;
}
