import type { EventLog, StoredEvent } from '../../src/eventlog/eventlog.ts';
import { type RecordedEvent, readLine } from '../../src/eventlog/upcast.ts';

/** Everything the log holds, in order. */
export async function readWhole(log: EventLog): Promise<readonly StoredEvent[]> {
  const { position } = await log.head();
  const events: StoredEvent[] = [];
  let after = 0n;
  while (after < position) {
    const page = await log.readAll({ after, until: position, filter: {}, limit: 5_000 });
    events.push(...page.events);
    after = page.scannedTo;
  }
  return events;
}

export const parseAll = (events: readonly StoredEvent[]): RecordedEvent[] =>
  events.map(({ line }) => readLine(line));

/** What is wrong with a whole log's order, in words; empty when nothing is. */
export function findDisorder(events: readonly RecordedEvent[]): string[] {
  const faults: string[] = [];
  const revisions = new Map<string, bigint>();
  const ids = new Set<string>();
  for (const [index, event] of events.entries()) {
    if (event.position !== String(index + 1)) {
      faults.push(`position ${event.position} stands where ${index + 1} belongs`);
      // One hole shifts all that follows; naming it once is enough.
      break;
    }
  }
  for (const { stream, revision, event_id } of events) {
    const expected = (revisions.get(stream) ?? -1n) + 1n;
    if (BigInt(revision) !== expected) faults.push(`${stream} has ${revision}, not ${expected}`);
    revisions.set(stream, BigInt(revision));
    if (ids.has(event_id)) faults.push(`event ${event_id} is there twice`);
    ids.add(event_id);
  }
  return faults;
}
