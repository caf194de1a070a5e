import type pg from 'pg';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { MessageStore } from '../domain/message-store.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import {
  countIntents,
  findMessagesWithContent,
  hasMessages,
} from '../projections/quarantine-work.ts';
import { type JobRunner, startQuarantineJobs } from './quarantine-jobs.ts';
import {
  type QuarantineWorker,
  startQuarantineWorker,
  type WorkerDeps,
} from './quarantine-worker.ts';
import { createRspamd } from './rspamd.ts';
import { openSpool } from './spool.ts';

export type Quarantine = Readonly<{
  store: MessageStore;
  act: QuarantineWorker['act'];
  countOpenActions: () => ReturnType<typeof countIntents>;
  wakeJobs: JobRunner['wake'];
  stop: () => Promise<void>;
}>;

type Settings = Readonly<{
  /** Where the spool lies. */
  dir: string;
  nodeId: string;
  messageBytesMax: number;
  spoolBytesMax: number;
  smtpRelay: string | null;
  rspamd: Readonly<{ url: string; password: string | null }> | null;
  smtp: WorkerDeps['smtp'];
}>;

/** More than this without one event is no crash's leaving: sweeping it would destroy somebody's mail. */
const ORPHANS_MAX = 100;

/**
 * Opens the store, frees it of what a crash has left, and starts the reactor and the bulk jobs: open actions are
 * carried on from here. The read models must be caught up with the log.
 */
export async function openQuarantine(
  deps: Readonly<{ pool: pg.Pool; log: EventLog; clock: Clock; logger: Logger }>,
  settings: Settings,
): Promise<Quarantine> {
  const { pool, logger } = deps;
  const { nodeId, smtpRelay: relay, smtp } = settings;
  const store = await openSpool({
    dir: settings.dir,
    bytesMax: settings.spoolBytesMax,
    messageBytesMax: settings.messageBytesMax,
    logger,
  });
  const { messages } = store.usage();
  if (messages > ORPHANS_MAX && !(await hasMessages(pool))) {
    throw new Error(
      `The spool in ${settings.dir} holds ${messages} messages and the database has none: this is not the database ` +
        'that they belong to. Set the right one, or move the spool away.',
    );
  }
  const { removed } = await store.sweep((ids) => findMessagesWithContent(pool, ids));
  if (removed > 0)
    logger.warn({ removed }, 'messages without an event were removed from the spool');
  const rspamd = settings.rspamd === null ? null : createRspamd(settings.rspamd);
  const worker = startQuarantineWorker({ ...deps, store, nodeId, relay, rspamd, smtp });
  const jobs = startQuarantineJobs({ ...deps, nodeId, worker, canReject: relay !== null });
  return {
    store,
    act: worker.act,
    countOpenActions: () => countIntents(pool),
    wakeJobs: jobs.wake,
    async stop() {
      // A job waits for its messages as long as the worker lets them.
      await Promise.all([jobs.stop(), worker.stop()]);
    },
  };
}
