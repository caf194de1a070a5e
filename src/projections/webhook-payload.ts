import type { Json } from '../domain/decider.ts';
import type { StoredEvent } from '../eventlog/eventlog.ts';
import { type RecordedEvent, readLine } from '../eventlog/upcast.ts';
import { leafHash } from '../integrity/leaf.ts';
import { findWebhookType, webhookDataOf } from './webhook-catalogue.ts';
import { schemaOf } from './webhook-payload-schema.ts';

/** One event on its way to subscribers: what they share is read, hashed and serialised once. */
export type PreparedDelivery = Readonly<{
  position: bigint;
  eventId: string;
  type: string;
  /** The ordering key: the event's stream. */
  key: string;
  mailDomains: readonly string[];
  /** The payload's text before the sequence, and after the epoch; kept for each viewer. */
  partsFor: (mailDomain: string | null) => Parts;
}>;

type Parts = Readonly<{ head: string; tail: string }>;

/** Where a subscription has the event, and how far it may see. */
type PayloadPlace = Readonly<{
  /** Dense within the epoch; null before the subscription's first one. */
  sequence: number | null;
  epoch: number;
  /** The mail domain that the subscription is narrowed to; null for one that sees all. */
  mailDomain: string | null;
}>;

/** Reads a stored event for its deliveries; throws for a type that is not for subscribers. */
export function prepareEvent({
  position,
  line,
}: Pick<StoredEvent, 'position' | 'line'>): PreparedDelivery {
  const event = readLine(line);
  const found = findWebhookType(event.type);
  if (found === null) throw new Error(`${event.type} is not for subscribers`);
  const { schemaVersion } = found;
  const parts = new Map<string | null, Parts>();
  let shared: Shared | null = null;
  return {
    position,
    eventId: event.event_id,
    type: event.type,
    key: event.stream,
    mailDomains: event.mail_domains,
    partsFor(mailDomain) {
      const known = parts.get(mailDomain);
      if (known !== undefined) return known;
      shared ??= shareOf(event, line, schemaVersion);
      const made = {
        head: shared.head,
        tail: `${shared.log}${JSON.stringify(dataFor(event, mailDomain))}}`,
      };
      // At most one for each mail domain of the event: another's subscriber is refused before.
      parts.set(mailDomain, made);
      return made;
    },
  };
}

/**
 * The very text that is signed and sent, its members in the order of the contract. It depends on the
 * committed line, the schema's version and the place alone: a retry, a replay, another node and
 * the pull twin give the same bytes.
 */
export function renderPayload(prepared: PreparedDelivery, place: PayloadPlace): string {
  const { head, tail } = prepared.partsFor(place.mailDomain);
  return `${head}${place.sequence},"epoch":${place.epoch}${tail}`;
}

type Shared = Readonly<{ head: string; log: string }>;

function shareOf(event: RecordedEvent, line: string, schemaVersion: number): Shared {
  const first = JSON.stringify({
    type: event.type,
    timestamp: event.recorded_at,
    id: event.event_id,
    schema: schemaOf(event.type, schemaVersion),
  });
  const log = JSON.stringify({
    position: event.position,
    stream: event.stream,
    revision: event.revision,
    hash: `sha256:${leafHash(line).toString('hex')}`,
  });
  return {
    head: `${first.slice(0, -1)},"sequence":`,
    log: `,"log":${log},"key":${JSON.stringify(event.stream)},"data":`,
  };
}

function dataFor(event: RecordedEvent, mailDomain: string | null): Record<string, Json> {
  const { actor, resource, mail_domains: all } = event;
  // A filter that let another tenant's event through is a bug that must not reach the wire.
  if (mailDomain !== null && !all.includes(mailDomain)) {
    throw new Error(`event ${event.event_id} is not of mail domain ${mailDomain}`);
  }
  return {
    actor: { type: actor.type, id: actor.id },
    resource: { type: resource.type, id: resource.id },
    mail_domains: mailDomain === null ? all : [mailDomain],
    outcome: event.outcome,
    ...webhookDataOf(event, mailDomain),
  };
}
