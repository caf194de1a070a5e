import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { Logger } from 'pino';
import { type Clock, toTimestamp } from '../clock.ts';
import {
  cancelJob,
  countJobItems,
  endJob,
  findJobItems,
  findOpenJobs,
  forgetJob,
  type JobItem,
  type JobRow,
  saveJobItem,
} from '../db/quarantine-jobs.ts';
import type { Actor } from '../domain/decider.ts';
import { DomainError } from '../domain/errors.ts';
import {
  type BulkAction,
  quarantineBulk,
  quarantineBulkStream,
} from '../domain/quarantine-bulk.ts';
import type { QuarantineCommand, TrainingClass } from '../domain/quarantine-language.ts';
import { quarantinedMessage } from '../domain/quarantined-message.ts';
import type { EventLog, EventMeta } from '../eventlog/eventlog.ts';
import { commandIdOf, eventIdOf, handleCommand, readState } from '../eventlog/handle-command.ts';
import { findBackends } from '../projections/mail-domains.ts';
import { createWaker } from '../waker.ts';
import { type OpenedHistory, readHistory } from './quarantine-history.ts';
import type { QuarantineWorker } from './quarantine-worker.ts';

/** What a job has to know to go on after a restart. */
type BulkRequest = Readonly<{
  action: BulkAction;
  class: TrainingClass | null;
  dryRun: boolean;
  reason: string | null;
  actor: Actor;
  requestId: string | null;
  correlationId: string;
  /** The caller's mail domain, which every recipient must be in; null for one who sees all. */
  mailDomain: number | null;
}>;

type Deps = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  clock: Clock;
  logger: Logger;
  nodeId: string;
  worker: QuarantineWorker;
  /** Whether there is a relay for bounces of our own. */
  canBounce: boolean;
}>;

export type JobRunner = Readonly<{ wake: () => void; stop: () => Promise<void> }>;

const LOOK_MS = 1_000;
const JOBS_AT_ONCE = 4;
const PAGE_ITEMS = 200;
const ITEMS_AT_ONCE = 12;
/** By then a job that is kept without its event has failed: its caller was told so. */
const BEGUN_MS = 60_000;
/** How long an item waits for its outcome before the job goes on, and says that it is under way. */
const ITEM_WAIT_MS = 60_000;

/**
 * Runs bulk jobs, those that a crash has left among them: an item that was begun finds its own events, so nothing is
 * done twice.
 */
export function startQuarantineJobs(deps: Deps): JobRunner {
  const abort = new AbortController();
  const waker = createWaker();
  // Each has turns of its own: a job whose messages wait keeps no other waiting.
  const running = new Map<string, Promise<void>>();
  const run = (job: JobRow<BulkRequest>) =>
    runJob(deps, job, abort.signal).finally(() => {
      running.delete(job.id);
      waker.wake();
    });
  const looking = (async () => {
    while (!abort.signal.aborted) {
      const news = waker.listen();
      const jobs = await findOpenJobs<BulkRequest>(deps.pool, JOBS_AT_ONCE).catch(() => []);
      for (const job of jobs) if (!running.has(job.id)) running.set(job.id, run(job));
      await news.within(LOOK_MS);
    }
    await Promise.all(running.values());
  })();
  return {
    wake: waker.wake,
    async stop() {
      abort.abort();
      waker.wake();
      await looking;
    },
  };
}

async function runJob(deps: Deps, job: JobRow<BulkRequest>, signal: AbortSignal): Promise<void> {
  try {
    await runItems(deps, job, signal);
  } catch (error) {
    if (!signal.aborted) deps.logger.warn({ err: error, job_id: job.id }, 'a job is tried again');
    await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
  }
}

async function runItems(deps: Deps, job: JobRow<BulkRequest>, signal: AbortSignal): Promise<void> {
  const status = await statusOf(deps, job);
  // A job is kept before the event that begins it, and does nothing without one.
  if (status === 'absent') {
    const isFailed = deps.clock.nowMs() - job.createdAt.getTime() > BEGUN_MS;
    // Its caller may ask again under the same idempotency key, which makes it anew.
    if (isFailed) return forgetJob(deps.pool, job.id);
    return sleep(LOOK_MS / 10, undefined, { signal }).catch(() => undefined);
  }
  if (status === 'running') {
    const page = { after: 0, limit: PAGE_ITEMS, open: true };
    const items = await findJobItems(deps.pool, job.id, page);
    for (let at = 0; at < items.length; at += ITEMS_AT_ONCE) {
      if (signal.aborted || (await statusOf(deps, job)) !== 'running') return;
      await Promise.all(
        items.slice(at, at + ITEMS_AT_ONCE).map((item) => runItem(deps, job, item, signal)),
      );
    }
    // The next turn reads the job anew: it may have been cancelled meanwhile.
    if (items.length > 0) return;
  }
  if (signal.aborted) return;
  // Whoever cancelled it may have been cut off behind the event.
  if (status === 'cancelled') await cancelJob(deps.pool, job.id);
  const counts = await countJobItems(deps.pool, job.id);
  const { pending = 0, ...done } = counts;
  await handleCommand(deps.log, quarantineBulk, {
    stream: quarantineBulkStream(job.id),
    resource: { type: 'quarantine_bulk', id: job.id },
    mailDomains: mailDomainsOf(job.request),
    command: {
      type: 'EndBulk',
      counts: pending === 0 ? done : { ...done, cancelled: pending + (done['cancelled'] ?? 0) },
    },
    meta: { ...metaOf(deps, job), actor: { type: 'system', id: 'mailguard' } },
    commandId: commandIdOf(job.createdAt.getTime(), `end/${job.id}`),
  });
  await endJob(deps.pool, job.id, deps.clock.now());
}

