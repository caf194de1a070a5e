import { join } from 'node:path';
import { ConfigError, loadConfig } from '../config.ts';
import { AlreadyRunningError } from '../db/open.ts';
import { createLogger } from '../logger.ts';
import { startGateway } from '../main.ts';

const EXIT_REFUSED = 2;

/** Runs the gateway until a signal ends it. Standard output is JSON lines, the ready line among them. */
export async function serve(): Promise<number> {
  const startedAt = performance.now();
  const config = loadConfig();
  const logger = createLogger(config.logLevel);
  let end: (code: number) => void = () => undefined;
  const ended = new Promise<number>((resolve) => {
    end = resolve;
  });
  const gateway = await startGateway(config, logger, { onFatal: () => end(1) });
  const onSignal = (signal: NodeJS.Signals) => {
    logger.info({ signal }, 'stopping');
    end(0);
  };
  process.once('SIGTERM', onSignal);
  process.once('SIGINT', onSignal);
  const { url, dataDir, context } = gateway;
  for (const warning of context.warnings) logger.warn({}, warning);
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
  process.stdout.write(`${JSON.stringify(ready)}\n`);
  const code = await ended;
  await gateway.stop();
  logger.info({}, 'stopped');
  return code;
}

/** Tells why a start was refused, one problem a line, and with which status to exit. */
export function explainRefusal(error: unknown): number {
  const isForeseen = error instanceof ConfigError || error instanceof AlreadyRunningError;
  const text = error instanceof Error ? (isForeseen ? error.message : error.stack) : String(error);
  process.stderr.write(`${text ?? 'unknown error'}\n`);
  return isForeseen ? EXIT_REFUSED : 1;
}
