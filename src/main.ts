import { join } from 'node:path';
import type { Logger } from 'pino';
import { openActivity } from './api/activity.ts';
import { createAuditTrail } from './api/audit-trail.ts';
import { bootstrap } from './api/bootstrap.ts';
import type { Context } from './api/context.ts';
import { createCursors } from './api/cursor.ts';
import { observeGateway } from './api/gateway-metrics.ts';
import { listen, type Stopping, stopSignal } from './api/listening.ts';
import { createMetrics } from './api/metrics.ts';
import { openRateLimiter } from './api/rate-limiter.ts';
import { type Clock, systemClock } from './clock.ts';
import { type Config, requireCertificate, requireMasterKeyFile } from './config.ts';
import { ConfigError } from './config-error.ts';
import { ensureSecret, prepareDataDir } from './data-dir.ts';
import { purgeIdempotencyKeys } from './db/idempotency.ts';
import { belongsToMasterKey } from './db/installation.ts';
import { type Database, openDatabase } from './db/open.ts';
import { purgeJobs } from './db/quarantine-jobs.ts';
import type { EventLog, Position } from './eventlog/eventlog.ts';
import { type FreeSpace, watchFreeSpace } from './free-space.ts';
import { followKeys } from './integrations/key-follower.ts';
import { openQuarantine, type Quarantine } from './integrations/quarantine-open.ts';
import { endRetention } from './integrations/quarantine-retention.ts';
import {
  expireKeys,
  forgetUnmadeKeys,
  type ReactorDeps,
  revokeKeysOfMailDomain,
  revokeOrphanKeys,
  settleUnfinished,
} from './integrations/reactors.ts';
import {
  endFiltersOfMailDomain,
  endOrphanFilters,
  expireSenderFilters,
} from './integrations/sender-filters.ts';
import { type OpenedLog, openLog } from './open-log.ts';
import { reapplyErasures } from './projections/erasures.ts';
import { projectionsOf } from './projections/list.ts';
import { loadLiveKeys } from './projections/live-keys.ts';
import { mailDomainHistory } from './projections/mail-domain-history.ts';
import { type Projector, startProjector } from './projections/projector.ts';
import { purgeDenials } from './projections/rate-limits.ts';
import { dropStaleCopies } from './projections/rebuild.ts';
import { type CronJob, startCronJobs } from './scheduler/cron.ts';
import { type PeriodicJob, startPeriodicJobs } from './scheduler/periodic.ts';
import { deriveSecrets, type Secrets } from './secrets.ts';
import { stopAll } from './stop-all.ts';
import { openWebhooks, type WebhookOptions, type Webhooks } from './webhooks/open.ts';
import { endWebhooksOfMailDomain, purgeWebhooks, sweepWebhooks } from './webhooks/upkeep.ts';

export type Gateway = Readonly<{
  url: string;
  dataDir: string;
  context: Context;
  /** Stops accepting, finishes what is under way (bounded), saves, and stops what was started. */
  stop: () => Promise<void>;
}>;

export type Overrides = Readonly<{
  clock?: Clock;
  validateReplies?: boolean;
  smtp?: Parameters<typeof openQuarantine>[1]['smtp'];
  /** Between two looks at a hold queue. */
  holdQueueLookMs?: number;
  webhooks?: Partial<WebhookOptions>;
  /** Room in the data directory below which it is warned of. */
  freeBytesMin?: number;
  /** Something made going on impossible; the process should end. */
  onFatal?: () => void;
}>;

const CATCH_UP_MS = 600_000;
const FLUSH_MS = 2_000;
const LOG_LOOK_MS = 1_000;
const SPACE_LOOK_MS = 10_000;
const HOUR_MS = 3_600_000;

