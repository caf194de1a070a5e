import { afterEach, expect, it } from 'vitest';
import {
  type QuarantineWorker,
  startQuarantineWorker,
  type WorkerDeps,
} from '../../src/integrations/quarantine-worker.ts';

let worker: QuarantineWorker | null = null;
afterEach(async () => worker?.stop());

const WAIT = { timeout: 10_000, interval: 20 };

it('leaves an action that failed alone for longer and longer, and warns of it once', async () => {
  let ms = Date.now();
  let looks = 0;
  let tries = 0;
  const said: string[] = [];
  const say = (level: string) => (_: object, text: string) => said.push(`${level}: ${text}`);
  const deps = {
    pool: {
      async query(_: string, [, besides]: [Date, readonly string[]]) {
        looks += 1;
        return { rows: besides.includes('m1') ? [] : [{ message_id: 'm1', kind: 'discard' }] };
      },
    },
    log: {
      async readStream() {
        tries += 1;
        throw new Error('away');
      },
    },
    clock: { nowMs: () => ms, now: () => new Date(ms) },
    logger: { warn: say('warn'), debug: say('debug') },
  } as unknown as WorkerDeps;
  worker = startQuarantineWorker(deps);
  const looked = async (count: number) => {
    const before = looks;
    await expect.poll(() => looks - before, WAIT).toBeGreaterThanOrEqual(count);
  };
  await expect.poll(() => tries, WAIT).toBe(1);
  await looked(2);
  expect(tries).toBe(1);
  ms += 1_000;
  await expect.poll(() => tries, WAIT).toBe(2);
  ms += 1_999;
  await looked(2);
  expect(tries).toBe(2);
  // Whoever asks anew is heard at once.
  await worker.act('m1', 'discard', 1_000);
  expect(tries).toBe(3);
  expect(said).toEqual([
    'warn: an action is tried again',
    'debug: an action is tried again',
    'debug: an action is tried again',
  ]);
});
