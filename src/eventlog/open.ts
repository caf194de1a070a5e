import type { EventLog } from './eventlog.ts';
import { type PostgresLogOptions, postgresEventLog } from './postgres.ts';

/**
 * The log behind a URL; only here is an adapter chosen. `esdb://` waits for the cluster step, and the
 * configuration refuses it until then.
 */
export function openEventLog(url: string, options: PostgresLogOptions): Promise<EventLog> {
  const scheme = new URL(url).protocol;
  if (scheme === 'postgres:' || scheme === 'postgresql:') return postgresEventLog(options);
  throw new Error(`there is no event log behind ${scheme}`);
}
