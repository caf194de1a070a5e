import type { MailDomainEvent } from '../domain/mail-domain.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { readLine } from '../eventlog/upcast.ts';

/** Every id that a name ever had, living or deleted, oldest first, by the name's stream. */
export type MailDomainHistory = (stream: string) => Promise<readonly string[]>;

type Known = Readonly<{ ids: readonly string[]; next: bigint }>;

const PAGE_EVENTS = 1_000;
const STREAMS_MAX = 10_000;

/**
 * Reads the streams themselves, so it knows whatever was in the log when it is asked, and keeps what it
 * has read: only events that came since cost anything. Streams without events are not kept.
 */
export function mailDomainHistory(log: EventLog): MailDomainHistory {
  const known = new Map<string, Known>();
  return async (stream) => {
    let { ids, next }: Known = known.get(stream) ?? { ids: [], next: 0n };
    let count = PAGE_EVENTS;
    while (count === PAGE_EVENTS) {
      const events = await log.readStream(stream, next, PAGE_EVENTS);
      const facts = events.map(({ line }) => readLine(line) as unknown as MailDomainEvent);
      const made = facts.filter(({ type }) => type === 'mail_domain.created');
      ids = [...ids, ...made.map(({ data }) => data.id)];
      count = events.length;
      next += BigInt(count);
    }
    // Forgetting them costs reading them again.
    if (known.size >= STREAMS_MAX) known.clear();
    if (next > 0n) known.set(stream, { ids, next });
    return ids;
  };
}
