import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createLogger } from '../../src/logger.ts';
import { startCronJobs } from '../../src/scheduler/cron.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const EACH_SECOND = '* * * * * *';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

describe('a job at times of the clock', () => {
  it('that fails is done again at its next time, and awaited by the stop', async () => {
    let runs = 0;
    let isUnderWay = false;
    let begin: () => void = () => undefined;
    const begun = new Promise<void>((resolve) => {
      begin = resolve;
    });
    async function run(): Promise<void> {
      runs += 1;
      if (runs === 1) throw new Error('the first time');
      isUnderWay = true;
      begin();
      await new Promise((resolve) => setTimeout(resolve, 50));
      isUnderWay = false;
    }
    const jobs = [{ name: 'retention', at: EACH_SECOND, run }];
    const { stop } = startCronJobs(database.pool, jobs, createLogger('silent'));
    await begun;
    expect(isUnderWay).toBe(true);
    await stop();
    expect([runs, isUnderWay]).toEqual([2, false]);
  });

  it('hears of the stop while it is under way, and may end early', async () => {
    let begin: () => void = () => undefined;
    const begun = new Promise<void>((resolve) => {
      begin = resolve;
    });
    let isHeard = false;
    async function run(signal: AbortSignal): Promise<void> {
      begin();
      await once(signal, 'abort');
      isHeard = true;
    }
    const jobs = [{ name: 'retention', at: EACH_SECOND, run }];
    const { stop } = startCronJobs(database.pool, jobs, createLogger('silent'));
    await begun;
    await stop();
    expect(isHeard).toBe(true);
  });
});
