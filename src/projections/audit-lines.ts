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

/** What a narrowed reader may know: one mail domain, and some actors; null for one who may know all. */
export type Viewer = Readonly<{
  mailDomain: string;
  knowsActor: (actor: RecordedEvent['actor']) => boolean;
}> | null;

/** Types whose subjects always have a name, so that one without was erased. */
export const NAMED: ReadonlySet<string> = new Set(['api_key', 'operator', 'mail_domain']);

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
  const disclosed = discloseAll(event, disclosures);
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
    mail_domains: mailDomainsFor(event, viewer, withheld).map(
      (id) => names.get(`mail_domain:${id}`)?.name ?? id,
    ),
    outcome: event.outcome,
    request_id: event.request_id,
    source: readSource(event, disclosed, { knowsActor, erased, withheld }),
    data: readData(event, disclosed, { viewer, erased, withheld }),
    erased,
    withheld,
  };
}

type Disclosed = Readonly<{ source: readonly Member[]; data: readonly Member[] }>;
type Member = Readonly<{ name: string; value: Json }>;

/** What is disclosed of `source` and of `data`, each told by its digest, or by its name where that is certain. */
function discloseAll(event: RecordedEvent, list: string): Disclosed {
  const texts = splitDisclosures(list);
  const members = texts.map(openDisclosure);
  const certain = placeByName(event, members);
  if (certain !== null) return certain;
  const source = new Set(event.source._sd);
  const data = new Set(Array.isArray(event.data['_sd']) ? event.data['_sd'].map(String) : []);
  const digests = texts.map(digestOf);
  return {
    source: members.filter((_, index) => source.has(digests[index] ?? '')),
    data: members.filter((_, index) => data.has(digests[index] ?? '')),
  };
}

/**
 * Spares the hashes of an ordinary event. When as many members are disclosed as were committed, nothing is
 * erased; when one of them is called as each of the source's is, it is the source's, which commits
 * all of its members or none. Anything else is null, and left to the digests.
 */
function placeByName(event: RecordedEvent, members: readonly Member[]): Disclosed | null {
  const committed = event.data['_sd'];
  const inData = Array.isArray(committed) ? committed.length : 0;
  if (event.source._sd?.length !== SOURCE_MEMBERS.length || '_sd' in event.resource) return null;
  if (members.length !== SOURCE_MEMBERS.length + inData) return null;
  const source = members.filter(({ name }) => isSourceMember(name));
  if (source.length !== SOURCE_MEMBERS.length || source[0]?.name === source[1]?.name) return null;
  return { source, data: members.filter(({ name }) => !isSourceMember(name)) };
}

const SOURCE_MEMBERS = ['ip', 'user_agent'] as const;
const isSourceMember = (name: string): name is (typeof SOURCE_MEMBERS)[number] =>
  name === 'ip' || name === 'user_agent';

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
  for (const { name, value } of disclosed.source) {
    if (!isSourceMember(name)) continue;
    found.add(name);
    read[name] = typeof value === 'string' ? value : null;
  }
  for (const member of SOURCE_MEMBERS) if (!found.has(member)) erased.push(`source.${member}`);
  return read;
}

/** Of several mail domains, a narrowed reader is told its own. */
function mailDomainsFor(event: RecordedEvent, viewer: Viewer, withheld: string[]) {
  if (viewer === null) return event.mail_domains;
  const own = event.mail_domains.filter((id) => id === viewer.mailDomain);
  if (own.length < event.mail_domains.length) withheld.push('mail_domains');
  return own;
}

function readData(
  event: RecordedEvent,
  disclosed: Disclosed,
  { viewer, erased, withheld }: { viewer: Viewer; erased: string[]; withheld: string[] },
): Record<string, Json | undefined> {
  const { _sd: digests, ...data } = withOwnGroups(event.data, viewer, withheld);
  if (!Array.isArray(digests)) return data;
  const read: Record<string, Json | undefined> = data;
  for (const { name, value } of disclosed.data) place(read, name, value, { viewer, withheld });
  if (disclosed.data.length < digests.length) erased.push(...goneOf(event, read, withheld));
  return read;
}

/** How many recipients stand in which mail domain: a narrowed reader is not told which the others are. */
function withOwnGroups(
  data: RecordedEvent['data'],
  viewer: Viewer,
  withheld: string[],
): RecordedEvent['data'] {
  if (viewer === null || !Array.isArray(data['recipients_of'])) return data;
  const groups = data['recipients_of'] as readonly { mail_domain: string | null }[];
  const isForeign = ({ mail_domain: id }: { mail_domain: string | null }) =>
    id !== null && id !== viewer.mailDomain;
  if (!groups.some(isForeign)) return data;
  withheld.push('data.recipients_of');
  const own = groups.map((group) => (isForeign(group) ? { ...group, mail_domain: null } : group));
  return { ...data, recipients_of: own };
}

const RECIPIENTS = 'recipients.';
/** Members that hold words about every recipient, whoever's they are. */
const OF_ALL_RECIPIENTS = ['replies'];

/** Puts a disclosed member where it belongs, unless it is another tenant's. */
function place(
  read: Record<string, Json | undefined>,
  name: string,
  value: Json,
  { viewer, withheld }: { viewer: Viewer; withheld: string[] },
): void {
  const withhold = (member: string) => {
    if (!withheld.includes(member)) withheld.push(member);
  };
  if (name.startsWith(RECIPIENTS)) {
    const isOwn = viewer === null || name === RECIPIENTS + viewer.mailDomain;
    if (!isOwn) {
      withhold('data.recipients');
      return;
    }
    const known = Array.isArray(read['recipients']) ? (read['recipients'] as Json[]) : [];
    read['recipients'] = [...known, ...(Array.isArray(value) ? (value as Json[]) : [])];
    return;
  }
  const isShared = withheld.includes('mail_domains') && OF_ALL_RECIPIENTS.includes(name);
  if (isShared) withhold(`data.${name}`);
  else read[name] = value;
}

/**
 * What was erased. An event commits all personal members of its type or none, so what is not here was; of a
 * type that this release does not know they can only be counted.
 */
function goneOf(
  event: RecordedEvent,
  read: Readonly<Record<string, unknown>>,
  withheld: readonly string[],
): string[] {
  const known = EVENT_TYPES[event.type as keyof typeof EVENT_TYPES] as
    | (typeof EVENT_TYPES)[keyof typeof EVENT_TYPES]
    | undefined;
  const gone = Object.keys(known?.personal ?? {})
    .filter((name) => !(name in read))
    .map((name) => `data.${name}`)
    .filter((member) => !withheld.includes(member));
  return gone.length > 0 ? gone : ['data.*'];
}
