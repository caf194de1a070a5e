import { randomBytes, randomUUID } from 'node:crypto';
import type { SubjectNames } from '../domain/decider.ts';
import { DomainError } from '../domain/errors.ts';
import type {
  AppendCommand,
  AppendOutcome,
  EventLog,
  LogFilter,
  ReadRange,
  StoredEvent,
} from './eventlog.ts';
import { toEvidence } from './evidence.ts';
import { followHead, headSignal } from './follow.ts';
import { type PreparedEvent, placeLine, prepareEvent } from './line.ts';
import type { Random } from './personal.ts';
import { type RecordedEvent, readLine } from './upcast.ts';

type Kept = Readonly<{ event: PreparedEvent; line: string; recorded: RecordedEvent }> & {
  identity: string | null;
};

export type MemoryLogOptions = Readonly<{ now?: () => Date; random?: Random }>;

/** The log in an array, for tests: the same promises as every adapter but durability. */
export function memoryEventLog(options: MemoryLogOptions = {}): EventLog {
  const { events, inStream, append, stored, names, signal } = memoryStore(options);
  let isClosed = false;
  return {
    identity: { logId: randomUUID(), epoch: 1, minimumPosition: 1n },
    append: async (command) => {
      if (isClosed) throw new DomainError('unavailable', 'The log is closing.');
      return append(command);
    },
    readStream: async (stream, from = 0n, limit = Number.POSITIVE_INFINITY) =>
      inStream(stream)
        .filter(({ recorded }) => BigInt(recorded.revision) >= from)
        .slice(0, limit)
        .map(stored),
    async readAll(range) {
      const { page, scannedTo } = pageOf(events, range);
      return { events: page.map(stored), scannedTo };
    },
    async readLines(range) {
      const { page, scannedTo } = pageOf(events, range);
      const lines = page.map(({ line, recorded }) => ({
        ...{ line, type: recorded.type },
        position: BigInt(recorded.position),
      }));
      return { lines, scannedTo };
    },
    count: async (range) => BigInt(pageOf(events, { ...range, limit: events.length }).page.length),
    async positionOf(eventId) {
      const found = events.find(({ event }) => event.eventId === eventId);
      return found === undefined ? null : BigInt(found.recorded.position);
    },
    readSegment: async (after, until) => ({
      events: events.slice(Number(after), Number(until)).map(stored),
      scannedTo: until,
    }),
    readEvidence: async (after, until) => ({
      ...toEvidence(events.slice(Number(after), Number(until)).map(stored)),
      scannedTo: until,
    }),
    follow: (after, abort) =>
      followHead({ signal, look: async () => BigInt(events.length) }, after, abort),
    head: async () => ({
      position: BigInt(events.length),
      recordedAt: events.at(-1)?.recorded.recorded_at ?? null,
    }),
    positionBefore: async (time) => {
      const first = events.findIndex(({ recorded }) => recorded.recorded_at >= time);
      return BigInt(first === -1 ? events.length : first);
    },
    readNames: async (subjects) =>
      new Map(
        subjects.flatMap((subject) => {
          const known = names.get(subject);
          return known === undefined ? [] : [[subject, known.values] as const];
        }),
      ),
    async eraseSubject(subject) {
      names.delete(subject);
      for (const kept of events) if (kept.event.resource === subject) kept.identity = null;
    },
    queueDepth: () => 0,
    async close() {
      isClosed = true;
    },
  };
}

