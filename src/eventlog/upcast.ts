import type { Actor, Json, Outcome, ResourceRef } from '../domain/decider.ts';

/** A committed line, parsed; the stored text stays what is hashed and exported. */
export type RecordedEvent = Readonly<{
  actor: Actor;
  causation_id: string | null;
  correlation_id: string;
  data: Readonly<Record<string, Json>>;
  event_id: string;
  mail_domains: readonly string[];
  occurred_at: string;
  outcome: Outcome;
  position: string;
  recorded_at: string;
  request_id: string | null;
  resource: ResourceRef;
  revision: string;
  schema_version: number;
  source: Readonly<{ node: string; _sd?: readonly string[] }>;
  stream: string;
  type: string;
  v: 1;
}>;

type Upcaster = (event: RecordedEvent) => RecordedEvent;

/**
 * From one stored version of a type to the next, keyed `type/version`. Pure; every fixture under
 * test/eventlog/fixtures must pass through. Empty until a stored shape changes its meaning.
 */
const UPCASTERS: Readonly<Record<string, Upcaster>> = {};

/** Whether lines of a type's stored version must be read by `readLine` to be understood. */
export const hasUpcaster = (type: string, schemaVersion: string): boolean =>
  `${type}/${schemaVersion}` in UPCASTERS;

/** Reads a committed line into today's shape; unknown types come back as they are. */
export function readLine(line: string): RecordedEvent {
  let event = JSON.parse(line) as RecordedEvent;
  for (;;) {
    const upcast = UPCASTERS[`${event.type}/${event.schema_version}`];
    if (upcast === undefined) return event;
    const next = upcast(event);
    if (next.schema_version <= event.schema_version) throw new Error('an upcaster must go up');
    event = next;
  }
}