/** Builds and starts everything, in reading order; what was started is stopped in reverse. */
export async function startGateway(
  config: Config,
  logger: Logger,
  overrides: Overrides = {},
): Promise<Gateway> {
  const { clock = systemClock, validateReplies = false, onFatal = () => undefined } = overrides;
  requireCertificate(config.tls);
  const dataDir = await prepareDataDir(config);
  const secrets = deriveSecrets(await masterKeyOf(config, dataDir));
  const stops: (() => Promise<unknown>)[] = [];
  const unwind = () => stopAll(stops, logger);
  try {
    const database = await openDatabase({
      url: config.databaseUrl,
      dataDir,
      logger,
      onUsurped: onFatal,
    });
    stops.push(database.close);
    const { pool } = database;
    await requireOwnMasterKey(database, secrets);
    const { log, isSame } = await openLog(config, database, logger);
    stops.push(log.close);
    await reapplyErasures(pool, log);
    const projector = await startProjector({ pool, log, logger }, projectionsOf(log));
    stops.push(projector.stop);
    const caughtUpTo = await catchUp(projector, log);
    await forgetUnmadeKeys({ pool, log, projector });
    const { nodeId } = config;
    await bootstrap({ config, pool, log, projector, secrets, clock, dataDir });
    const liveKeys = await loadLiveKeys({ pool, log, secrets, nowMs: clock.nowMs });
    stops.push(followKeys({ log, liveKeys, logger }, caughtUpTo).stop);
    const reactors = { log, liveKeys, clock, nodeId };
    await settleUnfinished(reactors, pool);
    const metrics = createMetrics();
    const limiter = await openRateLimiter(pool, clock);
    const activity = await openActivity({ pool, log, clock, nodeId, metrics, logger });
    const kept = { pool, log, projector, clock, limiter, activity };
    const watch = watchLog(isSame, logger, onFatal);
    const space = await watchFreeSpace(dataDir, overrides.freeBytesMin);
    const jobs = startPeriodicJobs([...periodicJobsOf(reactors, kept, space), watch], logger);
    stops.push(() => limiter.flush());
    stops.push(() => activity.flush(true));
    stops.push(jobs.stop);
    const effects = { pool, log, clock, logger, secrets, nodeId, projector };
    const settings = { config, overrides, dataDir };
    const { quarantine, webhooks } = await openEffects(effects, settings, stops);
    const stopping = stopSignal();
    const context: Context = {
      config,
      clock,
      logger,
      pool,
      log,
      projector,
      liveKeys,
      limiter,
      activity,
      secrets,
      validateReplies,
      auditTrail: createAuditTrail(log, clock),
      cursors: createCursors(log.identity, secrets.cursorKey),
      mailDomainHistory: mailDomainHistory(log),
      metrics,
      quarantine,
      webhooks,
      onStop: stopping.onStop,
      isStopping: stopping.isStopping,
      warnings: () => [...database.warnings, ...space.warnings(), ...quarantine.warnings()],
      finishMailDomainDeletion: (id, meta) => finishDeletion({ ...effects, liveKeys }, id, meta),
      unready: () => unready(database, projector, stopping),
    };
    observeGateway(context);
    const url = await listen(context, stops, stopping);
    return { url, dataDir, context, stop: unwind };
  } catch (error) {
    await unwind().catch(() => undefined);
    throw error;
  }
}

/** What reaches outside: held mail and webhooks, and the jobs that look after them. */
async function openEffects(
  deps: Pick<Context, 'pool' | 'log' | 'clock' | 'logger' | 'secrets' | 'projector'> &
    Readonly<{ nodeId: string }>,
  {
    config,
    overrides,
    dataDir,
  }: Readonly<{ config: Config; overrides: Overrides; dataDir: string }>,
  stops: (() => Promise<unknown>)[],
): Promise<Readonly<{ quarantine: Quarantine; webhooks: Webhooks }>> {
  const { smtp = {}, holdQueueLookMs: lookMs = null } = overrides;
  const settings = { ...config, dir: join(dataDir, 'spool'), smtp, lookMs };
  const quarantine = await openQuarantine(deps, settings);
  stops.push(quarantine.stop);
  const caughtUp = (position: Position) => deps.projector.caughtUp(position, ['webhooks']);
  const options = { ...config.webhooks, ...overrides.webhooks };
  const webhooks = await openWebhooks({ ...deps, caughtUp }, options);
  stops.push(webhooks.stop);
  const jobs = cronJobsOf({ ...deps, ...quarantine });
  stops.push(startCronJobs(deps.pool, jobs, deps.logger).stop);
  return { quarantine, webhooks };
}

/** The master key as it was set, or the one in the data directory, which must be as good. */
async function masterKeyOf(config: Config, dataDir: string): Promise<Buffer> {
  if (config.masterKey !== null) return config.masterKey;
  const file = join(dataDir, 'master-key');
  const text = await ensureSecret(file);
  requireMasterKeyFile(file, text);
  return Buffer.from(text, 'hex');
}

