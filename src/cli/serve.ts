import { join, resolve } from 'node:path';
import { loadConfig } from '../config.ts';
import { removeServerFile, writeServerFile } from '../server-file.ts';
import { CliError, type Command, EXIT, messageOf, unusable } from './command.ts';
import { dataDirOf } from './data-dir.ts';
import { print, type Terminal } from './terminal.ts';

/** Runs the gateway until a signal ends it. Standard output is JSON lines, the ready line among them. */
export const serve: Command = {
  name: 'serve',
  summary: 'Run the gateway until SIGTERM or SIGINT.',
  description: [
    'Without MAILGUARD_DATABASE_URL a PostgreSQL of its own is started in the data directory.',
    'Standard output is JSON lines; the one with "msg":"ready" gives url, pid and data_dir.',
    'Only one gateway runs on a database; a second one is refused with exit status 2.',
  ],
  options: {},
  environment: [
    'MAILGUARD_HOST',
    'MAILGUARD_PORT',
    'MAILGUARD_TLS_CERT',
    'MAILGUARD_TLS_KEY',
    'MAILGUARD_TRUSTED_PROXIES',
    'MAILGUARD_DATA_DIR',
    'MAILGUARD_MASTER_KEY',
    'MAILGUARD_DATABASE_URL',
    'MAILGUARD_EVENTLOG_URL',
    'MAILGUARD_BOOTSTRAP_KEY',
    'MAILGUARD_NODE_ID',
    'MAILGUARD_PUBLIC_URL',
    'MAILGUARD_QUARANTINE_STORE',
    'MAILGUARD_INGEST_PASSWORD',
    'MAILGUARD_MESSAGE_BYTES_MAX',
    'MAILGUARD_SPOOL_BYTES_MAX',
    'MAILGUARD_SMTP_RELAY',
    'MAILGUARD_RSPAMD_URL',
    'MAILGUARD_RSPAMD_PASSWORD',
    'MAILGUARD_WEBHOOK_ALLOW_CIDRS',
    'MAILGUARD_WEBHOOK_ALLOW_HTTP',
    'MAILGUARD_LOG_LEVEL',
  ],
  exits: { 0: 'stopped by a signal', 2: 'the settings are refused, or another gateway runs' },
  run: (_given, terminal) => runGateway(terminal),
};

async function runGateway(terminal: Terminal): Promise<number> {
  const startedAt = performance.now();
  const config = loadConfig(terminal.env);
  // What is wrong with it is told before anything is begun.
  dataDirOf(config);
  // The whole program: no other command needs it.
  const [{ startGateway }, { createLogger }] = await Promise.all([
    import('../main.ts'),
    import('../logger.ts'),
  ]);
  const logger = createLogger(config.logLevel);
  let end: (code: number) => void = () => undefined;
  const ended = new Promise<number>((resolve) => {
    end = resolve;
  });
  const gateway = await startGateway(config, logger, { onFatal: () => end(EXIT.failed) }).catch(
    refuse,
  );
  const onSignal = () => {
    logger.info({}, 'stopping');
    end(EXIT.done);
  };
  if (terminal.signal.aborted) onSignal();
  terminal.signal.addEventListener('abort', onSignal, { once: true });
  const { url, dataDir, context } = gateway;
  for (const warning of context.warnings()) logger.warn({}, warning);
  // Whoever waits for this line needs it whatever the log level is.
  const ready = {
    level: 30,
    time: new Date().toISOString(),
    msg: 'ready',
    url,
    pid: process.pid,
    data_dir: dataDir,
    ...(config.bootstrapKey === null ? { bootstrap_key_file: join(dataDir, 'bootstrap-key') } : {}),
    ms: Math.round(performance.now() - startedAt),
  };
  const certificate = config.tls === null ? null : resolve(config.tls.certPath);
  await writeServerFile(dataDir, { url, pid: process.pid, certificate }).catch((error: unknown) =>
    logger.warn({ err: error }, 'commands cannot find this gateway by its data directory'),
  );
  const code = await print(terminal.stdout, `${JSON.stringify(ready)}\n`)
    .then(() => ended)
    // Also when nobody reads that line any more.
    .finally(async () => {
      // Left behind it names a process that is no more, which readers see.
      await removeServerFile(dataDir).catch(() => undefined);
      await gateway.stop();
    });
  logger.info({}, 'stopped');
  return code;
}

/** What is foreseen of a start that fails; anything else is for `run` to explain. */
async function refuse(error: unknown): Promise<never> {
  const { AlreadyRunningError } = await import('../db/open.ts');
  if (error instanceof AlreadyRunningError) throw unusable(error.message);
  const { syscall = '' } = error as NodeJS.ErrnoException;
  // Nothing but the database is connected to before the start is over. It may come yet, so it is no refusal.
  const isAway = ['connect', 'getaddrinfo'].includes(syscall) || error instanceof AggregateError;
  if (!isAway) throw error;
  throw new CliError(`The database cannot be used: ${messageOf(error)}`);
}
