import cron from 'node-cron';
import type pg from 'pg';
import type { Logger } from 'pino';
import { doAlone, LOCKS } from '../db/lock.ts';

/** Work that one process of a cluster does for all, at times of the clock. */
export type CronJob = Readonly<{
  /** Also of its lock: who holds that runs the job, the others leave it out. */
  name: string;
  /** Cron expression, in UTC. */
  at: string;
  /** Told by the signal of a stop, which waits for it; what is left then waits for the next time. */
  run: (signal: AbortSignal) => Promise<unknown>;
}>;

/** Runs each job at its times, never twice at once in the cluster; a failure is logged. */
export function startCronJobs(
  pool: pg.Pool,
  jobs: readonly CronJob[],
  logger: Logger,
): { stop: () => Promise<void> } {
  const running = new Set<Promise<unknown>>();
  const abort = new AbortController();
  const tasks = jobs.map((job) =>
    cron.schedule(
      job.at,
      () => {
        const lock = { lock: LOCKS.job, name: job.name, patienceMs: 0 };
        const turn = doAlone(pool, lock, () => job.run(abort.signal))
          .catch((error: unknown) => logger.warn({ err: error, job: job.name }, 'a job failed'))
          .finally(() => running.delete(turn));
        running.add(turn);
      },
      { timezone: 'UTC' },
    ),
  );
  return {
    async stop() {
      abort.abort();
      for (const task of tasks) await task.destroy();
      await Promise.all(running);
    },
  };
}
