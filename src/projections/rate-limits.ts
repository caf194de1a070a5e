import type pg from 'pg';
import type { ApiKeyDenied } from '../domain/events.ts';
import type { Projection } from './projection.ts';

/** Requests that a key was refused for want of a token, per minute; the last hour's are shown. */
export const rateLimitsProjection: Projection = {
  name: 'rate_limits',
  version: 1,
  types: ['api_key.denied'],
  async apply(db, events) {
    for (const { event } of events) {
      const { data } = event as unknown as ApiKeyDenied;
      if (data.reason !== 'rate_limited') continue;
      // Windows of one minute differ in their first request; greatest keeps a repeated event harmless.
      await db.query(
        `insert into rate_limit_denials as d (key_id, minute, denied) values ($1, $2, $3)
         on conflict (key_id, minute) do update set denied = greatest(d.denied, excluded.denied)`,
        [event.resource.id, data.first, data.count],
      );
    }
  },
  tables: ['rate_limit_denials'],
  // What no answer shows any more is purged, an hour later.
  unlike: { rate_limit_denials: { olderThan: { column: 'minute', hours: 1 } } },
};

/** Recorded refusals of some keys since a time. */
export async function readDenials(
  pool: pg.Pool,
  keyIds: readonly number[],
  since: Date,
): Promise<ReadonlyMap<number, number>> {
  const { rows } = await pool.query<{ key_id: string; denied: string }>(
    `select key_id, sum(denied)::bigint as denied from rate_limit_denials
     where key_id = any($1::bigint[]) and minute >= $2 group by key_id`,
    [keyIds, since],
  );
  return new Map(rows.map((row) => [Number(row.key_id), Number(row.denied)]));
}

/** Forgets what no answer shows any more. */
export async function purgeDenials(pool: pg.Pool, before: Date): Promise<void> {
  await pool.query('delete from rate_limit_denials where minute < $1', [before]);
}
