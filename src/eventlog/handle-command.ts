import { createHash } from 'node:crypto';
import { uuidv7 } from 'uuidv7';
import type { Decider, DomainEvent, ResourceRef } from '../domain/decider.ts';
import { DomainError } from '../domain/errors.ts';
import { EVENT_TYPES } from '../domain/events.ts';
import type { EventLog, EventMeta, EventToAppend, Position } from './eventlog.ts';
import { readWholeStream } from './read-stream.ts';
import { type RecordedEvent, readLine } from './upcast.ts';

export type CommandCall<Command> = Readonly<{
  stream: string;
  resource: ResourceRef;
  /** Ids of the mail domains that the events belong to. */
  mailDomains: readonly string[];
  command: Command;
  meta: EventMeta;
  /** Event ids derive from it, so a command that is run again finds its own events. */
  commandId: string;
  /** Tells apart the appends of a composite command. */
  step?: string;
  /** The revision that the caller last saw (`If-Match`); another one is refused as `stale`. */
  ifRevision?: bigint | null;
}>;

export type Handled<State> = Readonly<{
  state: State;
  /** Revision of the stream after the command. */
  revision: bigint;
  /** Position of the last event, or null when nothing had to be recorded. */
  position: Position | null;
  recordedAt: string | null;
  /** Set when the command had already been carried out: the events as they were recorded. */
  earlier: readonly RecordedEvent[] | null;
}>;

const TRIES_MAX = 5;

/**
 * Reads the stream, folds it, decides, and appends at the revision that was read; a lost race is
 * decided again, a bounded number of times. A refusal of the decider changes nothing.
 */
export async function handleCommand<State, Command, Event extends DomainEvent>(
  log: EventLog,
  decider: Decider<State, Command, Event>,
  call: CommandCall<Command>,
): Promise<Handled<State>> {
  for (let tries = 1; tries <= TRIES_MAX; tries += 1) {
    const { state, revision, events } = await readState(log, decider, call.stream);
    const done = findOwnEvents(events, call);
    if (done !== null) return { ...done, state };
    const wanted = call.ifRevision ?? null;
    if (wanted !== null && wanted !== revision) {
      throw new DomainError('stale', 'The resource has changed since you read it.');
    }
    const facts = decider.decide(call.command, state);
    if (facts.length === 0) {
      return { state, revision, position: null, recordedAt: null, earlier: null };
    }
    const outcome = await log.append({
      stream: call.stream,
      expected: revision === -1n ? 'none' : revision,
      events: facts.map((fact, ordinal) => toAppend(fact, call, ordinal)),
    });
    if (outcome.kind === 'conflict') continue;
    const { position, recordedAt } = outcome;
    if (outcome.kind === 'duplicate') {
      const earlier = await readEarlier(log, position, facts.length);
      // Recorded here since the stream was read, as when the answer to this very append was lost: it is read again,
      // since `state` is from before. In another stream an earlier run took another new id.
      if (earlier[0]?.stream === call.stream) continue;
      return { state, revision: outcome.revision, position, recordedAt, earlier };
    }
    const after = facts.reduce((s, fact) => decider.evolve(s, fact), state);
    return { state: after, revision: outcome.revision, position, recordedAt, earlier: null };
  }
  throw new DomainError('unavailable', 'Too many others are changing this; try again.', {
    retry_after_seconds: 1,
  });
}

/**
 * What an earlier run of a creating command has made in place of `id`, which each run takes anew; null where this
 * run has made it, also when it was told so only on asking again, since its first answer was lost.
 */
export function madeBefore({ earlier }: Handled<unknown>, id: number): RecordedEvent | null {
  const first = earlier?.[0];
  return first === undefined || first.resource.id === String(id) ? null : first;
}

/** An aggregate as its stream tells it; revision -1 for a stream that does not exist. */
export async function readState<State, Command, Event extends DomainEvent>(
  log: EventLog,
  decider: Decider<State, Command, Event>,
  stream: string,
): Promise<{ state: State; revision: bigint; events: readonly RecordedEvent[] }> {
  const events = (await readWholeStream(log, stream)).map(({ line }) => readLine(line));
  const state = events.reduce(
    // The stream holds what this decider wrote, in the shapes that upcasting promises.
    (folded, event) => decider.evolve(folded, event as unknown as Event),
    decider.initialState,
  );
  return { state, revision: BigInt(events.length) - 1n, events };
}

/** A fresh command id: time-ordered, so that event ids stay at the right edge of their index. */
export const newCommandId = (): string => uuidv7();

/**
 * The command id of something that may be recorded again after a crash: the same time and text give the
 * same id, so the second time is found to be a duplicate.
 */
export function commandIdOf(timeMs: number, text: string): string {
  const time = Math.floor(timeMs).toString(16).padStart(12, '0');
  const digest = createHash('sha256').update(text).digest('hex');
  return `${time.slice(0, 8)}-${time.slice(8)}-7${digest.slice(0, 3)}-8${digest.slice(3, 6)}-${digest.slice(6, 18)}`;
}

/**
 * The id of one event of a command: a UUID of version 8 (RFC 9562 section 5.8), its time from the
 * command id, the rest a digest of command, step and ordinal.
 */
export function eventIdOf(commandId: string, step: string, ordinal: number): string {
  const digest = createHash('sha256').update(`${commandId}/${step}/${ordinal}`).digest('hex');
  const time = commandId.slice(0, 13);
  const variant = ((Number.parseInt(digest.slice(3, 4), 16) & 0x3) | 0x8).toString(16);
  return `${time}-8${digest.slice(0, 3)}-${variant}${digest.slice(4, 7)}-${digest.slice(7, 19)}`;
}

/** An event ready for the log, from a fact and the call that led to it. */
export function toAppend(
  fact: DomainEvent,
  call: Omit<CommandCall<unknown>, 'command' | 'stream'>,
  ordinal = 0,
): EventToAppend {
  const known = EVENT_TYPES[fact.type as keyof typeof EVENT_TYPES];
  return {
    eventId: eventIdOf(call.commandId, call.step ?? '', ordinal),
    type: fact.type,
    schemaVersion: known.schemaVersion,
    resource: call.resource,
    mailDomains: call.mailDomains,
    data: fact.data,
    personal: fact.personal ?? [],
    names: fact.names ?? null,
    meta: known.outcome === undefined ? call.meta : { ...call.meta, outcome: known.outcome },
  };
}

/** What an earlier run of this very command has recorded in this stream, however the stream went on. */
function findOwnEvents(
  events: readonly RecordedEvent[],
  { commandId, step = '' }: Pick<CommandCall<unknown>, 'commandId' | 'step'>,
): Omit<Handled<never>, 'state'> | null {
  const start = events.findIndex(({ event_id }) => event_id === eventIdOf(commandId, step, 0));
  if (start === -1) return null;
  const earlier = events
    .slice(start)
    .filter(({ event_id }, ordinal) => event_id === eventIdOf(commandId, step, ordinal));
  const last = earlier.at(-1);
  if (last === undefined) return null;
  return {
    revision: BigInt(last.revision),
    position: BigInt(last.position),
    recordedAt: last.recorded_at,
    earlier,
  };
}

async function readEarlier(
  log: EventLog,
  last: Position,
  count: number,
): Promise<readonly RecordedEvent[]> {
  const page = await log.readAll({
    after: last - BigInt(count),
    until: last,
    filter: {},
    limit: count,
  });
  return page.events.map(({ line }) => readLine(line));
}
