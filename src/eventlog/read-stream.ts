import type { EventLog, StoredEvent } from './eventlog.ts';

const PAGE_EVENTS = 10_000;

/** Every event of a stream, also where there are more than one read gives: each look inside a message is an event. */
export async function readWholeStream(log: EventLog, stream: string): Promise<StoredEvent[]> {
  const stored: StoredEvent[] = [];
  for (;;) {
    const page = await log.readStream(stream, BigInt(stored.length), PAGE_EVENTS);
    stored.push(...page);
    if (page.length < PAGE_EVENTS) return stored;
  }
}
