import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { APP_ROLE, openClient } from '../../src/db/pool.ts';
import { DomainError } from '../../src/domain/errors.ts';
import { appender } from '../../src/eventlog/append-batch.ts';
import type { AppendOutcome, EventLog } from '../../src/eventlog/eventlog.ts';
import {
  type AppendBatch,
  groupCommit,
  type PreparedCommand,
  QUEUE_COMMANDS_MAX,
} from '../../src/eventlog/group-commit.ts';
import { prepareEvent } from '../../src/eventlog/line.ts';
import { postgresEventLog } from '../../src/eventlog/postgres.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';
import { findDisorder, parseAll, readWhole } from '../support/log-checks.ts';
import { type PgProxy, startPgProxy } from '../support/pg-proxy.ts';

let names = 0;
function aStream(): string {
  names += 1;
  return `s-${names}`;
}

function aCommand(fields: Partial<PreparedCommand> & { count?: number } = {}): PreparedCommand {
  const { count = 1, ...rest } = fields;
  const stream = rest.stream ?? aStream();
  const events = Array.from({ length: count }, () => prepareEvent(stream, anEvent(), randomBytes));
  return { expected: 'any', events, bytes: 500, ...rest, stream };
}

/** Takes every batch and keeps it; while shut, the batch in flight waits. */
function recordingBatches() {
  const batches: (readonly PreparedCommand[])[] = [];
  let gate = Promise.resolve();
  let openGate: () => void = () => undefined;
  let position = 0n;
  const appendBatch: AppendBatch = async (batch) => {
    await gate;
    batches.push(batch);
    return batch.map(({ events }): AppendOutcome => {
      position += BigInt(events.length);
      return { kind: 'appended', position, revision: 0n, recordedAt: '' };
    });
  };
  return {
    appendBatch,
    batches,
    taken: () => batches.flat(),
    shut() {
      gate = new Promise((resolve) => {
        openGate = resolve;
      });
    },
    open: () => openGate(),
  };
}

