import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { APP_ROLE, openClient, openPool } from '../../src/db/pool.ts';
import { postgresEventLog } from '../../src/eventlog/postgres.ts';
import { projectionsOf } from '../../src/projections/list.ts';
import { rebuildProjection } from '../../src/projections/rebuild.ts';
import {
  ask,
  COMMANDS,
  emptyBook,
  exportLog,
  judge,
  readEverything,
  startLoad,
  untilAcknowledged,
} from '../support/crash.ts';
import { cleanUp, databaseUrl, makeHome, type Program, startProgram } from '../support/program.ts';

const PAGE = 37;

type Forwarded = Readonly<{ position: string; event_id: string }>;

/** A forwarder as sites run them: it keeps its last cursor, and goes on from it whatever happens. */
function startForwarder(first: Program, home: string) {
  const seen: Forwarded[] = [];
  const refusals: string[] = [];
  let program = first;
  let cursor: string | null = null;
  let isOver = false;
  let polls = 0;
  const polling = (async () => {
    for (;;) {
      // Asked before the poll, so that the last poll begins after the last event.
      const isLast = isOver;
      const query = `limit=${PAGE}${cursor === null ? '' : `&cursor=${cursor}`}`;
      const answer = await ask(program, home, { path: `/audit/logs?${query}` });
      if (answer?.status === 200) {
        polls += 1;
        seen.push(...(answer.data as Forwarded[]));
        cursor = answer.headers.get('x-next-cursor');
        if (answer.headers.get('x-has-more') === 'true') continue;
        if (isLast) return;
      } else if (answer !== null && answer.status !== 503) {
        refusals.push(`${answer.status} ${answer.error}`);
        return;
      }
      await sleep(15);
    }
  })();
  return {
    seen,
    refusals,
    polls: () => polls,
    turnTo: (next: Program) => {
      program = next;
    },
    async finish() {
      isOver = true;
      await polling;
    },
  };
}

/** Rebuilds every read model as a second client of the database, while the gateway goes on. */
async function rebuildAll(home: string): Promise<void> {
  const url = databaseUrl(home);
  const pool = openPool({ url, size: 4, role: APP_ROLE });
  const connect = () => openClient({ url, role: APP_ROLE });
  const log = await postgresEventLog({ pool, exportPool: pool, connect });
  try {
    for (const projection of projectionsOf(log)) await rebuildProjection({ pool, log }, projection);
  } finally {
    await log.close();
    await pool.end();
  }
}

describe('a SIEM forwarder that polls with cursors', () => {
  const home = makeHome();
  const book = emptyBook();
  let forwarded: readonly Forwarded[];
  let refusals: readonly string[];
  let polls = 0;
  let whole: readonly Forwarded[];
  let program: Program;
  beforeAll(async () => {
    program = await startProgram(home);
    const forwarder = startForwarder(program, home);
    const load = startLoad(program, home, book);
    await untilAcknowledged(book, COMMANDS);
    program.kill('SIGKILL');
    await program.ended();
    program = await startProgram(home);
    load.turnTo(program);
    forwarder.turnTo(program);
    await untilAcknowledged(book, COMMANDS);
    await rebuildAll(home);
    await untilAcknowledged(book, COMMANDS);
    await load.stop();
    await forwarder.finish();
    whole = await exportLog(program, home);
    forwarded = forwarder.seen;
    ({ refusals } = forwarder);
    polls = forwarder.polls();
  }, 90_000);
  afterAll(cleanUp, 60_000);

  it('is never refused for its cursor', () => {
    expect(refusals).toEqual([]);
    expect(polls).toBeGreaterThan(3);
  });

  it('misses nothing and sees nothing twice, across kill -9 and a rebuild of the read models', () => {
    const positions = forwarded.map(({ position }) => position);
    expect(positions).toEqual(positions.map((_, index) => String(index + 1)));
    // What was recorded after its last poll is the export's own trace at most.
    const upToItsEnd = whole.slice(0, forwarded.length);
    expect(whole.length - forwarded.length).toBeLessThanOrEqual(5);
    expect(forwarded.map(({ event_id }) => event_id)).toEqual(
      upToItsEnd.map(({ event_id }) => event_id),
    );
    expect(forwarded.length).toBeGreaterThan(100);
  });

  it('would have been told apart from one that missed or repeated an event (control)', () => {
    const positions = forwarded.map(({ position }) => position);
    const expected = (list: readonly string[]) => list.map((_, index) => String(index + 1));
    const missing = positions.toSpliced(50, 1);
    const repeating = positions.toSpliced(50, 0, positions[50] ?? '');
    expect(missing).not.toEqual(expected(missing));
    expect(repeating).not.toEqual(expected(repeating));
  });

  it('finds the read models as the log has them, and nothing acknowledged lost', async () => {
    const found = await readEverything(program, home);
    expect(judge(book.sent, found)).toEqual({ lost: [], duplicates: [], disorder: [] });
    expect(book.surprises).toEqual([]);
  });
});
