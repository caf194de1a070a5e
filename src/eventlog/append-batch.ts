import pg from 'pg';
import { encodeArray } from './binary-array.ts';
import type { AppendOutcome, ExpectedRevision } from './eventlog.ts';
import type { AppendBatch, PreparedCommand } from './group-commit.ts';
import type { PreparedEvent } from './line.ts';
import { isConnectionError, unavailable } from './unavailable.ts';

const CALL = {
  name: 'append_batch',
  text: `select command, outcome, last_revision, last_position, at from eventlog.append_batch(
    $1::text[], $2::bigint[], $3::int[], $4::uuid[],
    $5::int[], $6::int[], $7::uuid[], $8::text[], $9::text[], $10::text[],
    $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
    $17::int[], $18::bigint[], $19::jsonb)`,
  rowMode: 'array',
} as const;

const TRIES_MAX = 8;
const FIRST_PAUSE_MS = 50;
const PAUSE_MS_MAX = 1_000;

/** The appending side of one database: a connection of its own, made anew when it breaks. */
export type Appender = Readonly<{ appendBatch: AppendBatch; close: () => Promise<void> }>;

/**
 * Calls the append function with a whole batch. When the connection breaks under a call nobody knows
 * whether it committed, so the same event ids are sent again: `duplicate` says which had been.
 */
export function appender(connect: () => pg.Client): Appender {
  let client: pg.Client | null = null;

  async function connection(): Promise<pg.Client> {
    if (client !== null) return client;
    const fresh = connect();
    await fresh.connect();
    fresh.once('end', () => {
      if (client === fresh) client = null;
    });
    client = fresh;
    return fresh;
  }

  async function drop(): Promise<void> {
    const broken = client;
    client = null;
    await broken?.end().catch(() => undefined);
  }

  return {
    async appendBatch(batch) {
      const values = encodeBatch(batch);
      let pauseMs = FIRST_PAUSE_MS;
      for (let tries = 1; ; tries += 1) {
        try {
          const { rows } = await (await connection()).query<Row>({ ...CALL, values });
          return toOutcomes(rows);
        } catch (error) {
          // Another writer ignored the lock and took our positions: the primary key refused us.
          const isRace = error instanceof pg.DatabaseError && error.constraint === 'events_pkey';
          const isConnection = isConnectionError(error);
          if (!isRace && !isConnection) throw error;
          if (isConnection) await drop();
          if (tries >= TRIES_MAX) throw unavailable();
        }
        await new Promise((resolve) => setTimeout(resolve, pauseMs));
        pauseMs = Math.min(PAUSE_MS_MAX, pauseMs * 2);
      }
    },
    close: drop,
  };
}

type Row = [number, AppendOutcome['kind'], string, string | null, string | null];

function toOutcomes(rows: readonly Row[]): AppendOutcome[] {
  return rows.map(([, kind, revision, position, at]) =>
    kind === 'conflict' || position === null || at === null
      ? { kind: 'conflict', revision: BigInt(revision) }
      : { kind, position: BigInt(position), revision: BigInt(revision), recordedAt: at },
  );
}

const EXPECTED = { any: -2n, none: -1n, exists: -4n } as const;
const expectedCode = (expected: ExpectedRevision): bigint =>
  typeof expected === 'bigint' ? expected : EXPECTED[expected];

/** The members of an event that are sent as they are, in the order of the call. */
const TEXTS = [
  'type',
  'actor',
  'resource',
  'head',
  'mid',
  'tail',
  'identity',
  'network',
  'content',
] as const satisfies readonly (keyof PreparedEvent)[];

/** What events add to a call in bytes, but for ids and numbers: those are small, and events are counted besides. */
export function bytesOf(events: readonly PreparedEvent[]): number {
  let bytes = 0;
  for (const event of events) {
    for (const name of TEXTS) bytes += Buffer.byteLength(event[name] ?? '');
    if (event.names !== null) bytes += Buffer.byteLength(JSON.stringify(event.names));
  }
  return bytes;
}

function encodeBatch(batch: readonly PreparedCommand[]): unknown[] {
  const events: PreparedEvent[] = [];
  const commandOf: number[] = [];
  const ordinals: number[] = [];
  for (const [index, command] of batch.entries()) {
    for (const [ordinal, event] of command.events.entries()) {
      events.push(event);
      commandOf.push(index + 1);
      ordinals.push(ordinal + 1);
    }
  }
  const mailDomains = events.flatMap((event, index) =>
    event.mailDomains.map((id) => ({ event: index + 1, id: BigInt(id) })),
  );
  return [
    encodeArray(
      'text',
      batch.map((command) => command.stream),
    ),
    encodeArray(
      'int8',
      batch.map((command) => expectedCode(command.expected)),
    ),
    encodeArray(
      'int4',
      batch.map((command) => command.events.length),
    ),
    encodeArray(
      'uuid',
      batch.map((command) => command.events[0]?.eventId ?? null),
    ),
    encodeArray('int4', commandOf),
    encodeArray('int4', ordinals),
    encodeArray(
      'uuid',
      events.map((event) => event.eventId),
    ),
    ...TEXTS.map((name) =>
      encodeArray(
        'text',
        events.map((event) => event[name]),
      ),
    ),
    encodeArray(
      'int4',
      mailDomains.map(({ event }) => event),
    ),
    encodeArray(
      'int8',
      mailDomains.map(({ id }) => id),
    ),
    encodeNames(events),
  ];
}

function encodeNames(events: readonly PreparedEvent[]): string {
  const named = events.flatMap(({ names }, index) =>
    names === null
      ? []
      : [
          {
            event: index + 1,
            subject: names.subject,
            ...names.values,
            disclosures: names.disclosures,
          },
        ],
  );
  return JSON.stringify(named);
}
