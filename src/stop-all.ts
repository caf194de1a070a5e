import type { Logger } from 'pino';

/**
 * Stops everything, last started first. What one part cannot save keeps no other, the database's process
 * among them, from ending; the first failure is thrown when all have ended.
 */
export async function stopAll(stops: (() => Promise<unknown>)[], logger: Logger): Promise<void> {
  const failures: unknown[] = [];
  for (let stop = stops.pop(); stop !== undefined; stop = stops.pop()) {
    await stop().catch((error: unknown) => {
      logger.error({ err: error }, 'a part did not stop well');
      failures.push(error);
    });
  }
  if (failures.length > 0) throw failures[0];
}