describe('groupCommit', () => {
  it('sends a lone command at once, and what queued up meanwhile together', async () => {
    const store = recordingBatches();
    const { append } = groupCommit(store.appendBatch);
    await append(aCommand());
    store.shut();
    const waiting = Array.from({ length: 50 }, () => append(aCommand()));
    store.open();
    await Promise.all(waiting);
    expect(store.batches.map((batch) => batch.length)).toEqual([1, 50]);
  });

  it('refuses what is beyond its bound with a time to retry, and loses nothing it accepted', async () => {
    const store = recordingBatches();
    const { append, depth } = groupCommit(store.appendBatch);
    store.shut();
    const first = append(aCommand());
    await sleep(0);
    const template = aCommand();
    const accepted = Array.from({ length: QUEUE_COMMANDS_MAX }, (_, n) => {
      const [event] = template.events;
      // Only ids and streams differ: twenty thousand lines would take long to prepare.
      const events = event === undefined ? [] : [{ ...event, eventId: `id-${n}` }];
      return append({ ...template, stream: `q-${n}`, events });
    });
    expect(depth()).toBe(QUEUE_COMMANDS_MAX + 1);
    const surplus = await Promise.allSettled([append(aCommand()), append(aCommand())]);
    for (const result of surplus) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { code: 'unavailable', details: { retry_after_seconds: 1 } },
      });
    }
    store.open();
    await Promise.all([first, ...accepted]);
    const streams = store.taken().map(({ stream }) => stream);
    expect(streams.slice(1)).toEqual(accepted.map((_, n) => `q-${n}`));
    expect(depth()).toBe(0);
    await append(aCommand());
  });

  it('is bounded in bytes too', async () => {
    const store = recordingBatches();
    const { append } = groupCommit(store.appendBatch);
    store.shut();
    const first = append(aCommand());
    await sleep(0);
    const accepted = [0, 1].map(() => append(aCommand({ bytes: 67_108_864 })));
    await expect(append(aCommand())).rejects.toMatchObject({ code: 'unavailable' });
    store.open();
    await Promise.all([first, ...accepted]);
    await append(aCommand());
  });

  it('puts at most 1,000 events and 4 MB into a batch, and a larger command alone', async () => {
    const store = recordingBatches();
    const { append } = groupCommit(store.appendBatch);
    await Promise.all([
      ...Array.from({ length: 5 }, () => append(aCommand({ count: 300 }))),
      append(aCommand({ count: 1_200 })),
      ...Array.from({ length: 5 }, () => append(aCommand({ bytes: 1_500_000 }))),
      append(aCommand({ bytes: 9_000_000 })),
      append(aCommand()),
    ]);
    const sizes = store.batches.map((batch) => ({
      commands: batch.length,
      events: batch.reduce((sum, { events }) => sum + events.length, 0),
      bytes: batch.reduce((sum, { bytes }) => sum + bytes, 0),
    }));
    for (const { commands, events, bytes } of sizes) {
      if (commands === 1) continue;
      expect(events).toBeLessThanOrEqual(1_000);
      expect(bytes).toBeLessThanOrEqual(4_194_304);
    }
    expect(sizes.map(({ commands }) => commands)).toEqual([3, 2, 1, 2, 2, 1, 1, 1]);
  });

  it('names each stream and each first event once in a batch, and keeps the order of a stream', async () => {
    const store = recordingBatches();
    const { append } = groupCommit(store.appendBatch);
    const commands = Array.from({ length: 200 }, (_, n) => aCommand({ stream: `o-${n % 7}` }));
    const [twin] = commands;
    if (twin !== undefined) commands.splice(50, 0, { ...twin, stream: 'o-other' });
    await Promise.all(commands.map(append));
    for (const batch of store.batches) {
      expect(new Set(batch.map(({ stream }) => stream)).size).toBe(batch.length);
      expect(new Set(batch.map(({ events }) => events[0]?.eventId)).size).toBe(batch.length);
    }
    const idsOf = (list: readonly PreparedCommand[], stream: string) =>
      list.filter((c) => c.stream === stream).map(({ events }) => events[0]?.eventId);
    for (const stream of [...new Set(commands.map((c) => c.stream))]) {
      expect(idsOf(store.taken(), stream)).toEqual(idsOf(commands, stream));
    }
  });

  it('looks at a command a few times only, however many wait for its stream', async () => {
    const store = recordingBatches();
    const { append } = groupCommit(store.appendBatch);
    const [event] = aCommand().events;
    let looks = 0;
    const commands = Array.from({ length: 3_000 }, (_, n) => {
      const events = Object.defineProperty([], '0', {
        enumerable: true,
        get() {
          looks += 1;
          return { ...event, eventId: `hot-${n}` };
        },
      }) as unknown as PreparedCommand['events'];
      return aCommand({ stream: 'hot', events });
    });
    await Promise.all(commands.map(append));
    expect(store.batches).toHaveLength(commands.length);
    expect(looks).toBeLessThanOrEqual(4 * commands.length);
  });

  it('lets nobody overtake: what a stream held back goes by its arrival', async () => {
    const store = recordingBatches();
    const { append } = groupCommit(store.appendBatch);
    const large = (stream: string) => aCommand({ stream, count: 400 });
    const streams = ['a', 'a', 'b', 'c', 'd', 'a', 'e', 'b', 'f'];
    await Promise.all(streams.map((stream) => append(large(stream))));
    const batches = store.batches.map((batch) => batch.map(({ stream }) => stream).join(''));
    expect(batches).toEqual(['ab', 'ac', 'da', 'eb', 'f']);
  });

  it('fails only the poison of a batch, in few calls', async () => {
    const store = recordingBatches();
    let calls = 0;
    const poison = aCommand();
    const { append } = groupCommit((batch) => {
      calls += 1;
      const isPoisoned = batch.some(({ stream }) => stream === poison.stream);
      return isPoisoned ? Promise.reject(new Error('poison')) : store.appendBatch(batch);
    });
    const commands = Array.from({ length: 63 }, () => aCommand());
    commands.splice(20, 0, poison);
    const results = await Promise.allSettled(commands.map(append));
    expect(results.flatMap(({ status }, n) => (status === 'rejected' ? [n] : []))).toEqual([20]);
    expect(store.taken()).toHaveLength(63);
    expect(calls).toBeLessThanOrEqual(2 * 6 + 1);
  });

  it('fails a whole batch at once when the log cannot be reached, and goes on after', async () => {
    const store = recordingBatches();
    let calls = 0;
    const { append } = groupCommit((batch) => {
      calls += 1;
      const away = new DomainError('unavailable', 'away');
      return calls === 1 ? Promise.reject(away) : store.appendBatch(batch);
    });
    const results = await Promise.allSettled(Array.from({ length: 10 }, () => append(aCommand())));
    expect(results.every(({ status }) => status === 'rejected')).toBe(true);
    expect(calls).toBe(1);
    await append(aCommand());
  });

  it('closes when everything it accepted has ended, and accepts nothing more', async () => {
    const store = recordingBatches();
    const { append, close } = groupCommit(store.appendBatch);
    store.shut();
    let ended = 0;
    const accepted = Array.from({ length: 300 }, (_, n) =>
      append(aCommand({ stream: `c-${n % 10}` })).then(() => {
        ended += 1;
      }),
    );
    const closing = close().then(() => ended);
    await expect(append(aCommand())).rejects.toMatchObject({ code: 'unavailable' });
    store.open();
    expect(await closing).toBe(300);
    await Promise.all(accepted);
  });
});