function memoryStore({ now = () => new Date(), random = randomBytes }: MemoryLogOptions) {
  const events: Kept[] = [];
  const byId = new Map<string, Kept>();
  const names = new Map<string, { values: SubjectNames; disclosures: Map<string, string> }>();
  const signal = headSignal(0n);
  let lastMicros = 0n;

  const inStream = (stream: string) => events.filter(({ recorded }) => recorded.stream === stream);

  function append(command: AppendCommand): AppendOutcome {
    const prepared = command.events.map((event) => prepareEvent(command.stream, event, random));
    const duplicate = byId.get(prepared[0]?.eventId ?? '');
    if (duplicate !== undefined) return asDuplicate(duplicate, prepared.length);
    if (prepared.some(({ eventId }) => byId.has(eventId))) throw new Error('event id is taken');
    const revision = BigInt(inStream(command.stream).length) - 1n;
    if (!isExpected(command.expected, revision)) return { kind: 'conflict', revision };
    const micros = BigInt(now().getTime()) * 1_000n;
    lastMicros = micros > lastMicros ? micros : lastMicros + 1n;
    const recordedAt = toTimestamp(lastMicros);
    for (const [index, event] of prepared.entries()) {
      const place = {
        position: BigInt(events.length + 1),
        revision: revision + BigInt(index + 1),
        recordedAt,
      };
      const line = placeLine(event, place);
      const kept = { event, line, recorded: readLine(line), identity: event.identity };
      events.push(kept);
      byId.set(event.eventId, kept);
      if (event.names !== null) rememberNames(event.eventId, event.names);
    }
    const position = BigInt(events.length);
    signal.moved(position);
    return { kind: 'appended', position, revision: revision + BigInt(prepared.length), recordedAt };
  }

  function rememberNames(id: string, set: NonNullable<PreparedEvent['names']>): void {
    const known = names.get(set.subject);
    const disclosures = known?.disclosures ?? new Map<string, string>();
    disclosures.set(id, set.disclosures);
    names.set(set.subject, { values: { ...known?.values, ...set.values }, disclosures });
  }

  function stored({ event, line, identity, recorded }: Kept): StoredEvent {
    const named = names.get(event.resource)?.disclosures.get(event.eventId) ?? null;
    const lists = [identity, event.network, event.content, named].filter((list) => list !== null);
    return { position: BigInt(recorded.position), line, disclosures: lists.join(',') };
  }

  return { events, inStream, append, stored, names, signal };
}

function pageOf(events: readonly Kept[], range: ReadRange) {
  const { after, until, filter, limit, order = 'asc' } = range;
  const isUp = order === 'asc';
  const matching = events
    .slice(Number(after < 0n ? 0n : after), Number(until))
    .filter(({ recorded }) => matches(filter, recorded));
  const page = (isUp ? matching : matching.toReversed()).slice(0, limit);
  const last = page.at(-1);
  if (page.length < limit || last === undefined) return { page, scannedTo: isUp ? until : after };
  const position = BigInt(last.recorded.position);
  return { page, scannedTo: isUp ? position : position - 1n };
}

function asDuplicate({ recorded }: Kept, count: number): AppendOutcome {
  const further = BigInt(count - 1);
  return {
    kind: 'duplicate',
    position: BigInt(recorded.position) + further,
    revision: BigInt(recorded.revision) + further,
    recordedAt: recorded.recorded_at,
  };
}

function isExpected(expected: AppendCommand['expected'], revision: bigint): boolean {
  if (expected === 'any') return true;
  if (expected === 'none') return revision === -1n;
  if (expected === 'exists') return revision >= 0n;
  return expected === revision;
}

function matches(filter: LogFilter, event: RecordedEvent): boolean {
  const among = (list: readonly string[] | undefined, value: string) =>
    list === undefined || list.includes(value);
  const typeMatches =
    filter.typePrefixes === undefined
      ? among(filter.types, event.type)
      : filter.typePrefixes.some((prefix) => event.type.startsWith(prefix)) ||
        (filter.types ?? []).includes(event.type);
  const inDomain = (ids: readonly string[] | undefined) =>
    ids === undefined || ids.some((id) => event.mail_domains.includes(id));
  return (
    typeMatches &&
    among(filter.actors, `${event.actor.type}:${event.actor.id}`) &&
    among(filter.actorTypes, event.actor.type) &&
    among(filter.resources, `${event.resource.type}:${event.resource.id}`) &&
    among(filter.resourceTypes, event.resource.type) &&
    among(filter.outcomes, event.outcome) &&
    (filter.occurredFrom === undefined || event.occurred_at >= filter.occurredFrom) &&
    (filter.occurredTo === undefined || event.occurred_at < filter.occurredTo) &&
    inDomain(filter.mailDomains) &&
    inDomain(filter.visibleTo === undefined ? undefined : [filter.visibleTo])
  );
}

function toTimestamp(micros: bigint): string {
  const millis = new Date(Number(micros / 1_000n)).toISOString();
  return `${millis.slice(0, -1)}${(micros % 1_000n).toString().padStart(3, '0')}Z`;
}
