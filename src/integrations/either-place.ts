import type { MessageStore } from '../domain/message-store.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import type { Outlet } from './outlet.ts';
import type { PostfixStore } from './postfix-store.ts';
import { type OpenedHistory, readHistory } from './quarantine-history.ts';

/** Where held mail is, and how it leaves from there. */
type Place<Store = MessageStore> = Readonly<{ store: Store; outlet: Outlet }>;

/**
 * Both places at once: a message stays where it was taken in, also when new mail is held elsewhere since. What is
 * said of usage is of the place for new mail, the hold queue.
 */
export function eitherPlace(
  log: EventLog,
  { spool, holdQueue }: Readonly<{ spool: Place; holdQueue: Place<PostfixStore> }>,
): Place {
  const outletOf = ({ held }: OpenedHistory) => (held === null ? spool : holdQueue).outlet;
  return {
    store: {
      async open(id) {
        const history = await readHistory(log, id);
        return history.held === null ? spool.store.open(id) : holdQueue.store.open(history);
      },
      async remove(id) {
        const history = await readHistory(log, id);
        return history.held === null ? spool.store.remove(id) : holdQueue.store.remove(history);
      },
      usage: holdQueue.store.usage,
    },
    outlet: {
      release: (history, ...rest) => outletOf(history).release(history, ...rest),
      reject: (history, ...rest) => outletOf(history).reject(history, ...rest),
      discard: (history) => outletOf(history).discard(history),
    },
  };
}
