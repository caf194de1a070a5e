import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RecordedEvent } from '../../src/eventlog/upcast.ts';
import {
  acknowledged,
  ask,
  COMMANDS,
  CRASH_KINDS,
  crashRound,
  emptyBook,
  judge,
  readEverything,
  startLoad,
  untilAcknowledged,
  untilGone,
} from '../support/crash.ts';
import {
  cleanUp,
  databasePid,
  isAlive,
  makeHome,
  type Program,
  runRefused,
  startProgram,
} from '../support/program.ts';

// The number of rounds for every release is in crash.soak.ts.

afterAll(cleanUp, 60_000);

describe('kill -9 under the load of sixteen clients', () => {
  const home = makeHome();
  const book = emptyBook();
  let program: Program;
  beforeAll(async () => {
    program = await startProgram(home);
  });

  it.each(CRASH_KINDS)(
    'of the %s loses nothing that was acknowledged, and repeats nothing',
    async (kind) => {
      const before = acknowledged(book).length;
      const result = await crashRound(kind, { program, home, book });
      program = result.program;
      expect(result.verdict).toEqual({ lost: [], duplicates: [], disorder: [] });
      expect(book.surprises.splice(0)).toEqual([]);
      expect(acknowledged(book).length - before).toBeGreaterThan(COMMANDS);
    },
    60_000,
  );
  it('met the clients in mid-request, with 503 and Retry-After while the database was away', () => {
    expect(book.broken).toBeGreaterThan(0);
    expect(book.unavailable).toBeGreaterThan(0);
  });

  it('would have been noticed, had it lost or repeated anything (control)', async () => {
    const found = await readEverything(program, home);
    const some = acknowledged(book)[0];
    if (some === undefined) throw new Error('nothing was acknowledged');
    const forged = { ...some, name: 'never made', id: 999_999_999 };
    expect(judge([...book.sent, forged], found).lost).toHaveLength(2);
    const without = (event: RecordedEvent) =>
      !(event.type === `${some.kind}.created` && event.resource.id === String(some.id));
    const holed = judge(book.sent, { ...found, events: found.events.filter(without) });
    expect(holed.lost.length).toBeGreaterThan(0);
    expect(holed.disorder.length).toBeGreaterThan(0);
    const twice = new Map(found.objects[some.kind]).set(some.name, [some.id ?? 0, 1]);
    const repeated = { ...found, objects: { ...found.objects, [some.kind]: twice } };
    expect(judge(book.sent, repeated).duplicates).toHaveLength(1);
  });
});

describe('SIGTERM under load', () => {
  const home = makeHome();
  const book = emptyBook();
  let program: Program;
  let exitCode: unknown;
  let tookMs = 0;
  let database = 0;
  beforeAll(async () => {
    program = await startProgram(home);
    database = databasePid(home) ?? 0;
    const load = startLoad(program, home, book);
    await untilAcknowledged(book, COMMANDS);
    const begin = performance.now();
    program.kill('SIGTERM');
    exitCode = await program.ended();
    tookMs = performance.now() - begin;
    await load.stop();
  }, 60_000);

  it('ends with exit code 0, in bounded time, and its database with it', async () => {
    expect(exitCode).toBe(0);
    expect(tookMs).toBeLessThan(15_000);
    expect(await untilGone(database)).toBe(true);
    expect(book.surprises).toEqual([]);
  });

  it('does not wait for clients that keep their connections busy', () => {
    // Ten seconds are for answers that take long; none of these does.
    expect(tookMs).toBeLessThan(5_000);
  });

  it('has kept everything that was acknowledged, and counted every request in its windows', async () => {
    program = await startProgram(home);
    const found = await readEverything(program, home);
    expect(judge(book.sent, found)).toEqual({ lost: [], duplicates: [], disorder: [] });
    expect(acknowledged(book).length).toBeGreaterThanOrEqual(COMMANDS);
    const counted = found.events
      .filter(
        ({ type, resource, data }) =>
          type === 'api_key.used' && resource.id === '1' && data['kind'] === 'requests',
      )
      .reduce((sum, { data }) => sum + Number(data['requests']), 0);
    // A request whose connection broke may have been counted or not.
    expect(counted).toBeGreaterThanOrEqual(book.answers);
    expect(counted).toBeLessThanOrEqual(book.requests);
    program.kill('SIGTERM');
    expect(await program.ended()).toBe(0);
  });
});

describe('SIGTERM while the database is down', () => {
  it.each(['under load', 'when idle'])(
    'ends in bounded time, leaves no process, and keeps what was acknowledged (%s)',
    async (when) => {
      const home = makeHome();
      const book = emptyBook();
      const program = await startProgram(home);
      const load = startLoad(program, home, book);
      await untilAcknowledged(book, COMMANDS);
      if (when === 'when idle') await load.stop();
      const begin = performance.now();
      process.kill(databasePid(home) ?? 0, 'SIGKILL');
      program.kill('SIGTERM');
      await program.ended();
      expect(program.hasEnded()).toBe(true);
      expect(performance.now() - begin).toBeLessThan(20_000);
      await load.stop();
      expect(databasePid(home), program.output().slice(-2_000)).toBe(null);
      const next = await startProgram(home);
      const found = await readEverything(next, home);
      expect(judge(book.sent, found)).toEqual({ lost: [], duplicates: [], disorder: [] });
      next.kill('SIGTERM');
      expect(await next.ended()).toBe(0);
    },
    60_000,
  );
});

describe('a second start on the same data directory', () => {
  it('is refused with exit code 2 while the first lives, and does not disturb it', async () => {
    const home = makeHome();
    const book = emptyBook();
    const first = await startProgram(home);
    const database = databasePid(home) ?? 0;
    const load = startLoad(first, home, book);
    const { code, stderr } = await runRefused(home);
    await load.stop();
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: expect.stringMatching(/another gateway/i),
    });
    expect(first.hasEnded()).toBe(false);
    expect(databasePid(home)).toBe(database);
    expect(book).toMatchObject({ broken: 0, unavailable: 0, surprises: [] });
    expect(judge(book.sent, await readEverything(first, home))).toEqual({
      lost: [],
      duplicates: [],
      disorder: [],
    });

    first.kill('SIGKILL');
    await first.ended();
    expect(isAlive(database)).toBe(true);
    const next = await startProgram(home);
    expect(databasePid(home)).toBe(database);
    expect((await ask(next, home, { path: '/domains' }))?.status).toBe(200);
    next.kill('SIGTERM');
    expect(await next.ended()).toBe(0);
    expect(await untilGone(database)).toBe(true);
  }, 60_000);
});
