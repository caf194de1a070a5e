import type { Json, SubjectNames } from '../domain/decider.ts';
import { EVENT_TYPES } from '../domain/events.ts';
import { digestOf, openDisclosure, splitDisclosures } from '../eventlog/personal.ts';
import type { RecordedEvent } from '../eventlog/upcast.ts';

/** One line as people and SIEMs read it: disclosed values and names in their natural place. */
export type AuditLine = Readonly<{
  position: string;
  cursor?: string;
  event_id: string;
  type: string;
  schema_version: number;
  stream: string;
  revision: string;
  recorded_at: string;
  occurred_at: string;
  actor: Readonly<{ type: string; id: string; name: string | null }>;
  resource: Readonly<{ type: string; id: string; name: string | null; key_prefix?: string }>;
  mail_domains: readonly string[];
  outcome: string;
  request_id: string | null;
  source: Readonly<{ node: string; ip: string | null; user_agent: string | null }>;
  data: Readonly<Record<string, Json | undefined>>;
  /** Members that were recorded and have been erased since. */
  erased: readonly string[];
  /** Members that this reader may not see. */
  withheld: readonly string[];
}>;

export type Names = ReadonlyMap<string, SubjectNames>;

/** Says which actors a narrowed reader may know; null for a reader who may know all. */
export type Viewer = Readonly<{ knowsActor: (actor: RecordedEvent['actor']) => boolean }> | null;

/** Types whose subjects always have a name, so that one without was erased. */
const NAMED = new Set(['api_key', 'operator', 'mail_domain']);

/** The subjects whose names a page of lines shows. */
export function subjectsOf(events: readonly RecordedEvent[]): string[] {
  const subjects = new Set<string>();
  for (const { actor, resource, mail_domains } of events) {
    if (NAMED.has(actor.type)) subjects.add(`${actor.type}:${actor.id}`);
    if (NAMED.has(resource.type)) subjects.add(`${resource.type}:${resource.id}`);
    for (const id of mail_domains) subjects.add(`mail_domain:${id}`);
  }
  return [...subjects];
}

/** Renders one stored event for one reader. */
export function toAuditLine(
  event: RecordedEvent,
  disclosures: string,
  { names, viewer }: Readonly<{ names: Names; viewer: Viewer }>,
): AuditLine {
  const erased: string[] = [];
  const withheld: string[] = [];
  const disclosed = discloseAll(disclosures);
  const knowsActor = viewer === null || viewer.knowsActor(event.actor);
  const actorName = names.get(`${event.actor.type}:${event.actor.id}`)?.name ?? null;
  if (!knowsActor && actorName !== null) withheld.push('actor.name');
  if (knowsActor && actorName === null && NAMED.has(event.actor.type)) erased.push('actor.name');
  const own = names.get(`${event.resource.type}:${event.resource.id}`);
  if (own === undefined && NAMED.has(event.resource.type) && event.resource.id !== 'unknown') {
    erased.push('resource.name');
    if (event.resource.type === 'api_key') erased.push('resource.key_prefix');
  }
  return {
    position: event.position,
    event_id: event.event_id,
    type: event.type,
    schema_version: event.schema_version,
    stream: event.stream,
    revision: event.revision,
    recorded_at: event.recorded_at,
    occurred_at: event.occurred_at,
    actor: { type: event.actor.type, id: event.actor.id, name: knowsActor ? actorName : null },
    resource: {
      type: event.resource.type,
      id: event.resource.id,
      name: own?.name ?? null,
      ...(own?.key_prefix === undefined ? {} : { key_prefix: own.key_prefix }),
    },
    mail_domains: event.mail_domains.map((id) => names.get(`mail_domain:${id}`)?.name ?? id),
    outcome: event.outcome,
    request_id: event.request_id,
    source: readSource(event, disclosed, { knowsActor, erased, withheld }),
    data: readData(event, disclosed, erased),
    erased,
    withheld,
  };
}

type Disclosed = ReadonlyMap<string, Readonly<{ name: string; value: Json }>>;

function discloseAll(list: string): Disclosed {
  const disclosed = new Map<string, Readonly<{ name: string; value: Json }>>();
  for (const text of splitDisclosures(list)) disclosed.set(digestOf(text), openDisclosure(text));
  return disclosed;
}

const SOURCE_MEMBERS = ['ip', 'user_agent'] as const;

function readSource(
  { source }: RecordedEvent,
  disclosed: Disclosed,
  { knowsActor, erased, withheld }: { knowsActor: boolean; erased: string[]; withheld: string[] },
): AuditLine['source'] {
  const read: { node: string; ip: string | null; user_agent: string | null } = {
    node: source.node,
    ip: null,
    user_agent: null,
  };
  if (source._sd === undefined) return read;
  if (!knowsActor) {
    withheld.push(...SOURCE_MEMBERS.map((member) => `source.${member}`));
    return read;
  }
  const found = new Set<string>();
  for (const digest of source._sd) {
    const member = disclosed.get(digest);
    if (member?.name !== 'ip' && member?.name !== 'user_agent') continue;
    found.add(member.name);
    read[member.name] = typeof member.value === 'string' ? member.value : null;
  }
  for (const member of SOURCE_MEMBERS) if (!found.has(member)) erased.push(`source.${member}`);
  return read;
}

function readData(
  event: RecordedEvent,
  disclosed: Disclosed,
  erased: string[],
): Record<string, Json | undefined> {
  const { _sd: digests, ...data } = event.data;
  if (!Array.isArray(digests)) return data;
  const read: Record<string, Json | undefined> = data;
  let missing = 0;
  for (const digest of digests) {
    const member = disclosed.get(String(digest));
    if (member === undefined) missing += 1;
    else read[member.name] = member.value;
  }
  if (missing === 0) return read;
  // An event commits all personal members of its type or none, so what is not here was erased. A type
  // that this release does not know can only be counted.
  const known = EVENT_TYPES[event.type as keyof typeof EVENT_TYPES] as
    | (typeof EVENT_TYPES)[keyof typeof EVENT_TYPES]
    | undefined;
  const gone = Object.keys(known?.personal ?? {}).filter((name) => !(name in read));
  erased.push(...(gone.length > 0 ? gone.map((name) => `data.${name}`) : ['data.*']));
  return read;
}
