import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { TransferResult, VanishedHow } from '../domain/quarantine-language.ts';
import { outstanding } from '../domain/quarantine-transfers.ts';
import type { QuarantinedMessage } from '../domain/quarantined-message.ts';
import type { ActOutcome, HeldFile, HoldQueue, HoldVerb } from './hold-queue.ts';
import type { LogFacts, MailLog, RecipientFact } from './mail-log.ts';
import { type Addressed, GONE, groupsOf, type Outlet, type Tried } from './outlet.ts';
import type { OpenedHistory } from './quarantine-history.ts';

export type PostfixOutletDeps = Readonly<{
  queue: HoldQueue;
  mailLog: MailLog;
  clock: Clock;
  logger: Logger;
  /** How long Postfix tries to deliver, from the arrival on (postconf(5), maximal_queue_lifetime). */
  lifetimeMs: () => Promise<number>;
  /** How long one try waits for the mail log to say what came of it; later tries look again. */
  resultMs?: number;
}>;

const RESULT_MS = 8_000;
/** A queue manager tries what is older than its lifetime once, so mail that was held for long is requeued. */
const OLD_SHARE = 0.5;

/**
 * Lets the mail server deliver, bounce or delete what it holds, and follows in its log what comes of that. What an
 * earlier try has done is found there, too, so that none is done twice.
 */
export const createPostfixOutlet = (deps: PostfixOutletDeps): Outlet => ({
  release: (history, started, signal) =>
    release(deps, history, { started, signal }).catch(
      notAsked(deps, history.id, addressed(history, started) ?? []),
    ),
  reject: (history, _started, signal) =>
    reject(deps, history, signal).catch(
      notAsked(deps, history.id, [{ recipient: 0, address: history.disclosed.sender ?? '' }]),
    ),
  discard: (history) => discard(deps, history),
});

async function release(
  deps: PostfixOutletDeps,
  history: OpenedHistory,
  { started, signal }: Readonly<{ started: QuarantinedMessage; signal: AbortSignal }>,
): Promise<Tried> {
  const wanted = addressed(history, started);
  const { held, arrivedAt } = history;
  if (held === null || wanted === null) return GONE;
  const heldMs = deps.clock.nowMs() - Date.parse(arrivedAt);
  const isOld = heldMs > (await deps.lifetimeMs()) * OLD_SHARE;
  const now = await letGo(deps, { held, arrivedAt }, isOld ? 'requeue' : 'release');
  if (!('queueId' in now)) return { ...GONE, how: now.gone };
  const facts = await deps.mailLog.wait(
    now.queueId,
    (said) =>
      signal.aborted ||
      said?.isOver === true ||
      (now.queueId !== held.queueId && said?.heldBy != null) ||
      wanted.every(({ address }) => said?.recipients.has(address.toLowerCase())),
    deps.resultMs ?? RESULT_MS,
  );
  // A rule that holds mail has caught it again, under the id that it was given by the requeue.
  if (now.queueId !== held.queueId && facts?.heldBy != null && facts.left === null) {
    return { ...GONE, how: 'requeued' };
  }
  const told = wanted.map((to) => toResult(to, facts));
  return {
    results: told.map(({ result }) => result),
    replies: told.map(({ reply }) => reply),
    cause: null,
    hasLeft: true,
  };
}

/** The id under which the mail server goes on with it, or what had become of it before. */
type LetGo = Readonly<{ queueId: string } | { gone: VanishedHow }>;

async function letGo(
  deps: PostfixOutletDeps,
  { held, arrivedAt }: Readonly<{ held: HeldFile; arrivedAt: string }>,
  verb: Extract<HoldVerb, 'release' | 'requeue' | 'bounce'>,
): Promise<LetGo> {
  const { queueId } = held;
  const outcome = await deps.queue.act(verb, held);
  requireSaid(outcome, queueId);
  if (outcome === 'differs') return { gone: 'unknown' };
  const left = outcome === 'done' ? LEFT_BY[verb] : await leftBefore(deps, held, arrivedAt);
  if (left === 'removed' || left === null) return { gone: left ?? 'unknown' };
  if (left !== 'requeued') {
    // Not again where a try has shown something: it is tried again by the queue's own clock.
    const facts = deps.mailLog.factsOf(queueId);
    const isTried = facts !== null && (facts.recipients.size > 0 || facts.isOver);
    if (!isTried) await hurry(deps, queueId);
    return { queueId };
  }
  const facts = await deps.mailLog.wait(
    queueId,
    (said) => said?.successor != null,
    deps.resultMs ?? RESULT_MS,
  );
  return { queueId: facts?.successor ?? queueId };
}

const LEFT_BY = { release: 'released', requeue: 'requeued', bounce: 'expired' } as const;

