import type { Logger } from 'pino';

/** Work that is done again and again in this process while it runs. */
export type PeriodicJob = Readonly<{ name: string; everyMs: number; run: () => Promise<unknown> }>;

/**
 * Runs each job in its own time, never twice at once; a failure is logged and the next turn comes.
 * What one node of a cluster does for all stands in `cron.ts`.
 */
export function startPeriodicJobs(
  jobs: readonly PeriodicJob[],
  logger: Logger,
): { stop: () => Promise<void> } {
  let isStopped = false;
  const timers = new Set<NodeJS.Timeout>();
  const running = new Set<Promise<unknown>>();

  function schedule(job: PeriodicJob): void {
    if (isStopped) return;
    const timer = setTimeout(() => {
      timers.delete(timer);
      const turn = job
        .run()
        .catch((error: unknown) => logger.warn({ err: error, job: job.name }, 'a job failed'))
        .finally(() => {
          running.delete(turn);
          schedule(job);
        });
      running.add(turn);
    }, job.everyMs);
    timers.add(timer);
  }

  for (const job of jobs) schedule(job);
  return {
    async stop() {
      isStopped = true;
      for (const timer of timers) clearTimeout(timer);
      await Promise.all(running);
    },
  };
}
