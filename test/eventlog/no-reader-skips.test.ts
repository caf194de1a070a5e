import { randomBytes, randomInt, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { APP_ROLE, openClient } from '../../src/db/pool.ts';
import { appender } from '../../src/eventlog/append-batch.ts';
import type { AppendCommand, EventLog, ExpectedRevision } from '../../src/eventlog/eventlog.ts';
import { prepareEvent } from '../../src/eventlog/line.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';
import { untilBlocked } from '../support/lock-waits.ts';
import { findDisorder, parseAll, readWhole } from '../support/log-checks.ts';
import { type Raced, race } from '../support/race.ts';

const PAGES = [1, 7, 1_000];
const STREAMS = 40;
const LOGS = 3;
const BATCHING_WRITERS = 20;
const DIRECT_WRITERS = 12;

let database: TestDatabase;
let clients: pg.Client[];
beforeEach(async () => {
  database = await createDatabase();
  clients = [];
});
afterEach(async () => {
  for (const client of clients) await client.end();
  await database.drop();
});

async function connect(role: string | null): Promise<pg.Client> {
  const client = openClient({ url: database.url, role });
  await client.connect();
  clients.push(client);
  return client;
}

const readFrom =
  (log: EventLog): Raced['read'] =>
  async (after, limit) => {
    const { position: until } = await log.head();
    const { events } = await log.readAll({ after, until, filter: {}, limit });
    return events.map(({ position, line }) => ({ id: readLine(line).event_id, at: position }));
  };

type Tally = { conflicts: number; rollbacks: number; refused: number };

/** A writer that knows a stream only as it was when it last looked, so that some lose their race. */
function batchingWriter(log: EventLog, tally: Tally, known: bigint[]) {
  return async () => {
    const stream = randomInt(STREAMS);
    const last = known[stream] ?? -1n;
    const isBlind = randomInt(3) === 0;
    const expected: ExpectedRevision = isBlind ? 'any' : last === -1n ? 'none' : last;
    const events = Array.from({ length: 1 + randomInt(3) }, () => anEvent());
    await sleep(randomInt(3));
    const command: AppendCommand = { stream: `s-${stream}`, expected, events };
    const outcome = await log.append(command);
    if (outcome.kind === 'conflict') {
      tally.conflicts += 1;
      known[stream] = outcome.revision;
      return [];
    }
    known[stream] = outcome.revision;
    return events.map(({ eventId }) => eventId);
  };
}

/** A session that calls the append function in a transaction of its own. */
async function directSession() {
  let client: pg.Client | undefined;
  const { appendBatch, close } = appender(() => {
    client = openClient({ url: database.url, role: APP_ROLE });
    return client;
  });
  // Nothing but opens the connection.
  await appendBatch([]);
  return {
    close,
    /** Places one event and leaves the transaction open. */
    async place(): Promise<string> {
      const stream = `s-${randomInt(STREAMS)}`;
      const event = prepareEvent(stream, anEvent(), randomBytes);
      await client?.query('begin');
      await appendBatch([{ stream, expected: 'any', events: [event], bytes: 0 }]);
      return event.eventId;
    },
    end: (how: 'commit' | 'rollback') => client?.query(how),
  };
}

type DirectSession = Awaited<ReturnType<typeof directSession>>;

/** Half of what it places it takes back. */
function directWriter(session: DirectSession, tally: Tally) {
  return async () => {
    const id = await session.place();
    await sleep(randomInt(3));
    const isTakenBack = randomInt(2) === 0;
    await session.end(isTakenBack ? 'rollback' : 'commit');
    if (isTakenBack) tally.rollbacks += 1;
    return isTakenBack ? [] : [id];
  };
}

describe('the log under 32 writers', () => {
  it('shows every poller every event once, in order, without a hole', async () => {
    const logs = await Promise.all(Array.from({ length: LOGS }, database.openLog));
    const tally: Tally = { conflicts: 0, rollbacks: 0, refused: 0 };
    const known: bigint[] = [];
    const direct = await Promise.all(Array.from({ length: DIRECT_WRITERS }, directSession));
    const [log] = logs as [EventLog];
    const raced: Raced = {
      writers: [
        ...Array.from({ length: BATCHING_WRITERS }, (_, n) =>
          batchingWriter(logs[n % LOGS] as EventLog, tally, known),
        ),
        ...direct.map((session) => directWriter(session, tally)),
      ],
      read: readFrom(log),
    };
    const { committed, seen } = await race(raced, { attempts: 40, pages: PAGES });
    for (const { close } of direct) await close();

    const stored = parseAll(await readWhole(log));
    expect(findDisorder(stored)).toEqual([]);
    expect(stored.map((event) => event.event_id).sort()).toEqual([...committed].sort());
    for (const [page, entries] of seen) {
      expect([page, entries.map(({ at }) => at)]).toEqual([
        page,
        stored.map((_, n) => BigInt(n + 1)),
      ]);
      expect(entries.map(({ id }) => id)).toEqual(stored.map((event) => event.event_id));
    }
    // The race was one: some lost, some took back what they had placed.
    expect(tally.conflicts).toBeGreaterThan(0);
    expect(tally.rollbacks).toBeGreaterThan(0);
    expect(committed.length).toBeGreaterThan(500);
  });
});

describe('the control: a table with a sequence', () => {
  const ROUNDS_MAX = 10;

  it('loses events to the same pollers', async () => {
    const admin = await connect(null);
    await admin.query('create table naive (id bigserial primary key, event text not null)');
    const reader = await connect(null);
    let turn: Promise<unknown> = Promise.resolve();
    const raced: Raced = {
      writers: await Promise.all(
        Array.from({ length: 16 }, async () => {
          const client = await connect(null);
          return async () => {
            const event = randomUUID();
            await client.query('begin');
            await client.query('insert into naive (event) values ($1)', [event]);
            await sleep(randomInt(6));
            await client.query('commit');
            return [event];
          };
        }),
      ),
      async read(after, limit) {
        // One connection for all pollers, one query at a time.
        const query = turn.then(() =>
          reader.query<{ id: string; event: string }>(
            'select id, event from naive where id > $1 order by id limit $2',
            [after, limit],
          ),
        );
        turn = query;
        return (await query).rows.map(({ id, event }) => ({ id: event, at: BigInt(id) }));
      },
    };
    let lost = 0;
    for (let round = 1; round <= ROUNDS_MAX && lost === 0; round += 1) {
      await admin.query('truncate naive restart identity');
      const { committed, seen } = await race(raced, { attempts: 30, pages: PAGES });
      expect(committed).toHaveLength(16 * 30);
      lost = Math.max(...[...seen.values()].map((entries) => committed.length - entries.length));
    }
    expect(lost).toBeGreaterThan(0);
  });
});

describe('a rogue writer that takes max+1 without the lock', () => {
  const ROGUE = `
    insert into eventlog.events
      (position, revision, recorded_at, event_id, stream, type, actor, resource, line)
    select p, 0, clock_timestamp(), $1::uuid, 'rogue-' || $1, 'test.rogue', 'system:x', 'test:1',
           json_build_object('position', p::text, 'revision', '0', 'stream', 'rogue-' || $1,
                             'event_id', $1)::text
    from (select coalesce(max(position), 0) + 1 as p from eventlog.events) next`;

  it('is waited for and stepped behind, when it came first', async () => {
    const log = await database.openLog();
    const rogue = await connect(null);
    await rogue.query('begin');
    await rogue.query(ROGUE, [randomUUID()]);
    const appending = log.append({ stream: 's-1', expected: 'none', events: [anEvent()] });
    await untilBlocked(await connect(null), 'transactionid');
    await rogue.query('commit');
    expect(await appending).toMatchObject({ kind: 'appended', position: 2n });
    expect(findDisorder(parseAll(await readWhole(log)))).toEqual([]);
  });

  it('is refused by the primary key, when it came second', async () => {
    const log = await database.openLog();
    const session = await directSession();
    const rogue = await connect(null);
    const id = await session.place();
    const intruding = rogue.query(ROGUE, [randomUUID()]).catch((error: unknown) => error);
    await untilBlocked(await connect(null), 'transactionid');
    await session.end('commit');
    expect(await intruding).toMatchObject({ constraint: 'events_pkey' });
    const stored = parseAll(await readWhole(log));
    expect(stored.map((event) => event.event_id)).toEqual([id]);
    await session.close();
  });

  it('gets the place, when whoever had it takes that back', async () => {
    const log = await database.openLog();
    const session = await directSession();
    const rogue = await connect(null);
    await session.place();
    const id = randomUUID();
    const intruding = rogue.query(ROGUE, [id]);
    await untilBlocked(await connect(null), 'transactionid');
    await session.end('rollback');
    await intruding;
    await log.append({ stream: 's-1', expected: 'none', events: [anEvent()] });
    const stored = parseAll(await readWhole(log));
    expect(findDisorder(stored)).toEqual([]);
    expect(stored[0]?.event_id).toBe(id);
    await session.close();
  });

  it('causes errors, never holes, and no poller skips', async () => {
    const logs = await Promise.all(Array.from({ length: LOGS }, database.openLog));
    const [log] = logs as [EventLog];
    const tally: Tally = { conflicts: 0, rollbacks: 0, refused: 0 };
    const known: bigint[] = [];
    const rogueWriter = async () => {
      const client = await connect(null);
      return async () => {
        const id = randomUUID();
        await sleep(randomInt(40));
        await client.query('begin');
        try {
          await client.query(ROGUE, [id]);
          await sleep(randomInt(4));
          await client.query('commit');
          return [id];
        } catch (error) {
          await client.query('rollback');
          // Whoever was first has the place: the only refusal there may be.
          expect(error).toMatchObject({ constraint: 'events_pkey' });
          tally.refused += 1;
          return [];
        }
      };
    };
    const raced: Raced = {
      writers: [
        ...Array.from({ length: BATCHING_WRITERS }, (_, n) =>
          batchingWriter(logs[n % LOGS] as EventLog, tally, known),
        ),
        ...(await Promise.all(Array.from({ length: 3 }, rogueWriter))),
      ],
      read: readFrom(log),
    };
    const { committed, seen } = await race(raced, { attempts: 40, pages: PAGES });
    const stored = parseAll(await readWhole(log));
    expect(findDisorder(stored)).toEqual([]);
    expect(stored.map((event) => event.event_id).sort()).toEqual([...committed].sort());
    for (const entries of seen.values()) {
      expect(entries.map(({ id }) => id)).toEqual(stored.map((event) => event.event_id));
    }
    expect(stored.some(({ stream }) => stream.startsWith('rogue-'))).toBe(true);
    expect(tally.refused).toBeGreaterThan(0);
  });
});
