import type { MessageStore } from '../domain/message-store.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import type { Outlet } from './outlet.ts';
import { readHistory } from './quarantine-history.ts';

/** Where held mail is, and how it leaves from there. */
type Place = Readonly<{ store: MessageStore; outlet: Outlet }>;

/**
 * Both places at once: a message stays where it was taken in, also when new mail is held elsewhere since. What is
 * said of usage is of the place for new mail, the hold queue.
 */
export function eitherPlace(
  log: EventLog,
  { spool, holdQueue }: Readonly<{ spool: Place; holdQueue: Place }>,
): Place {
  const placeOf = ({ held }: Readonly<{ held: unknown }>) => (held === null ? spool : holdQueue);
  const storeOf = async (id: string) => placeOf(await readHistory(log, id)).store;
  return {
    store: {
      open: async (id) => (await storeOf(id)).open(id),
      remove: async (id) => (await storeOf(id)).remove(id),
      usage: holdQueue.store.usage,
    },
    outlet: {
      release: (history, ...rest) => placeOf(history).outlet.release(history, ...rest),
      reject: (history, ...rest) => placeOf(history).outlet.reject(history, ...rest),
      discard: (history) => placeOf(history).outlet.discard(history),
    },
  };
}