/** As the log tells it: what is recorded holds, also where the job's row was not reached any more. */
async function statusOf({ log }: Deps, { id }: JobRow<BulkRequest>) {
  return (await readState(log, quarantineBulk, quarantineBulkStream(id))).state.status;
}

async function runItem(
  deps: Deps,
  job: JobRow<BulkRequest>,
  { ordinal, messageId }: JobItem,
  signal: AbortSignal,
): Promise<void> {
  let outcome: string;
  let error: string | null = null;
  try {
    outcome = await actOn(deps, job, messageId);
  } catch (thrown) {
    if (!(thrown instanceof DomainError) || thrown.code === 'unavailable') throw thrown;
    outcome = 'refused';
    error = thrown.code;
  }
  // What was cut by stopping has no outcome yet: it is found under way at the next start.
  if (signal.aborted && outcome === 'under_way') return;
  await saveJobItem(deps.pool, job.id, { ordinal, outcome, error });
}

async function actOn(deps: Deps, job: JobRow<BulkRequest>, id: string): Promise<string> {
  const { request } = job;
  const before = await readHistory(deps.log, id);
  const isVisible =
    request.mailDomain === null || before.mailDomains.includes(String(request.mailDomain));
  if (!isVisible) throw new DomainError('not_found', 'No such message');
  const groups = before.disclosed.recipients;
  if (
    request.mailDomain !== null &&
    groups.some(({ mail_domain: mailDomain }) => mailDomain !== request.mailDomain)
  ) {
    throw new DomainError('foreign_recipients', 'Not all recipients are yours');
  }
  await requirePossible(deps, request, before);
  const command = commandOf(request);
  // Decided, so that what would be refused is refused, and nothing else.
  if (request.dryRun) {
    return quarantinedMessage.decide(command, before.state).length === 0 ? 'unchanged' : 'would';
  }
  const commandId = commandIdOf(job.createdAt.getTime(), `bulk/${job.id}/${id}`);
  await handleCommand(deps.log, quarantinedMessage, {
    stream: before.stream,
    resource: { type: 'quarantined_message', id },
    mailDomains: before.mailDomains,
    command,
    meta: metaOf(deps, job),
    commandId,
  });
  await deps.worker.act(id, request.action, ITEM_WAIT_MS);
  const { state, trainings } = await readHistory(deps.log, id);
  if (request.action === 'retrain') {
    // Others may have asked for another training meanwhile.
    const own = trainings.find(({ asked }) => asked.event_id === eventIdOf(commandId, '', 0));
    return own?.outcome ?? 'under_way';
  }
  return state.state === `${request.action}_requested` ? 'under_way' : state.state;
}

async function requirePossible(
  deps: Deps,
  { action }: BulkRequest,
  { disclosed, held }: OpenedHistory,
): Promise<void> {
  // From a hold queue the mail server sends notices, and knows its own routes.
  const canReject = disclosed.sender && (held !== null || deps.canBounce);
  if (action === 'reject' && !canReject) {
    throw new DomainError('state_conflict', 'No SMTP relay is set, or there is no sender');
  }
  if (action !== 'release' || held !== null) return;
  for (const { mail_domain: id } of disclosed.recipients) {
    if (id === null || (await findBackends(deps.pool, id)).length === 0) {
      throw new DomainError('no_route', 'No backend server');
    }
  }
}

function commandOf({ action, reason, class: kind }: BulkRequest): QuarantineCommand {
  switch (action) {
    case 'release':
      return { type: 'RequestRelease', recipients: null, allowSender: null, reason };
    case 'discard':
      return { type: 'RequestDiscard', blockSender: null, reason };
    case 'reject':
      return { type: 'RequestReject', reason };
    case 'retrain':
      return { type: 'RequestRetrain', class: kind ?? 'spam' };
  }
}

const mailDomainsOf = ({ mailDomain }: BulkRequest): string[] =>
  mailDomain === null ? [] : [String(mailDomain)];

/** Who asked for the job did what it does; all of it has one correlation id. */
const metaOf = ({ clock, nodeId }: Deps, { request }: JobRow<BulkRequest>): EventMeta => ({
  actor: request.actor,
  source: { node: nodeId, ip: null, userAgent: null },
  requestId: request.requestId,
  correlationId: request.correlationId,
  causationId: null,
  outcome: 'success',
  occurredAt: toTimestamp(clock.now()),
});
