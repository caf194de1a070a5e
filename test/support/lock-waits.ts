import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';

const WAIT_MS = 15_000;
const LOOK_MS = 10;

/** Waits until a session of this database waits for another one, at the lock named if one is (`pg_stat_activity`). */
export async function untilBlocked(watcher: pg.Client, event: string | null = null): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  for (;;) {
    const { rows } = await watcher.query(
      `select from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock' and wait_event = coalesce($1, wait_event)`,
      [event],
    );
    if (rows.length > 0) return;
    if (performance.now() > deadline) throw new Error('nobody waits for another one');
    await sleep(LOOK_MS);
  }
}
