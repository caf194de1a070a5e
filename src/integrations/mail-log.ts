import { setTimeout as sleep } from 'node:timers/promises';
import {
  type OmenLine,
  parseMailLogLine,
  type QueueIdLine,
  type RecipientFact,
} from './mail-log-lines.ts';
import { type LogTail, tailLog } from './mail-log-tail.ts';

export type { RecipientFact };

/** What the log says of one queue id, in its present life: a short id is used again. */
export type LogFacts = Readonly<{
  queueId: string;
  /** Who held it, also after it has left; a filter's verdict outweighs that another was down. */
  heldBy: 'filter' | 'filter_down' | 'rule' | 'hand' | null;
  /** postsuper's last word on it; `expired` stays when the same command releases it. */
  left: 'released' | 'removed' | 'requeued' | 'expired' | null;
  /** The queue id it goes on under, after a requeue. */
  successor: string | null;
  /** By address in lower case as the log has it, and by the original address where it differs. */
  recipients: ReadonlyMap<string, RecipientFact>;
  /** A bounce was sent to its sender. */
  isBounced: boolean;
  /** The queue manager has no more to do with it. */
  isOver: boolean;
}>;

export type MailLog = Readonly<{
  /** What the log says of one queue id, as far back as it was read; null when it says nothing. */
  factsOf: (queueId: string) => LogFacts | null;
  /** Resolves when `isEnough` holds, or after `ms`, or at a stop, with what is known then. */
  wait: (
    queueId: string,
    isEnough: (facts: LogFacts | null) => boolean,
    ms: number,
  ) => Promise<LogFacts | null>;
  /** How far it was read and whether the file is there, for a readiness message; null when well. */
  trouble: () => string | null;
  stop: () => Promise<void>;
}>;

type Options = Readonly<{
  path: string;
  logger: Readonly<{ warn: (fields: object, message: string) => void }>;
  /** How much of the end of the log is read at the start. */
  scanBytes?: number;
  /** Queue ids that are remembered; those that were longest not spoken of are forgotten. */
  idsMax?: number;
  pollMs?: number;
}>;

type Facts = { -readonly [name in Exclude<keyof LogFacts, 'recipients'>]: LogFacts[name] } & {
  recipients: Map<string, RecipientFact>;
};

const SCAN_BYTES = 64 * 1_048_576;
const IDS_MAX = 50_000;
const POLL_MS = 150;
/** Of all ids together, as a mean, and of one id; a sender chooses how many recipients it has. */
const RECIPIENTS_PER_ID = 4;
const RECIPIENTS_MAX = 2_000;
const OMENS_MAX = 1_000;
/** So much can be written while a look at the file is under way. */
const BEHIND_BYTES_MAX = 1_048_576;
/** By strength: two may hold the same message. */
const HOLDERS = ['rule', 'filter_down', 'filter', 'hand'];

/**
 * Follows Postfix's mail log and remembers what it says of each queue id; resolves when the end of
 * the log, and of `PATH.1` where the log is short, is read. The log may be rotated by rename or by
 * copy and truncation (where what is written between a look and the copy is lost), be late, or go
 * away: it is looked for again. Nothing of an address, a subject or a reply is ever logged.
 */
export async function followMailLog(options: Options): Promise<MailLog> {
  const { path, logger, scanBytes = SCAN_BYTES, idsMax = IDS_MAX, pollMs = POLL_MS } = options;
  const abort = new AbortController();
  const isStopped = () => abort.signal.aborted;
  const book = openBook(idsMax);
  const waits = openWaits(book.factsOf);
  let trouble: string | null = null;
  let isLineReported = false;

  function onLine(bytes: Buffer): void {
    try {
      const line = parseMailLogLine(bytes.toString('utf8'));
      if (line !== null) book.apply(line);
    } catch {
      // An error may quote the line, so that there is one is all that is said.
      if (!isLineReported) logger.warn({ path }, 'a line of the mail log cannot be read');
      isLineReported = true;
    }
  }
  const onRead = () => waits.look(book.takeChanged());
  const tail = tailLog({ path, scanBytes, signal: abort.signal, onLine, onRead });

  async function look(): Promise<void> {
    const found = await tail.read().then(troubleOfMissing, troubleOfError);
    if (found !== null && found !== trouble) logger.warn({ path }, found);
    trouble = found;
  }
  async function follow(): Promise<void> {
    while (!isStopped()) {
      await sleep(pollMs, undefined, { signal: abort.signal }).catch(() => undefined);
      if (!isStopped()) await look();
    }
    await tail.close();
  }
  await look();
  const following = follow();
  return {
    factsOf: book.factsOf,
    wait: waits.wait,
    trouble: () => trouble ?? troubleOfDelay(tail.reached()),
    async stop() {
      abort.abort();
      waits.end();
      await following;
    },
  };
}

