import type pg from 'pg';
import type { Clock } from '../clock.ts';
import type { MessageStore } from '../domain/message-store.ts';
import { quarantinedMessage, quarantinedMessageStream } from '../domain/quarantined-message.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { commandIdOf, handleCommand } from '../eventlog/handle-command.ts';
import { systemMeta } from '../eventlog/system-meta.ts';
import {
  type ExpiredMessage,
  findExpiredMessages,
  markContentRemoved,
} from '../projections/quarantine-work.ts';

const PAGE_MESSAGES = 500;
const AT_ONCE = 16;
/** One turn of the job; what is left waits for the next. */
const PAGES_MAX = 200;

type Deps = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  store: MessageStore;
  clock: Clock;
  nodeId: string;
}>;

/**
 * Ends what is held beyond its time: the message expires, and its bytes are removed, also those of one that
 * was released. Returns how many were ended; on the signal what is left waits for the next turn. Doing it again changes
 * nothing.
 */
export async function endRetention(deps: Deps, signal?: AbortSignal): Promise<number> {
  const isStopped = () => signal?.aborted === true;
  let ended = 0;
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const due = await findExpiredMessages(deps.pool, deps.clock.now(), PAGE_MESSAGES);
    const removed: string[] = [];
    for (let at = 0; at < due.length && !isStopped(); at += AT_ONCE) {
      const some = due.slice(at, at + AT_ONCE);
      const isEnded = await Promise.all(some.map((message) => end(deps, message)));
      removed.push(...some.filter((_, index) => isEnded[index]).map(({ id }) => id));
    }
    await markContentRemoved(deps.pool, removed);
    ended += removed.length;
    if (due.length < PAGE_MESSAGES || isStopped()) break;
  }
  return ended;
}

/** False when an action came first: it goes on, and its own end decides about the bytes. */
async function end(deps: Deps, { id, isOpen, mailDomains }: ExpiredMessage): Promise<boolean> {
  if (isOpen) {
    const { state } = await handleCommand(deps.log, quarantinedMessage, {
      stream: quarantinedMessageStream(id),
      resource: { type: 'quarantined_message', id },
      mailDomains: mailDomains.map(String),
      command: { type: 'Expire' },
      meta: systemMeta(deps, deps.clock.now(), `retention-${deps.clock.nowMs()}`),
      commandId: commandIdOf(deps.clock.nowMs(), `expire/${id}`),
    });
    if (state.state !== 'expired') return false;
  }
  await deps.store.remove(id);
  return true;
}
