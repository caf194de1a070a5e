import type { Clock } from '../../src/clock.ts';

export type StoppedClock = Clock & {
  advance: (ms: number) => void;
  /** The instant as the API prints it. */
  text: () => string;
};

/**
 * A clock that moves only when a test says so, for what is exact to the millisecond. It begins five
 * seconds into the present minute, or into one that lies `behindMs` back: the database has its own.
 */
export function stoppedClock(behindMs = 0): StoppedClock {
  let ms = Math.floor((Date.now() - behindMs) / 60_000) * 60_000 + 5_250;
  return {
    now: () => new Date(ms),
    nowMs: () => ms,
    advance(by) {
      ms += by;
    },
    text: () => new Date(ms).toISOString(),
  };
}
