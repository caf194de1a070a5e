import type { Clock } from '../clock.ts';
import { DomainError } from '../domain/errors.ts';
import type { AddedData, FilterWish, TrainingClass } from '../domain/quarantine-language.ts';
import {
  type QuarantinedMessage,
  quarantinedMessage,
  quarantinedMessageStream,
} from '../domain/quarantined-message.ts';
import type { EventLog, EventMeta, StoredEvent } from '../eventlog/eventlog.ts';
import { openDisclosures } from '../eventlog/personal.ts';
import { readWholeStream } from '../eventlog/read-stream.ts';
import { systemMeta } from '../eventlog/system-meta.ts';
import { type RecordedEvent, readLine } from '../eventlog/upcast.ts';
import { type DisclosedMessage, readAdded } from '../projections/quarantine.ts';
import type { HeldFile } from './hold-queue.ts';

/** A message as its own events tell it: what an action on it needs to know. */
export type OpenedHistory = Readonly<{
  id: string;
  stream: string;
  state: QuarantinedMessage;
  mailDomains: readonly string[];
  disclosed: DisclosedMessage;
  arrivedAt: string;
  sizeBytes: number;
  /** The file in the hold queue; null for a message of the spool. */
  held: HeldFile | null;
  /** Of the bytes as they arrived. */
  sha256: string;
  /** The request that is under way, or was last. */
  asked: RecordedEvent | null;
  reason: string | null;
  /** When a transfer that was put off is due; null when none is. */
  retryAt: string | null;
  wish: Readonly<{
    kind: 'allow' | 'block';
    filters: FilterWish;
    recipients: number[] | null;
  }> | null;
  /** Trainings that were asked for, the oldest first, and what came of each; null while it is open. */
  trainings: readonly Readonly<{
    class: TrainingClass;
    asked: RecordedEvent;
    outcome: string | null;
  }>[];
}>;

const ACTIONS = [
  'quarantine.release_requested',
  'quarantine.discard_requested',
  'quarantine.reject_requested',
];

/** Reads a message's stream; throws `not_found` when there is none. */
export async function readHistory(log: EventLog, id: string): Promise<OpenedHistory> {
  const stream = quarantinedMessageStream(id);
  const stored = await readWholeStream(log, stream);
  const events = stored.map(({ line }) => readLine(line));
  const [added] = events;
  const [first] = stored;
  if (added === undefined || first === undefined) {
    throw new DomainError('not_found', 'There is no such message.');
  }
  const data = added.data as unknown as AddedData;
  const at = events.findLastIndex(({ type }) => ACTIONS.includes(type));
  const asked = events[at] ?? null;
  return {
    id,
    stream,
    state: events.reduce(
      (state, event) => quarantinedMessage.evolve(state, event as never),
      quarantinedMessage.initialState,
    ),
    mailDomains: added.mail_domains,
    disclosed: readAdded({ event: added, stored: first }),
    arrivedAt: data.arrived_at,
    sizeBytes: data.size_bytes,
    held: data.queue_file ? { queueId: data.queue_id, file: data.queue_file } : null,
    sha256: data.sha256,
    asked,
    reason: reasonIn(stored[at]),
    retryAt: retryOf(events.slice(at)),
    wish: wishOf(asked),
    trainings: trainingsIn(events),
  };
}

/** Of a try that was put off and is the last: a start after it has made good its time. */
function retryOf(events: readonly RecordedEvent[]): string | null {
  const tries = events.filter(({ type }) => /_(started|deferred)$/.test(type));
  return (tries.at(-1)?.data as { retry_at?: string } | undefined)?.retry_at ?? null;
}

function reasonIn(stored: StoredEvent | undefined): string | null {
  const value = openDisclosures(stored?.disclosures ?? '').get('reason');
  return typeof value === 'string' ? value : null;
}

function wishOf(asked: RecordedEvent | null): OpenedHistory['wish'] {
  const data = asked?.data as
    | Readonly<{
        allow_sender?: FilterWish | null;
        block_sender?: FilterWish | null;
        recipients?: number[] | null;
      }>
    | undefined;
  const recipients = data?.recipients ?? null;
  if (data?.allow_sender) return { kind: 'allow', filters: data.allow_sender, recipients };
  if (data?.block_sender) return { kind: 'block', filters: data.block_sender, recipients };
  return null;
}

/** Requests are met one after the other, in their order. */
function trainingsIn(events: readonly RecordedEvent[]): OpenedHistory['trainings'] {
  const requests = events.filter(({ type }) => type === 'quarantine.retrain_requested');
  const ends = events.filter(
    ({ type }) => type === 'quarantine.retrained' || type === 'quarantine.retrain_failed',
  );
  return requests.map((asked, index) => ({
    class: (asked.data as { class: TrainingClass }).class,
    asked,
    outcome: (ends[index]?.data as { outcome: string } | undefined)?.outcome ?? null,
  }));
}

/** What follows from a request is the system's doing, and correlated with it. */
export function metaAfter(
  { asked }: Pick<OpenedHistory, 'asked'>,
  { nodeId, clock }: Readonly<{ nodeId: string; clock: Clock }>,
): EventMeta {
  const meta = systemMeta({ nodeId }, clock.now(), asked?.correlation_id);
  return { ...meta, causationId: asked?.event_id ?? null };
}
