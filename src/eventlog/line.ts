import type { ResourceRef, SubjectNames } from '../domain/decider.ts';
import { DomainError } from '../domain/errors.ts';
import { canonicalJson } from './canonical.ts';
import { type EventToAppend, subjectOf } from './eventlog.ts';
import { type Random, sealAll } from './personal.ts';

/** A Merkle entry bundle counts an entry's bytes in 16 bits (C2SP tlog-tiles). */
export const LINE_BYTES_MAX = 65_535;
/** Room for what only the append knows: position, revision and recorded time at their longest. */
const PLACED_BYTES_MAX = 19 + 19 + 27;

/**
 * An event ready to be placed: the committed line (RFC 8785, members in canonical order) is
 * `head position JOIN_RECORDED recordedAt mid revision tail`.
 */
export type PreparedEvent = Readonly<{
  eventId: string;
  type: string;
  actor: string;
  resource: string;
  mailDomains: readonly string[];
  head: string;
  mid: string;
  tail: string;
  /** Disclosures by class, as comma-joined JSON strings; null when the event has none. */
  identity: string | null;
  network: string | null;
  content: string | null;
  names: Readonly<{ subject: string; values: SubjectNames; disclosures: string }> | null;
}>;

/** Stands between position and recorded time; the append function has the same text. */
const JOIN_RECORDED = '","recorded_at":"';

/** Everything of the line that can be known before the append; throws when it cannot be a line. */
export function prepareEvent(stream: string, event: EventToAppend, random: Random): PreparedEvent {
  const { meta } = event;
  const data = sealAll(event.personal, random);
  const source = sealSource(event, random);
  const names = event.names === null ? null : sealNames(event.names, random);
  const head =
    `{"actor":${reference(meta.actor, [])},"causation_id":${nullable(meta.causationId)}` +
    `,"correlation_id":${quote(meta.correlationId)}` +
    `,"data":${canonicalJson(withDigests(event.data, data.digests))}` +
    `,"event_id":${quote(event.eventId)},"mail_domains":${JSON.stringify(event.mailDomains)}` +
    `,"occurred_at":${quote(meta.occurredAt)},"outcome":${quote(meta.outcome)},"position":"`;
  const mid =
    `","request_id":${nullable(meta.requestId)}` +
    `,"resource":${reference(event.resource, names?.digests ?? [])},"revision":"`;
  const tail =
    `","schema_version":${event.schemaVersion}` +
    `,"source":{${digestList(source?.digests ?? [])}"node":${quote(meta.source.node)}}` +
    `,"stream":${quote(stream)},"type":${quote(event.type)},"v":1}`;
  requireLineFits(head, mid, tail);
  return {
    eventId: event.eventId,
    type: event.type,
    actor: subjectOf(meta.actor),
    resource: subjectOf(event.resource),
    mailDomains: event.mailDomains,
    head,
    mid,
    tail,
    identity: data.byClass.identity,
    network: joinLists(data.byClass.network, source?.byClass.network ?? null),
    content: data.byClass.content,
    names:
      names === null || event.names === null
        ? null
        : {
            subject: subjectOf(event.resource),
            values: event.names,
            disclosures: names.byClass.identity ?? '',
          },
  };
}

/** The committed line, once the log has given the event its place. */
export function placeLine(
  { head, mid, tail }: PreparedEvent,
  place: Readonly<{ position: bigint; revision: bigint; recordedAt: string }>,
): string {
  const { position, revision, recordedAt } = place;
  return `${head}${position}${JOIN_RECORDED}${recordedAt}${mid}${revision}${tail}`;
}

const sealSource = ({ meta }: EventToAppend, random: Random) =>
  meta.source.ip === null && meta.source.userAgent === null
    ? null
    : sealAll(
        [
          { name: 'ip', value: meta.source.ip, class: 'network' },
          { name: 'user_agent', value: meta.source.userAgent, class: 'network' },
        ],
        random,
      );

const sealNames = (names: SubjectNames, random: Random) =>
  sealAll(
    Object.entries(names).map(([name, value]) => ({ name, value, class: 'identity' as const })),
    random,
  );

/** Digests are base64url, so they need no escape; `_sd` sorts before every member that follows it. */
const digestList = (digests: readonly string[]): string =>
  digests.length === 0 ? '' : `"_sd":["${digests.join('","')}"],`;

const reference = ({ id, type }: ResourceRef, digests: readonly string[]): string =>
  `{${digestList(digests)}"id":${quote(id)},"type":${quote(type)}}`;

const withDigests = <T extends object>(members: T, digests: readonly string[]) =>
  digests.length === 0 ? members : { ...members, _sd: digests };

function requireLineFits(head: string, mid: string, tail: string): void {
  const bytes =
    Buffer.byteLength(head) +
    Buffer.byteLength(mid) +
    Buffer.byteLength(tail) +
    JOIN_RECORDED.length +
    PLACED_BYTES_MAX;
  if (bytes <= LINE_BYTES_MAX) return;
  throw new DomainError('payload_too_large', `An event takes at most ${LINE_BYTES_MAX} bytes.`);
}

const joinLists = (a: string | null, b: string | null): string | null =>
  a === null ? b : b === null ? a : `${a},${b}`;
/** A string in canonical form; what has none (a lone surrogate) is refused as `canonicalJson` does. */
function quote(text: string): string {
  return PLAIN.test(text) ? `"${text}"` : canonicalJson(text);
}

/** Printable ASCII without quote and backslash, which is nearly every id: it stands for itself. */
const PLAIN = /^[ !#-[\]-~]*$/;
const nullable = (text: string | null): string => (text === null ? 'null' : quote(text));