async function requireOwnMasterKey({ pool }: Database, { fingerprint }: Secrets): Promise<void> {
  if (await belongsToMasterKey(pool, fingerprint)) return;
  throw new ConfigError(
    'the master key is not the one this database was begun with: set MAILGUARD_MASTER_KEY (or the ' +
      'master-key file in the data directory) to that one',
  );
}

async function catchUp(projector: Projector, log: EventLog): Promise<Position> {
  const { position } = await log.head();
  if (await projector.caughtUp(position, undefined, CATCH_UP_MS)) return position;
  const stopped = (await projector.status()).find(({ stoppedBy }) => stoppedBy !== null);
  throw new Error(`The read models do not follow the log (${stopped?.stoppedBy ?? 'too slow'}).`);
}

const flush = async (limiter: Context['limiter'], activity: Context['activity']): Promise<void> => {
  await activity.flush();
  await limiter.flush();
};

type Purged = Pick<Context, 'pool' | 'log' | 'projector' | 'clock' | 'limiter' | 'activity'>;
async function purge(kept: Purged): Promise<void> {
  const { pool, clock, limiter, activity } = kept;
  await purgeIdempotencyKeys(pool, clock.now());
  await purgeDenials(pool, new Date(clock.nowMs() - 2 * HOUR_MS));
  await dropStaleCopies(pool, clock.now());
  await forgetUnmadeKeys(kept);
  await purgeJobs(pool, clock.now());
  await purgeWebhooks(kept);
  await activity.forgetDeleted();
  await limiter.forgetDeleted();
}

/** The rest of a mail domain's deletion: what was bound to it ends with it. */
async function finishDeletion(
  deps: Parameters<typeof revokeKeysOfMailDomain>[0] &
    Parameters<typeof endWebhooksOfMailDomain>[0],
  ...[id, meta]: Parameters<Context['finishMailDomainDeletion']>
): Promise<void> {
  await revokeKeysOfMailDomain(deps, id, meta);
  await endFiltersOfMailDomain(deps, id, meta);
  await endWebhooksOfMailDomain(deps, id);
}

/** What every process does for itself. */
const periodicJobsOf = (
  reactors: ReactorDeps,
  kept: Purged,
  space: FreeSpace,
): readonly PeriodicJob[] => [
  { name: 'free space', everyMs: SPACE_LOOK_MS, run: space.look },
  { name: 'flush', everyMs: FLUSH_MS, run: () => flush(kept.limiter, kept.activity) },
  { name: 'expire keys', everyMs: 1_000, run: () => expireKeys(reactors) },
  { name: 'orphan keys', everyMs: 10_000, run: () => revokeOrphanKeys(reactors, kept.pool) },
  { name: 'purge', everyMs: HOUR_MS, run: () => purge(kept) },
];

/** Ends this process when a standby took over the log: the next start finds out what it still holds. */
const watchLog = (
  isSame: OpenedLog['isSame'],
  logger: Logger,
  onFatal: () => void,
): PeriodicJob => ({
  name: 'log',
  everyMs: LOG_LOOK_MS,
  async run() {
    if (await isSame()) return;
    logger.fatal({}, 'the log lives elsewhere than when it was opened');
    onFatal();
  },
});

/** What one process of a cluster does for all. */
const cronJobsOf = (
  deps: Parameters<typeof endRetention>[0] & Pick<Quarantine, 'store'>,
): readonly CronJob[] => [
  {
    name: 'retention',
    at: '*/5 * * * *',
    async run(signal) {
      for (const end of [endRetention, expireSenderFilters, endOrphanFilters, sweepWebhooks]) {
        if (!signal.aborted) await end(deps, signal);
      }
    },
  },
];

async function unready(
  { pool }: Database,
  projector: Projector,
  stopping: Stopping,
): Promise<readonly string[]> {
  if (stopping.isStopping()) return ['stopping'];
  try {
    await pool.query('select 1');
    const stopped = (await projector.status()).filter(({ stoppedBy }) => stoppedBy !== null);
    return stopped.map(({ name }) => `projection ${name} has stopped`);
  } catch {
    return ['the database cannot be reached'];
  }
}
