import { DomainError } from '../domain/errors.ts';
import type { AppendOutcome, ExpectedRevision } from './eventlog.ts';
import type { PreparedEvent } from './line.ts';

/** A command whose events are ready to be placed. */
export type PreparedCommand = Readonly<{
  stream: string;
  expected: ExpectedRevision;
  events: readonly PreparedEvent[];
  bytes: number;
}>;

/** Appends a batch in one transaction: an outcome per command, or it throws and nothing happened. */
export type AppendBatch = (batch: readonly PreparedCommand[]) => Promise<readonly AppendOutcome[]>;

export type GroupCommit = Readonly<{
  append: (command: PreparedCommand) => Promise<AppendOutcome>;
  /** Commands that wait or are under way. */
  depth: () => number;
  /** Resolves when everything accepted so far has ended; nothing is accepted after. */
  close: () => Promise<void>;
}>;

const BATCH_EVENTS_MAX = 1_000;
const BATCH_BYTES_MAX = 4_194_304;
export const QUEUE_COMMANDS_MAX = 20_000;
const QUEUE_BYTES_MAX = 134_217_728;
const RETRY_AFTER_SECONDS = 1;

type Waiting = PreparedCommand &
  Readonly<{ resolve: (outcome: AppendOutcome) => void; reject: (error: unknown) => void }>;

/**
 * One batch is in flight at a time and takes whatever queued up meanwhile: no timer, so a lone
 * command is not delayed and a crowd shares one transaction and one fsync. A command that cannot be
 * stored fails alone. The queue is bounded; above it `append` rejects with `unavailable`.
 */
export function groupCommit(appendBatch: AppendBatch): GroupCommit {
  const queue: Waiting[] = [];
  let queuedBytes = 0;
  let running: Promise<void> | null = null;
  let inFlight = 0;
  let isClosed = false;

  async function drain(): Promise<void> {
    while (queue.length > 0) {
      const batch = takeBatch(queue);
      for (const command of batch) queuedBytes -= command.bytes;
      inFlight = batch.length;
      await settle(appendBatch, batch);
      inFlight = 0;
    }
    running = null;
  }

  return {
    append(command) {
      if (isClosed) return Promise.reject(new DomainError('unavailable', 'The log is closing.'));
      if (queue.length >= QUEUE_COMMANDS_MAX || queuedBytes >= QUEUE_BYTES_MAX) {
        return Promise.reject(
          new DomainError('unavailable', 'Too many commands wait for the log; try again.', {
            retry_after_seconds: RETRY_AFTER_SECONDS,
          }),
        );
      }
      return new Promise((resolve, reject) => {
        queue.push({ ...command, resolve, reject });
        queuedBytes += command.bytes;
        // Begun in a microtask, so that commands of one turn of the event loop share a batch.
        running ??= Promise.resolve().then(drain);
      });
    },
    depth: () => queue.length + inFlight,
    async close() {
      isClosed = true;
      await running;
    },
  };
}

/**
 * The next batch: commands in order, each stream and each first event id at most once, since one
 * call judges all its commands against the log as it was. Others keep their place in the queue.
 */
function takeBatch(queue: Waiting[]): Waiting[] {
  const batch: Waiting[] = [];
  const kept: Waiting[] = [];
  const streams = new Set<string>();
  const firsts = new Set<string>();
  let events = 0;
  let bytes = 0;
  let scanned = 0;
  for (const command of queue) {
    const isFull =
      batch.length > 0 &&
      (events + command.events.length > BATCH_EVENTS_MAX ||
        bytes + command.bytes > BATCH_BYTES_MAX);
    if (isFull) break;
    scanned += 1;
    const first = command.events[0]?.eventId ?? '';
    if (streams.has(command.stream) || firsts.has(first)) {
      kept.push(command);
      // A later command of this stream must not overtake this one.
      streams.add(command.stream);
      continue;
    }
    streams.add(command.stream);
    firsts.add(first);
    events += command.events.length;
    bytes += command.bytes;
    batch.push(command);
  }
  queue.splice(0, scanned, ...kept);
  return batch;
}

/** Ends every command of a batch, halving it on failure until only the culprit fails. */
async function settle(appendBatch: AppendBatch, batch: readonly Waiting[]): Promise<void> {
  try {
    const outcomes = await appendBatch(batch);
    for (const [index, command] of batch.entries()) {
      const outcome = outcomes[index];
      if (outcome === undefined) command.reject(new Error('the log gave no outcome'));
      else command.resolve(outcome);
    }
  } catch (error) {
    const isShared = error instanceof DomainError && error.code === 'unavailable';
    if (batch.length === 1 || isShared) {
      for (const command of batch) command.reject(error);
      return;
    }
    const middle = Math.ceil(batch.length / 2);
    await settle(appendBatch, batch.slice(0, middle));
    await settle(appendBatch, batch.slice(middle));
  }
}
