import type { StoredEvent } from '../eventlog/eventlog.ts';
import { openDisclosure, splitDisclosures } from '../eventlog/personal.ts';
import { hasUpcaster } from '../eventlog/upcast.ts';
import { NAMED, type Names } from './audit-lines.ts';

/** What the lines of a page have in common, as JSON text; it lasts and grows no longer than the page. */
export type SharedTexts = Readonly<{
  /** By subject: its name, and all that is shown of it as a resource. */
  names: ReadonlyMap<string, Readonly<{ name: string; members: string }>>;
  /** The list of ids with names in their place; null when it was not asked for all of them. */
  nameMailDomains: (ids: string) => string | null;
  /** The member that a disclosure discloses; null when its salt is none of ours. */
  open: (disclosure: string) => Member | null;
}>;

type Member = Readonly<{ label: string; value: string }>;

/**
 * The subjects whose names a page of lines shows, as far as a glance at the text tells. It may miss
 * one where the layout is unusual: `spliceLine` then leaves the line to those who parse it.
 */
export function glanceSubjects(events: readonly StoredEvent[]): ReadonlySet<string> {
  const subjects = new Set<string>();
  const lists = new Set<string>();
  for (const { line } of events) {
    const domainsAt = line.indexOf(MAIL_DOMAINS);
    const resourceAt = line.indexOf(RESOURCE, domainsAt);
    for (const at of [ACTOR.length, resourceAt + RESOURCE.length]) {
      const { type, id } = cutReference(line.slice(at, line.indexOf('}', at) + 1));
      if (NAMED.has(type)) subjects.add(`${type}:${id}`);
    }
    lists.add(line.slice(domainsAt + MAIL_DOMAINS.length, line.indexOf(']', domainsAt) + 1));
  }
  for (const ids of lists) for (const id of splitIds(ids)) subjects.add(`mail_domain:${id}`);
  return subjects;
}

const ACTOR = '{"actor":';
const RESOURCE = ',"resource":';
const MAIL_DOMAINS = ',"mail_domains":';

/** A reference as `eventlog/line.ts` writes it, `{"id":"…","type":"…"}`, without escapes. */
function cutReference(reference: string): { id: string; type: string } {
  const at = reference.indexOf('","type":"');
  return { id: reference.slice('{"id":"'.length, at), type: reference.slice(at + 10, -2) };
}

const splitIds = (ids: string): string[] => (ids === '[]' ? [] : ids.slice(2, -2).split('","'));

/** Names and disclosed values, made JSON once for all lines that show them. */
export function shareTexts(asked: ReadonlySet<string>, found: Names): SharedTexts {
  const names = new Map<string, { name: string; members: string }>();
  for (const [subject, { name, key_prefix }] of found) {
    const members = JSON.stringify({ name, key_prefix }).slice(1, -1);
    names.set(subject, { name: JSON.stringify(name), members });
  }
  const nameMailDomains = (ids: string) => {
    const subjects = splitIds(ids).map((id) => `mail_domain:${id}`);
    if (!subjects.every((subject) => asked.has(subject))) return null;
    const named = splitIds(ids).map((id) => names.get(`mail_domain:${id}`)?.name ?? `"${id}"`);
    return `[${named.join(',')}]`;
  };
  return { names, nameMailDomains: remember(nameMailDomains), open: rememberMembers() };
}

function remember<Value>(make: (text: string) => Value): (text: string) => Value {
  const known = new Map<string, Value>();
  return (text) => {
    const value = known.get(text) ?? make(text);
    known.set(text, value);
    return value;
  };
}

/**
 * `["`, a salt of 22 characters and `","` are 27 bytes, which base64 writes as 36 characters of their
 * own. What follows is the same text for the same name and value, so it is read once for all of them.
 */
const SALTED = 36;
const hasOwnSalt = (disclosure: string): boolean =>
  /^Wy[IJ]/.test(disclosure) && disclosure.startsWith('Iiwi', SALTED - 4);

function rememberMembers(): SharedTexts['open'] {
  const known = new Map<string, Member>();
  return (disclosure) => {
    if (!hasOwnSalt(disclosure)) return null;
    const unsalted = disclosure.slice(SALTED);
    const old = known.get(unsalted);
    if (old !== undefined) return old;
    const { name, value } = openDisclosure(disclosure);
    const member = { label: `${JSON.stringify(name)}:`, value: JSON.stringify(value) };
    known.set(unsalted, member);
    return member;
  };
}

/** A string without escapes. */
const PLAIN = String.raw`"[^"\\]*"`;
const REFERENCE = `{"id":${PLAIN},"type":${PLAIN}}`;
/** A member with the comma before it, which is shown as it stands. */
const member = (name: string, value = PLAIN) => `(,"${name}":${value})`;

/**
 * The committed line of `eventlog/line.ts` whole, from its first character to its last; but for the
 * digests in a resource, which has them where its names are set.
 *
 * Only `data` is free, and it is cut exactly. A quote that follows a comma and precedes a letter opens
 * a string: one that closes is followed by punctuation, one inside has a backslash before it. So
 * `,"event_id":` is the name of a member and never text; and behind it the pattern lets no names pass
 * but those it lists, each once. Were it a member inside `data`, the line's own would be in the way.
 */
