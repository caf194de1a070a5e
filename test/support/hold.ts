import type pg from 'pg';
import type { AppendCommand, EventLog } from '../../src/eventlog/eventlog.ts';

/** Work that waits at a door, so that a race has the order that a test is about. */
export type Held = Readonly<{
  /** Resolves when as many as were asked for wait at the door. */
  reached: Promise<void>;
  /** Opens the door, for those who wait and for all who come. */
  release: () => void;
}>;

/** Holds the appends that match, before the log has seen them. */
export function holdAppends(
  log: EventLog,
  isHeld: (command: AppendCommand) => boolean,
  count = 1,
): Held {
  const mutable = log as { append: EventLog['append'] };
  const { append } = log;
  const { pass, ...held } = door(count, () => {
    mutable.append = append;
  });
  mutable.append = async (command) => {
    if (isHeld(command)) await pass();
    return append(command);
  };
  return held;
}

/** Holds the answers to appends that match, when the log has them already. */
export function holdAnswers(log: EventLog, isHeld: (command: AppendCommand) => boolean): Held {
  const mutable = log as { append: EventLog['append'] };
  const { append } = log;
  const { pass, ...held } = door(1, () => {
    mutable.append = append;
  });
  mutable.append = async (command) => {
    const outcome = await append(command);
    if (isHeld(command)) await pass();
    return outcome;
  };
  return held;
}

/**
 * Runs `work` before each read of this stream, and may keep it from being read by throwing; reads of
 * other streams, of a reactor in the background for one, go on. Returns what ends that.
 */
export function beforeReadsOf(
  log: EventLog,
  stream: string,
  work: () => Promise<void>,
): () => void {
  const mutable = log as { readStream: EventLog['readStream'] };
  const { readStream } = log;
  mutable.readStream = async (...range) => {
    if (range[0] === stream) await work();
    return readStream(...range);
  };
  return () => {
    mutable.readStream = readStream;
  };
}

/** Holds the statements that match; `then` runs when one has ended, before its caller goes on. */
export function holdQueries(
  pool: pg.Pool,
  pattern: RegExp,
  then: () => Promise<void> = async () => undefined,
): Held {
  const mutable = pool as unknown as { query: (...call: unknown[]) => Promise<unknown> };
  const { query } = mutable;
  const { pass, ...held } = door(1, () => {
    mutable.query = query;
  });
  mutable.query = async (...call) => {
    if (!pattern.test(String(call[0]))) return query.apply(pool, call);
    await pass();
    const result = await query.apply(pool, call);
    await then();
    return result;
  };
  return held;
}

function door(count: number, onOpen: () => void) {
  let waiting = 0;
  let open = (): void => undefined;
  let arrive = (): void => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const reached = new Promise<void>((resolve) => {
    arrive = resolve;
  });
  return {
    reached,
    release() {
      onOpen();
      open();
    },
    async pass() {
      waiting += 1;
      if (waiting === count) arrive();
      await opened;
    },
  };
}

/** Whether a command records an event of this type. */
export const recordsType =
  (wanted: string) =>
  ({ events }: AppendCommand): boolean =>
    events.some(({ type }) => type === wanted);
