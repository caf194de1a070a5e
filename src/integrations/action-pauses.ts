import type { Clock } from '../clock.ts';
import type { DueIntent } from '../projections/quarantine-work.ts';

/** Which actions on messages have failed, and are left alone for a while. In memory: a restart tries all at once. */
export type ActionPauses = Readonly<{
  /** Leaves an action alone from now on. False when the same failure of its kind was told of before. */
  failed: (action: DueIntent, error: unknown) => boolean;
  /** It went well: whatever fails next of its kind is news. */
  ended: (action: DueIntent) => void;
  /** The messages to be left alone now. */
  messages: () => readonly string[];
}>;

const PAUSE_MS = 1_000;
const PAUSE_MS_MAX = 60_000;
/** Of those that failed; whoever is forgotten is tried again at once. */
const FAILED_MAX = 10_000;
/** Different failures of one kind of action; what goes beyond says nothing new. */
const TOLD_MAX = 100;

/** A second after the first failure, and twice as long after each further one, up to a minute. */
export function createActionPauses({ nowMs }: Pick<Clock, 'nowMs'>): ActionPauses {
  const failures = new Map<string, Readonly<{ id: string; pauseMs: number; untilMs: number }>>();
  const told = new Map<DueIntent['kind'], Set<string>>();
  const keyOf = ({ kind, messageId }: DueIntent) => `${kind}/${messageId}`;
  return {
    failed(action, error) {
      const key = keyOf(action);
      const before = failures.get(key)?.pauseMs ?? PAUSE_MS / 2;
      const pauseMs = Math.min(before * 2, PAUSE_MS_MAX);
      failures.delete(key);
      failures.set(key, { id: action.messageId, pauseMs, untilMs: nowMs() + pauseMs });
      const [oldest] = failures.keys();
      if (failures.size > FAILED_MAX && oldest !== undefined) failures.delete(oldest);
      const why = error instanceof Error ? error.message : String(error);
      const said = told.get(action.kind) ?? new Set();
      told.set(action.kind, said);
      if (said.has(why) || said.size >= TOLD_MAX) return false;
      said.add(why);
      return true;
    },
    ended(action) {
      failures.delete(keyOf(action));
      told.delete(action.kind);
    },
    messages() {
      const now = nowMs();
      return [...failures.values()].filter(({ untilMs }) => untilMs > now).map(({ id }) => id);
    },
  };
}