function openBook(idsMax: number) {
  const facts = new Map<string, Facts>();
  const omens = new Map<string, 'rule' | 'filter_down'>();
  let changed = new Set<string>();
  let recipients = 0;

  function forget(queueId: string): void {
    recipients -= facts.get(queueId)?.recipients.size ?? 0;
    facts.delete(queueId);
  }
  /** What is known of an id, which is hereby the last to be forgotten. */
  function touch(queueId: string): Facts {
    const known = facts.get(queueId) ?? newFacts(queueId);
    facts.delete(queueId);
    facts.set(known.queueId, known);
    changed.add(queueId);
    return known;
  }
  function trim(): void {
    for (const oldest of facts.keys()) {
      const isFull = facts.size > idsMax || recipients > idsMax * RECIPIENTS_PER_ID;
      if (!isFull || facts.size === 1) return;
      forget(oldest);
    }
  }
  function noteOmen({ process, of }: OmenLine): void {
    omens.delete(process);
    if (of !== 'none') omens.set(process, of);
    const [oldest] = omens.keys();
    if (omens.size > OMENS_MAX && oldest !== undefined) omens.delete(oldest);
  }
  function takeOmen(process: string): 'rule' | 'filter_down' | null {
    const omen = omens.get(process) ?? null;
    omens.delete(process);
    return omen;
  }
  function noteOf(line: QueueIdLine): void {
    const isNew = line.kind === 'begun' || (line.kind === 'written' && isOver(line.queueId));
    if (isNew) forget(line.queueId);
    const known = touch(line.queueId);
    const omen = 'process' in line ? takeOmen(line.process) : null;
    if (line.kind === 'begun') {
      if (omen === 'rule') known.heldBy = 'rule';
      if (line.requeuedFrom !== null) touch(line.requeuedFrom).successor = copied(line.queueId);
    } else if (line.kind === 'held') {
      // Of a filter that dies over a message the log says what it says of a verdict.
      const by = line.by === 'filter' && omen === 'filter_down' ? omen : line.by;
      if (HOLDERS.indexOf(by) > HOLDERS.indexOf(known.heldBy ?? '')) known.heldBy = by;
    } else {
      const before = known.recipients.size;
      applyLine(known, line);
      recipients += known.recipients.size - before;
    }
  }
  const isOver = (queueId: string) => facts.get(queueId)?.isOver === true;
  return {
    apply(line: QueueIdLine | OmenLine): void {
      if (line.kind === 'omen') noteOmen(line);
      else noteOf(line);
      trim();
    },
    factsOf: (queueId: string): LogFacts | null => {
      const known = facts.get(queueId);
      return known === undefined ? null : { ...known, recipients: new Map(known.recipients) };
    },
    takeChanged(): ReadonlySet<string> {
      const taken = changed;
      changed = new Set();
      return taken;
    },
  };
}

function newFacts(queueId: string): Facts {
  const none = { heldBy: null, left: null, successor: null, isBounced: false, isOver: false };
  return { queueId: copied(queueId), ...none, recipients: new Map() };
}

function applyLine(facts: Facts, line: QueueIdLine): void {
  if (line.kind === 'bounce_sent') facts.isBounced = true;
  if (line.kind === 'over') facts.isOver = true;
  if (line.kind === 'result') {
    const { dsn, relay, reply } = line.fact;
    const fact = { ...line.fact, dsn, relay: relay && copied(relay), reply: copied(reply) };
    for (const address of [line.address, line.originalAddress]) {
      if (address !== null) setRecipient(facts, copied(address.toLowerCase()), fact);
    }
  }
  if (line.kind === 'returned') {
    for (const [address, fact] of facts.recipients) {
      if (fact.status === 'deferred') facts.recipients.set(address, { ...fact, status: 'expired' });
    }
  }
  if (line.kind !== 'postsuper') return;
  if (line.did === 'held') {
    facts.heldBy = 'hand';
    facts.left = null;
    return;
  }
  // `postsuper -f` says both, and it goes back to its sender.
  if (line.did !== 'released' || facts.left !== 'expired') facts.left = line.did;
  if (line.did === 'removed' || line.did === 'requeued') facts.isOver = true;
}

function setRecipient({ recipients }: Facts, address: string, fact: RecipientFact): void {
  if (recipients.has(address) || recipients.size < RECIPIENTS_MAX) recipients.set(address, fact);
}

/** A part of a string keeps the whole in memory. */
const copied = (text: string) => Buffer.from(text).toString();

function openWaits(factsOf: MailLog['factsOf']) {
  const waiters = new Set<Readonly<{ queueId: string; look: () => void; end: () => void }>>();
  let isEnded = false;
  const wait: MailLog['wait'] = async (queueId, isEnough, ms) => {
    const known = factsOf(queueId);
    if (isEnded || isEnough(known)) return known;
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(timer);
        waiters.delete(waiter);
        resolve(factsOf(queueId));
      };
      const look = () => {
        try {
          if (isEnough(factsOf(queueId))) end();
        } catch (error) {
          // Its caller's error, and not one of reading.
          reject(error instanceof Error ? error : new Error('isEnough failed', { cause: error }));
          end();
        }
      };
      const waiter = { queueId, look, end };
      const timer = setTimeout(end, ms);
      waiters.add(waiter);
    });
  };
  return {
    wait,
    look(changed: ReadonlySet<string>): void {
      for (const waiter of waiters) if (changed.has(waiter.queueId)) waiter.look();
    },
    end(): void {
      isEnded = true;
      for (const waiter of waiters) waiter.end();
    },
  };
}

const troubleOfMissing = (isThere: boolean) => (isThere ? null : 'the mail log is not there');

function troubleOfError(error: unknown): string {
  const { code } = (error ?? {}) as { code?: unknown };
  return `the mail log cannot be read (${typeof code === 'string' ? code : 'unknown error'})`;
}

function troubleOfDelay({ position, size }: ReturnType<LogTail['reached']>): string | null {
  if (size - position <= BEHIND_BYTES_MAX) return null;
  return `the mail log is read up to byte ${position} of ${size}`;
}
