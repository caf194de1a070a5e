import type { Position } from './eventlog.ts';

/** Where a process learns that the head may have moved: from its own appends, NOTIFY, or a look. */
export type HeadSignal = Readonly<{
  known: () => Position;
  /** Tells that positions up to this one exist; lower values than known change nothing. */
  moved: (to: Position) => void;
  /** Somebody says that something may have moved: whoever waits looks for himself. */
  hint: () => void;
  /** Resolves when the known head is beyond `after`, on a hint, when `ms` have passed, or on the signal. */
  wait: (after: Position, ms: number, signal: AbortSignal) => Promise<void>;
}>;

export function headSignal(start: Position): HeadSignal {
  let known = start;
  const waiting = new Set<() => void>();
  return {
    known: () => known,
    moved(to) {
      if (to <= known) return;
      known = to;
      for (const wake of [...waiting]) wake();
    },
    hint() {
      for (const wake of [...waiting]) wake();
    },
    wait(after, ms, signal) {
      if (known > after || signal.aborted) return Promise.resolve();
      return new Promise((resolve) => {
        const wake = () => {
          waiting.delete(wake);
          clearTimeout(timer);
          signal.removeEventListener('abort', wake);
          resolve();
        };
        const timer = setTimeout(wake, ms);
        waiting.add(wake);
        signal.addEventListener('abort', wake);
      });
    },
  };
}

/** A notification can be lost with its connection, so the head is also looked at this often. */
const LOOK_MS = 1_000;

/**
 * Yields each head that lies beyond what was yielded before. Signals only make it sooner: a move that
 * nobody told of is found by the look, whose failure (the database is away) is tried again.
 */
export async function* followHead(
  source: Readonly<{ signal: HeadSignal; look: () => Promise<Position> }>,
  after: Position,
  abort: AbortSignal,
): AsyncGenerator<Position> {
  let seen = after;
  while (!abort.aborted) {
    if (source.signal.known() <= seen) {
      source.signal.moved(await source.look().catch(() => seen));
    }
    const head = source.signal.known();
    if (head > seen) {
      seen = head;
      yield head;
    } else {
      await source.signal.wait(seen, LOOK_MS, abort);
    }
  }
}
