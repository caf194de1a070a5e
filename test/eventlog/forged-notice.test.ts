import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { headSignal } from '../../src/eventlog/follow.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';
import { startTestGateway } from '../support/gateway.ts';
import { readWhole } from '../support/log-checks.ts';

const HUGE = '9000000000000';

/** What anybody may do who may connect: no right on the log is needed. */
const forge = (url: string, payload: string) => asAdmin(url, `notify mailguard_log, '${payload}'`);

/** Waits until so many sessions listen for appends: each log opens one beside its start. */
async function untilListening({ url }: TestDatabase, sessions: number): Promise<void> {
  const admin = openClient({ url, role: null });
  await admin.connect();
  try {
    for (let tries = 0; tries < 1_000; tries += 1) {
      const { rows } = await admin.query<{ n: number }>(
        `select count(*)::int as n from pg_stat_activity
         where datname = current_database() and query = 'listen mailguard_log' and state = 'idle'`,
      );
      if (rows[0]?.n === sessions) return;
      await sleep(5);
    }
    throw new Error('nobody listens');
  } finally {
    await admin.end();
  }
}

describe('a notification that anybody may send', () => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await createDatabase();
  });
  afterEach(() => database.drop());

  /** Every head that a follower is told of, up to one. */
  async function headsUpTo(log: EventLog, after: bigint, last: bigint): Promise<bigint[]> {
    const abort = new AbortController();
    const heads: bigint[] = [];
    for await (const head of log.follow(after, abort.signal)) {
      heads.push(head);
      if (head >= last) break;
    }
    return heads;
  }

  it.each([HUGE, '9223372036854775807', '99999999999999999999', '-1', 'x', ''])(
    'and that says %j shows no follower a head that is none',
    async (payload) => {
      const log = await database.openLog();
      const elsewhere = await database.openLog();
      await untilListening(database, 2);
      const append = () =>
        elsewhere.append({ stream: 's-1', expected: 'any', events: [anEvent()] });
      await append();
      const following = headsUpTo(log, 1n, 2n);
      await forge(database.url, payload);
      // Behind the forged one: notifications arrive in the order of their commits.
      await append();
      expect(await following).toEqual([2n]);
      expect(await headsUpTo(log, 0n, 2n)).toEqual([2n]);
      expect((await log.head()).position).toBe(2n);
      expect(await readWhole(log)).toHaveLength(2);
    },
  );

  it('makes no projection claim or leave out anything', async () => {
    const t = await startTestGateway({ database });
    await untilListening(database, 1);
    await forge(database.url, HUGE);
    const made = [await t.createDomain(), await t.createDomain(), await t.createDomain()];
    const listed = await t.send('GET', '/domains');
    expect(listed.body.data.map(({ id }: { id: number }) => id).toReversed()).toEqual(
      made.map(({ id }) => id),
    );
    const head = (await t.gateway.context.log.head()).position;
    const ready = await t.send('GET', '//readyz', { key: null });
    const claims: string[] = ready.body.data.projections.map(
      (p: { position: string }) => p.position,
    );
    expect(claims.length).toBeGreaterThan(0);
    for (const position of claims) expect(BigInt(position)).toBeLessThanOrEqual(head);
    await t.gateway.stop();
    // Stopping saves the checkpoints; its own last events may lie behind them.
    const { rows } = await database.pool.query<{ name: string }>(
      `select name from projection_checkpoints
       where position > (select max(position) from eventlog.events)`,
    );
    expect(rows).toEqual([]);
  });
});

describe('a hint', () => {
  it('wakes whoever waits, and tells him nothing', async () => {
    const signal = headSignal(7n);
    const woken = signal.wait(7n, 60_000, new AbortController().signal);
    signal.hint();
    await woken;
    expect(signal.known()).toBe(7n);
  });
});