const LINE = new RegExp(
  `^${ACTOR}(${REFERENCE}),"causation_id":(?:null|${PLAIN}),"correlation_id":${PLAIN}` +
    String.raw`,"data":{(?:"_sd":\[(${PLAIN}(?:,${PLAIN})*)\],?)?(.*)}${member('event_id')}` +
    String.raw`${MAIL_DOMAINS}(\[(?:${PLAIN}(?:,${PLAIN})*)?\])${member('occurred_at')}` +
    `${member('outcome')},("position":${PLAIN})${member('recorded_at')}` +
    `${member('request_id', `(?:null|${PLAIN})`)}${RESOURCE}(${REFERENCE})${member('revision')}` +
    member('schema_version', '[0-9]+') +
    String.raw`,"source":{("_sd":\[${PLAIN},${PLAIN}\],)?("node":${PLAIN})}` +
    `${member('stream')}${member('type')},"v":1}$`,
  's',
);

/** What `LINE` captures, in its order; by name would cost an object with a table of its own. */
type Cut = readonly [
  ...[line: string, actor: string, dataDigests: string | undefined, data: string, eventId: string],
  ...[mailDomains: string, occurredAt: string, outcome: string, position: string],
  ...[recordedAt: string, requestId: string, resource: string, revision: string],
  ...[schemaVersion: string, sourceDigests: string | undefined, node: string],
  ...[stream: string, type: string],
];

/**
 * Renders a stored event as `toAuditLine` does for a reader who may see all, as JSON text, from slices
 * of the stored line and without parsing it. Null when anything about it is unusual, or erased.
 */
export function spliceLine({ line, disclosures }: StoredEvent, shared: SharedTexts): string | null {
  const cut = LINE.exec(line) as Cut | null;
  if (cut === null) return null;
  // biome-ignore format: in the order of the line, as a whole.
  const [, actorText, dataDigests, data, eventId, ids, occurredAt, outcome, position, recordedAt,
    requestId, resourceText, revision, version, sourceDigests, node, stream, type] = cut;
  if (isUpcast(type, version)) return null;
  const actor = cutReference(actorText);
  const resource = cutReference(resourceText);
  const named = nameBoth(actor, resource, shared);
  const mailDomains = shared.nameMailDomains(ids);
  const disclosed = discloseAll(disclosures, { dataDigests, data, sourceDigests }, shared);
  if (named === null || mailDomains === null || disclosed === null) return null;
  return (
    `{${position}${eventId}${type}${version}${stream}${revision}${recordedAt}${occurredAt}` +
    `,"actor":{"type":"${actor.type}","id":"${actor.id}","name":${named.actor}}` +
    `,"resource":{"type":"${resource.type}","id":"${resource.id}",${named.resource}}` +
    `,"mail_domains":${mailDomains}${outcome}${requestId}` +
    `,"source":{${node},"ip":${disclosed.ip},"user_agent":${disclosed.userAgent}}` +
    `,"data":{${disclosed.data}},"erased":[],"withheld":[]}`
  );
}

const isUpcast = (type: string, version: string): boolean =>
  hasUpcaster(type.slice(',"type":"'.length, -1), version.slice(',"schema_version":'.length));

type Reference = ReturnType<typeof cutReference>;

/** The names of actor and resource; null when a subject that should have one has none. */
function nameBoth(
  actor: Reference,
  resource: Reference,
  { names }: SharedTexts,
): Readonly<{ actor: string; resource: string }> | null {
  const actorName = NAMED.has(actor.type) ? names.get(`${actor.type}:${actor.id}`)?.name : 'null';
  const members = NAMED.has(resource.type)
    ? names.get(`${resource.type}:${resource.id}`)?.members
    : '"name":null';
  if (actorName === undefined || members === undefined) return null;
  return { actor: actorName, resource: members };
}

/** Every committed member in its place; null unless all are there and each has a place of its own. */
function discloseAll(
  disclosures: string,
  committed: Readonly<{
    dataDigests: string | undefined;
    data: string;
    sourceDigests: string | undefined;
  }>,
  { open }: SharedTexts,
): Readonly<{ ip: string; userAgent: string; data: string }> | null {
  const hasSource = committed.sourceDigests !== undefined;
  const texts = splitDisclosures(disclosures);
  const inData = splitDisclosures(committed.dataDigests ?? '').length;
  if (texts.length !== inData + (hasSource ? 2 : 0)) return null;
  let ip = hasSource ? '' : 'null';
  let userAgent = ip;
  let { data } = committed;
  // `_sd` stands elsewhere behind a name that sorts before it; or it is not ours.
  if (data.includes('"_sd":')) return null;
  for (const text of texts) {
    const opened = open(text);
    if (opened === null) return null;
    const { label, value } = opened;
    if (label === '"ip":' && ip === '') ip = stringOrNull(value);
    else if (label === '"user_agent":' && userAgent === '') userAgent = stringOrNull(value);
    // One in `data` that is called as the source's cannot be told from it by its name; recipients are
    // sealed apart and shown together.
    else if (data.includes(label) || isRecipients(label) || (hasSource && isOfSource(label)))
      return null;
    else data += data === '' ? label + value : `,${label}${value}`;
  }
  return ip === '' || userAgent === '' ? null : { ip, userAgent, data };
}

const isOfSource = (label: string): boolean => label === '"ip":' || label === '"user_agent":';
const isRecipients = (label: string): boolean => label.startsWith('"recipients.');
const stringOrNull = (value: string): string => (value.startsWith('"') ? value : 'null');