/** What the log says of a message that is not held any more; null when nobody knows. */
async function leftBefore(
  { queue, mailLog, resultMs = RESULT_MS }: PostfixOutletDeps,
  { queueId }: HeldFile,
  arrivedAt: string,
): Promise<NonNullable<LogFacts['left']> | null> {
  const facts = await mailLog.wait(queueId, (said) => said?.left != null, resultMs);
  // Deliveries alone are no sign: they may be of another message, which came under the same id.
  if (facts?.left != null) return facts.left;
  // The log may have been turned over; the queue still knows what is under way, and since when.
  const entry = (await queue.list()).get(queueId);
  const isSame = entry !== undefined && entry.queueName !== 'hold';
  return isSame && entry.arrivedAt.getTime() === Date.parse(arrivedAt) ? 'released' : null;
}

/** It would go by itself, some minutes later. */
async function hurry({ queue, logger }: PostfixOutletDeps, queueId: string): Promise<void> {
  await queue.deliver(queueId).catch((error: unknown) => {
    logger.warn({ err: error }, 'a released message waits for the next run of the queue');
  });
}

async function reject(
  deps: PostfixOutletDeps,
  { held, disclosed, arrivedAt }: OpenedHistory,
  signal: AbortSignal,
): Promise<Tried> {
  if (held === null) return GONE;
  const now = await letGo(deps, { held, arrivedAt }, 'bounce');
  if (!('queueId' in now)) return { ...GONE, how: now.gone };
  const facts = await deps.mailLog.wait(
    now.queueId,
    (said) =>
      signal.aborted ||
      said?.isBounced === true ||
      said?.isOver === true ||
      said?.left === 'released',
    deps.resultMs ?? RESULT_MS,
  );
  const isSent = facts?.isBounced === true;
  // Let go by somebody else; or it came to its end, and there was nobody to be told.
  if (!isSent && facts?.left === 'released') return { ...GONE, how: 'released' };
  if (!isSent && facts?.isOver === true) return { ...GONE, how: 'bounced' };
  const result = { recipient: 0, outcome: isSent ? 'accepted' : 'deferred', code: null } as const;
  const reply = isSent ? 'the mail server sent a notice' : WAITING;
  return {
    results: [result],
    replies: [{ recipient: disclosed.sender ?? '', server: null, reply }],
    cause: null,
    hasLeft: true,
  };
}

async function discard(
  deps: PostfixOutletDeps,
  { held, arrivedAt }: OpenedHistory,
): Promise<VanishedHow | null> {
  if (held === null) return 'unknown';
  const outcome = await deps.queue.act('discard', held);
  requireSaid(outcome, held.queueId);
  if (outcome === 'done') return null;
  if (outcome === 'differs') return 'unknown';
  const left = await leftBefore(deps, held, arrivedAt);
  // A try that a crash cut off has removed it, or somebody else did what was asked for.
  if (left === 'removed') return null;
  return vanishedHow(left);
}

/** What the log's word for how a message left the hold queue comes to, when it was not we who asked. */
export const vanishedHow = (left: LogFacts['left']): VanishedHow =>
  left === null ? 'unknown' : left === 'expired' ? 'bounced' : left;

function requireSaid(outcome: ActOutcome, queueId: string): void {
  if (outcome !== 'unsaid') return;
  throw new Error(`Postfix did not say what it did with ${queueId}`);
}

const WAITING = 'in the queue of the mail server';

/** Those who are outstanding; null when their addresses were erased. */
const addressed = ({ disclosed }: OpenedHistory, started: QuarantinedMessage): Addressed[] | null =>
  groupsOf(disclosed, outstanding(started))?.flatMap(({ recipients }) => recipients) ?? null;

const OUTCOMES: Readonly<Record<RecipientFact['status'], TransferResult['outcome']>> = {
  sent: 'accepted',
  deferred: 'deferred',
  bounced: 'refused',
  expired: 'refused',
};

function toResult({ recipient, address }: Addressed, facts: LogFacts | null) {
  const said = facts?.recipients.get(address.toLowerCase());
  const isOpen = said === undefined || said.status === 'deferred';
  const fact = isOpen && facts?.isOver === true ? endOf(facts, said) : said;
  const outcome = fact === undefined ? 'deferred' : OUTCOMES[fact.status];
  return {
    result: { recipient, outcome, code: fact?.code ?? null },
    reply: { recipient: address, server: fact?.relay ?? null, reply: fact?.reply ?? WAITING },
  };
}

/**
 * Of one whose last word is missing, though the queue manager is done: it was delivered, unless the sender got a
 * notice. A line may be cut, or lost with the log.
 */
const endOf = ({ isBounced }: LogFacts, said: RecipientFact | undefined): RecipientFact => ({
  ...{ dsn: null, relay: said?.relay ?? null, code: null },
  status: isBounced ? 'bounced' : 'sent',
  reply: isBounced ? 'the mail server sent a notice' : 'the mail server is done with it',
});

/** The helper is not there, or did not say: it is asked again later, and then sees what was done. */
const notAsked =
  ({ logger }: PostfixOutletDeps, id: string, to: readonly Addressed[]) =>
  (error: unknown): Tried => {
    logger.warn({ err: error, message_id: id }, 'the mail server could not be asked');
    return {
      results: to.map(({ recipient }) => ({ recipient, outcome: 'deferred', code: null })),
      replies: to.map(({ address }) => ({
        recipient: address,
        server: null,
        reply: 'the mail server could not be asked',
      })),
      cause: null,
    };
  };
