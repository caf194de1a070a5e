import type pg from 'pg';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import { ConfigError } from '../config-error.ts';
import type { MessageSpool, MessageStore } from '../domain/message-store.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { findInHoldQueue } from '../projections/hold-queue.ts';
import type { Projector } from '../projections/projector.ts';
import {
  countIntents,
  findMessagesWithContent,
  hasMessages,
} from '../projections/quarantine-work.ts';
import type { Secrets } from '../secrets.ts';
import { eitherPlace } from './either-place.ts';
import { type HoldQueueSide, openHoldQueueSide, type PostfixSettings } from './hold-queue-open.ts';
import type { Outlet } from './outlet.ts';
import { type JobRunner, startQuarantineJobs } from './quarantine-jobs.ts';
import { type QuarantineWorker, startQuarantineWorker } from './quarantine-worker.ts';
import { createRspamd, type Rspamd } from './rspamd.ts';
import { createSmtpOutlet, type SmtpOutletDeps } from './smtp-outlet.ts';
import { openSpool } from './spool.ts';

export type Quarantine = Readonly<{
  store: MessageStore;
  spool: MessageSpool | null;
  holdQueue: Pick<HoldQueueSide, 'announce'> | null;
  act: QuarantineWorker['act'];
  countOpenActions: () => ReturnType<typeof countIntents>;
  wakeJobs: JobRunner['wake'];
  /** What an operator should know of the store. */
  warnings: () => readonly string[];
  stop: () => Promise<void>;
}>;

type Settings = Readonly<{
  /** Where the spool lies. */
  dir: string;
  nodeId: string;
  messageBytesMax: number;
  spoolBytesMax: number;
  smtpRelay: string | null;
  /** Null: mail is held in the spool. */
  postfix: Omit<PostfixSettings, 'lookMs'> | null;
  /** Between two looks at the hold queue; null: as it is made. */
  lookMs: number | null;
  rspamd: Readonly<{ url: string; password: string | null }> | null;
  smtp: SmtpOutletDeps['smtp'];
}>;

type Deps = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  secrets: Secrets;
  clock: Clock;
  logger: Logger;
  projector: Projector;
}>;

/** Where held mail is, and how it leaves. */
type Side = Readonly<{
  store: MessageStore;
  spool: MessageSpool | null;
  holdQueue: HoldQueueSide | null;
  outlet: Outlet;
}>;

/** More than this without one event is no crash's leaving: sweeping it would destroy somebody's mail. */
const ORPHANS_MAX = 100;

/**
 * Opens the store, frees it of what a crash has left, and starts the reactor and the bulk jobs: open actions are
 * carried on from here. The read models must be caught up with the log.
 */
export async function openQuarantine(deps: Deps, settings: Settings): Promise<Quarantine> {
  const { pool } = deps;
  const { nodeId } = settings;
  const rspamd = settings.rspamd === null ? null : createRspamd(settings.rspamd);
  const { store, spool, holdQueue, outlet } = await openSide({ ...deps, rspamd }, settings);
  const worker = startQuarantineWorker({ ...deps, store, nodeId, outlet, rspamd });
  const jobs = startQuarantineJobs({
    ...deps,
    nodeId,
    worker,
    canBounce: settings.smtpRelay !== null,
  });
  return {
    store,
    spool,
    holdQueue,
    act: worker.act,
    countOpenActions: () => countIntents(pool),
    wakeJobs: jobs.wake,
    warnings: () => holdQueue?.warnings() ?? [],
    async stop() {
      // A job waits for its messages as long as the worker lets them, and they for the mail log.
      await Promise.all([jobs.stop(), worker.stop()]);
      await holdQueue?.stop();
    },
  };
}

async function openSide(
  deps: Deps & Readonly<{ rspamd: Rspamd | null }>,
  settings: Settings,
): Promise<Side> {
  const { smtpRelay: relay, smtp, nodeId, postfix, lookMs } = settings;
  const spool = await openSweptSpool(deps, settings);
  const outlet = createSmtpOutlet({ ...deps, store: spool, nodeId, relay, smtp });
  if (postfix === null) {
    await requireNoneInHoldQueue(deps, nodeId);
    return { store: spool, spool, holdQueue: null, outlet };
  }
  const caughtUp = async () =>
    deps.projector.caughtUp((await deps.log.head()).position, ['quarantine']);
  const holdQueue = await openHoldQueueSide({ ...deps, nodeId, caughtUp }, { ...postfix, lookMs });
  const both = eitherPlace(deps.log, { spool: { store: spool, outlet }, holdQueue });
  return { ...both, spool: null, holdQueue };
}

/** Without its mail server nothing could be done to them, and they would be taken for gone. */
async function requireNoneInHoldQueue({ pool }: Deps, nodeId: string): Promise<void> {
  const { length } = await findInHoldQueue(pool, nodeId);
  if (length === 0) return;
  throw new ConfigError(
    `${length} messages are in the hold queue of Postfix: set MAILGUARD_QUARANTINE_STORE=postfix until they are ` +
      'released, discarded or gone from there',
  );
}

async function openSweptSpool({ pool, logger }: Deps, settings: Settings): Promise<MessageSpool> {
  const spool = await openSpool({
    dir: settings.dir,
    bytesMax: settings.spoolBytesMax,
    messageBytesMax: settings.messageBytesMax,
    logger,
  });
  const { messages } = spool.usage();
  if (messages > ORPHANS_MAX && !(await hasMessages(pool))) {
    throw new ConfigError(
      `the spool in ${settings.dir} holds ${messages} messages and the database has none: this is not the database ` +
        'that they belong to; set the right one, or move the spool away',
    );
  }
  const { removed } = await spool.sweep((ids) => findMessagesWithContent(pool, ids));
  if (removed > 0)
    logger.warn({ removed }, 'messages without an event were removed from the spool');
  return spool;
}