describe('appending while connections break', () => {
  let database: TestDatabase;
  let proxy: PgProxy;
  let admin: pg.Client;
  let log: EventLog;
  beforeEach(async () => {
    database = await createDatabase();
    proxy = await startPgProxy(database.url);
    admin = openClient({ url: database.url, role: null });
    await admin.connect();
    const connect = () => openClient({ url: proxy.url, role: APP_ROLE });
    log = await postgresEventLog({ pool: database.pool, exportPool: database.pool, connect });
  });
  afterEach(async () => {
    await log.close();
    await admin.end();
    await proxy.close();
    await database.drop();
  });

  /** Appends that many commands at once, some of several events; each must end as appended. */
  async function appendMany(count: number): Promise<string[]> {
    const commands = Array.from({ length: count }, (_, n) => ({
      stream: `k-${n % 20}`,
      expected: 'any' as const,
      events: Array.from({ length: 1 + (n % 3) }, () => anEvent()),
    }));
    const outcomes = await Promise.all(commands.map(log.append));
    for (const { kind } of outcomes) expect(kind).not.toBe('conflict');
    return commands.flatMap(({ events }) => events.map(({ eventId }) => eventId));
  }

  async function expectExactly(ids: readonly string[]): Promise<void> {
    const stored = parseAll(await readWhole(log));
    expect(findDisorder(stored)).toEqual([]);
    expect(stored.map((event) => event.event_id).sort()).toEqual([...ids].sort());
  }

  /** Ends the backends that wait inside the append function. */
  async function killAppenders(): Promise<number> {
    const { rowCount } = await admin.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and wait_event = 'advisory'`,
    );
    return rowCount ?? 0;
  }

  it('records each command once when its backend is ended in mid-append', async () => {
    const ids: string[] = [];
    for (let round = 0; round < 3; round += 1) {
      await admin.query('select pg_advisory_lock(7310001)');
      const appending = appendMany(64);
      let killed = 0;
      while (killed === 0) {
        await sleep(5);
        killed = await killAppenders();
      }
      await admin.query('select pg_advisory_unlock(7310001)');
      ids.push(...(await appending));
    }
    await expectExactly(ids);
  });

  it('records each command once when the connection breaks after the commit, before the answer', async () => {
    const ids = await appendMany(10);
    for (let round = 1; round <= 3; round += 1) {
      proxy.cutAnswers(1);
      ids.push(...(await appendMany(64)));
      expect(proxy.cuts()).toBe(round);
    }
    await expectExactly(ids);
  });

  it('finds its own events as duplicates, which is what kept them from being there twice', async () => {
    const { appendBatch, close } = appender(() => openClient({ url: proxy.url, role: APP_ROLE }));
    const batch = Array.from({ length: 5 }, () => aCommand({ count: 2 }));
    proxy.cutAnswers(1);
    const outcomes = await appendBatch(batch);
    expect(proxy.cuts()).toBe(1);
    expect(outcomes.map(({ kind }) => kind)).toEqual(Array(5).fill('duplicate'));
    await close();
  });

  it('would have them twice with ids that are made anew for each try: the control', async () => {
    let answered = 0;
    const tryOnce = async () => {
      let isUsed = false;
      const once = appender(() => {
        if (isUsed) throw new Error('one try only');
        isUsed = true;
        return openClient({ url: proxy.url, role: APP_ROLE });
      });
      await once.appendBatch([aCommand({ count: 2 })]).then(
        () => {
          answered += 1;
        },
        () => undefined,
      );
      await once.close();
    };
    proxy.cutAnswers(1);
    while (answered === 0) await tryOnce();
    expect(await readWhole(log)).toHaveLength(4);
  });

  it('records each command once when connections are ended again and again under load', async () => {
    const ids: string[] = [];
    let isLoading = true;
    const loading = Promise.all(
      Array.from({ length: 16 }, async () => {
        for (let n = 0; n < 10; n += 1) ids.push(...(await appendMany(2)));
      }),
    ).finally(() => {
      isLoading = false;
    });
    let killed = 0;
    while (isLoading) {
      const { rowCount } = await admin.query(
        `select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and query like '%eventlog.append_batch%'
           and pid <> pg_backend_pid()`,
      );
      killed += rowCount ?? 0;
      await sleep(60);
    }
    await loading;
    expect(killed).toBeGreaterThan(2);
    await expectExactly(ids);
  });

  it('refuses as unavailable while the server is away, and goes on when it is back', async () => {
    const ids = await appendMany(3);
    proxy.shut();
    await expect(
      log.append({ stream: 'k-0', expected: 'any', events: [anEvent()] }),
    ).rejects.toMatchObject({ code: 'unavailable', details: { retry_after_seconds: 1 } });
    proxy.open();
    ids.push(...(await appendMany(3)));
    await expectExactly(ids);
  });
});
