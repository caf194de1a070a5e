import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Activity, openActivity } from '../../src/api/activity.ts';
import { CLOSED_WINDOWS_MAX } from '../../src/api/held-windows.ts';
import { createMetrics, type Metrics } from '../../src/api/metrics.ts';
import type { AppendCommand, EventLog } from '../../src/eventlog/eventlog.ts';
import type { LiveKey } from '../../src/projections/live-keys.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { type StoppedClock, stoppedClock } from '../support/stopped-clock.ts';

/** A log that is away until it is told to be back; it says how much is asked of it at once. */
function awayLog() {
  const appended: AppendCommand[] = [];
  let isAway = true;
  let underWay = 0;
  let most = 0;
  const append = async (command: AppendCommand) => {
    underWay += 1;
    most = Math.max(most, underWay);
    await null;
    underWay -= 1;
    if (isAway) throw new Error('away');
    appended.push(command);
  };
  return {
    log: { append } as unknown as EventLog,
    appended,
    most: () => most,
    back: () => {
      isAway = false;
    },
  };
}

let database: TestDatabase;
let clock: StoppedClock;
let metrics: Metrics;
let activity: Activity;
const away = awayLog();
const warned: object[] = [];
beforeAll(async () => {
  database = await createDatabase();
  clock = stoppedClock();
  metrics = createMetrics();
  activity = await openActivity({
    pool: database.pool,
    log: away.log,
    clock,
    nodeId: 'node-1',
    metrics,
    logger: { warn: (fields) => warned.push(fields) },
  });
});
afterAll(() => database.drop());

const use = (id: number) =>
  activity.used(
    { id, principal: { mailDomain: null } } as LiveKey,
    'requests',
    'success',
    '192.0.2.1',
  );
const droppedSoFar = async () => (await metrics.droppedWindows.get()).values[0]?.value;
const SURPLUS = 3;

describe('windows of use, while the log is away', () => {
  it('are kept up to a bound; what is beyond is dropped, told and counted', async () => {
    for (let id = 1; id <= SURPLUS; id += 1) use(id);
    await activity.flush();
    const rows = async () => (await database.pool.query('select from open_windows')).rowCount;
    expect(await rows()).toBe(SURPLUS);
    clock.advance(60_000);
    for (let id = SURPLUS + 1; id <= CLOSED_WINDOWS_MAX; id += 1) use(id);
    clock.advance(60_000);
    await expect(activity.flush()).rejects.toThrow('away');
    expect([await droppedSoFar(), warned]).toEqual([0, []]);
    for (let id = 1; id <= SURPLUS; id += 1) use(CLOSED_WINDOWS_MAX + id);
    clock.advance(60_000);
    await expect(activity.flush()).rejects.toThrow('away');
    expect([await droppedSoFar(), warned]).toEqual([SURPLUS, [{ dropped: SURPLUS }]]);
    expect(await rows()).toBe(0);
  });

  it('become events when it is back, few at once and each once', async () => {
    away.back();
    await activity.flush();
    const streams = away.appended.map(({ stream }) => stream);
    expect(streams).toHaveLength(CLOSED_WINDOWS_MAX);
    expect(new Set(streams).size).toBe(CLOSED_WINDOWS_MAX);
    expect(streams).not.toContain(`api_key_usage-${SURPLUS}`);
    expect(streams).toContain(`api_key_usage-${SURPLUS + 1}`);
    // The log itself refuses what is beyond twenty thousand commands.
    expect(away.most()).toBeLessThanOrEqual(1_000);
    await activity.flush();
    expect(away.appended).toHaveLength(CLOSED_WINDOWS_MAX);
  });
});
