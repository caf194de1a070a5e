import cron from 'node-cron';
import type pg from 'pg';
import type { Logger } from 'pino';

/** Work that one process of a cluster does for all, at times of the clock. */
export type CronJob = Readonly<{
  name: string;
  /** Cron expression, in UTC. */
  at: string;
  /** Advisory lock of the database: who holds it runs the job, the others leave it out. */
  lock: number;
  run: () => Promise<unknown>;
}>;

/** Runs each job at its times, never twice at once in the cluster; a failure is logged. */
export function startCronJobs(
  pool: pg.Pool,
  jobs: readonly CronJob[],
  logger: Logger,
): { stop: () => Promise<void> } {
  const running = new Set<Promise<unknown>>();
  const tasks = jobs.map((job) =>
    cron.schedule(
      job.at,
      () => {
        const turn = runAlone(pool, job)
          .catch((error: unknown) => logger.warn({ err: error, job: job.name }, 'a job failed'))
          .finally(() => running.delete(turn));
        running.add(turn);
      },
      { timezone: 'UTC', noOverlap: true },
    ),
  );
  return {
    async stop() {
      for (const task of tasks) await task.destroy();
      await Promise.all(running);
    },
  };
}

async function runAlone(pool: pg.Pool, { lock, run }: CronJob): Promise<void> {
  const client = await pool.connect();
  let failure: Error | undefined;
  try {
    const { rows } = await client.query<{ held: boolean }>(
      'select pg_try_advisory_lock($1) as held',
      [lock],
    );
    if (rows[0]?.held !== true) return;
    try {
      await run();
    } finally {
      await client.query('select pg_advisory_unlock($1)', [lock]);
    }
  } catch (error) {
    failure = error as Error;
    throw error;
  } finally {
    // A connection that failed may still hold the lock: it must not go back to the pool.
    client.release(failure);
  }
}
