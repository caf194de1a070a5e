import { afterEach, expect, it } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import {
  type QuarantineWorker,
  startQuarantineWorker,
  type WorkerDeps,
} from '../../src/integrations/quarantine-worker.ts';
import { results } from '../support/held-message.ts';
import { finish, hold, reject, release, start, tell } from '../support/quarantine-log.ts';

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

it('sends a message once, though what it was asked for before is taken for open', async () => {
  const log = memoryEventLog();
  const id = await hold(log);
  await tell(log, id, reject);
  await tell(log, id, start);
  await tell(log, id, finish(1, { 0: 'refused' }));
  await tell(log, id, release());
  // The read model is behind: it still has the rejection, which has failed.
  const stale = [{ message_id: id, kind: 'reject' }];
  let looks = 0;
  let sent = 0;
  let end = (): void => undefined;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  let answered = (): void => undefined;
  const answering = new Promise<void>((resolve) => {
    answered = resolve;
  });
  const tried = { results: results({ 0: 'accepted' }), replies: [], cause: null };
  const deps = {
    pool: {
      async query() {
        looks += 1;
        const rows = stale.splice(0);
        await answering;
        return { rows };
      },
    },
    log,
    clock: systemClock,
    nodeId: 'node-1',
    logger: { warn: () => undefined, debug: () => undefined },
    outlet: {
      async release() {
        sent += 1;
        await ended;
        return tried;
      },
    },
  } as unknown as WorkerDeps;
  worker = startQuarantineWorker(deps);
  const releasing = worker.act(id, 'release', 10_000);
  await expect.poll(() => sent, WAIT).toBe(1);
  answered();
  // What the first look has found is begun by then.
  await expect.poll(() => looks, WAIT).toBe(2);
  end();
  await releasing;
  expect(sent).toBe(1);
});

it('lets go at its stop of who waits for an action that does not end', async () => {
  const log = memoryEventLog();
  const id = await hold(log);
  await tell(log, id, release());
  let isSending = false;
  const stopped = startQuarantineWorker({
    pool: { query: async () => ({ rows: [] }) },
    log,
    clock: systemClock,
    nodeId: 'node-1',
    logger: { warn: () => undefined, debug: () => undefined },
    outlet: {
      release() {
        isSending = true;
        return new Promise(() => undefined);
      },
    },
  } as unknown as WorkerDeps);
  let isWaiting = true;
  const waiting = stopped.act(id, 'release', 600_000).finally(() => {
    isWaiting = false;
  });
  await expect.poll(() => isSending, WAIT).toBe(true);
  await stopped.stop();
  await Promise.race([waiting, new Promise(setImmediate)]);
  expect(isWaiting).toBe(false);
});
