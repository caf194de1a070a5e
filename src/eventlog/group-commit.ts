import { DomainError } from '../domain/errors.ts';
import type { AppendOutcome, ExpectedRevision } from './eventlog.ts';
import type { PreparedEvent } from './line.ts';

/** A command whose events are ready to be placed. */
export type PreparedCommand = Readonly<{
  stream: string;
  expected: ExpectedRevision;
  events: readonly PreparedEvent[];
  /** What it takes in the call and, until then, in memory. */
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

/** What one call may carry: everybody who appends waits for it, and the server holds all of it at once. */
const BATCH_EVENTS_MAX = 1_000;
export const BATCH_BYTES_MAX = 4_194_304;
/** What may wait in memory while the database does not answer. */
export const QUEUE_COMMANDS_MAX = 20_000;
const QUEUE_BYTES_MAX = 134_217_728;
const RETRY_AFTER_SECONDS = 1;

type Waiting = PreparedCommand &
  Readonly<{
    /** Its place among all commands. */
    arrival: number;
    resolve: (outcome: AppendOutcome) => void;
    reject: (error: unknown) => void;
  }> & {
    /** The command of the same stream that waits for this one. */
    next: Waiting | null;
  };

/**
 * One batch is in flight at a time and takes whatever queued up meanwhile: no timer, so a lone
 * command is not delayed and a crowd shares one transaction and one fsync. A command that cannot be
 * stored fails alone. The queue is bounded; above it `append` rejects with `unavailable`.
 */
export function groupCommit(appendBatch: AppendBatch): GroupCommit {
  const queue = commandQueue();
  let arrivals = 0;
  let running: Promise<void> | null = null;
  let inFlight = 0;
  let isClosed = false;

  async function drain(): Promise<void> {
    while (queue.count() > 0) {
      const batch = queue.takeBatch();
      inFlight = batch.length;
      await settle(appendBatch, batch);
      inFlight = 0;
    }
    running = null;
  }

  return {
    append(command) {
      if (isClosed) return Promise.reject(new DomainError('unavailable', 'The log is closing.'));
      if (queue.count() >= QUEUE_COMMANDS_MAX || queue.bytes() >= QUEUE_BYTES_MAX) {
        return Promise.reject(
          new DomainError('unavailable', 'Too many commands wait for the log; try again.', {
            retry_after_seconds: RETRY_AFTER_SECONDS,
          }),
        );
      }
      return new Promise((resolve, reject) => {
        arrivals += 1;
        queue.push({ ...command, arrival: arrivals, resolve, reject, next: null });
        // Begun in a microtask, so that commands of one turn of the event loop share a batch.
        running ??= Promise.resolve().then(drain);
      });
    },
    depth: () => queue.count() + inFlight,
    async close() {
      isClosed = true;
      await running;
    },
  };
}

/**
 * Commands in order of arrival. Only the first of each stream stands in line, the others behind it, so
 * that a batch looks at none that it could not take, however many wait for one stream.
 */
function commandQueue() {
  let line: Waiting[] = [];
  const lastOf = new Map<string, Waiting>();
  let count = 0;
  let bytes = 0;

  /** Takes commands out of the line, and lets those behind them step in where they belong. */
  function leave(taken: readonly Waiting[], left: Waiting[]): void {
    const freed: Waiting[] = [];
    for (const command of taken) {
      count -= 1;
      bytes -= command.bytes;
      if (command.next === null) lastOf.delete(command.stream);
      else freed.push(command.next);
    }
    // Two sorted runs at most, but for the few that were freed: that is a merge, not a sort.
    line = freed.length === 0 ? left : [...freed, ...left].sort((a, b) => a.arrival - b.arrival);
  }

  return {
    count: () => count,
    bytes: () => bytes,
    push(command: Waiting): void {
      count += 1;
      bytes += command.bytes;
      const last = lastOf.get(command.stream);
      lastOf.set(command.stream, command);
      if (last === undefined) line.push(command);
      else last.next = command;
    },
    /**
     * The next batch: commands in order, each stream and each first event id at most once, since one
     * call judges all its commands against the log as it was. Others keep their place.
     */
    takeBatch(): readonly Waiting[] {
      const batch: Waiting[] = [];
      const twins: Waiting[] = [];
      const firsts = new Set<string>();
      const size = { events: 0, bytes: 0 };
      for (const command of line) {
        const first = command.events[0]?.eventId ?? '';
        if (firsts.has(first)) {
          twins.push(command);
          continue;
        }
        const events = size.events + command.events.length;
        const isFull = events > BATCH_EVENTS_MAX || size.bytes + command.bytes > BATCH_BYTES_MAX;
        if (isFull && batch.length > 0) break;
        firsts.add(first);
        size.events = events;
        size.bytes += command.bytes;
        batch.push(command);
      }
      leave(batch, [...twins, ...line.slice(batch.length + twins.length)]);
      return batch;
    },
  };
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
