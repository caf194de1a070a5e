import type pg from 'pg';

/** A bucket's level as it was last flushed, in the units of `domain/rate-limit.ts`. */
export type BucketRow = Readonly<{ id: number; level: number; atMs: number }>;

export async function loadBuckets(pool: pg.Pool): Promise<readonly BucketRow[]> {
  const { rows } = await pool.query<{ id: string; level: string; at_ms: string }>(
    'select id, level, (extract(epoch from at) * 1000)::bigint as at_ms from rate_buckets',
  );
  return rows.map((row) => ({
    id: Number(row.id),
    level: Number(row.level),
    atMs: Number(row.at_ms),
  }));
}

export async function saveBuckets(pool: pg.Pool, buckets: readonly BucketRow[]): Promise<void> {
  if (buckets.length === 0) return;
  await pool.query(
    `insert into rate_buckets (id, level, at)
     select id, level, to_timestamp(at_ms / 1000.0)
     from unnest($1::bigint[], $2::bigint[], $3::bigint[]) b(id, level, at_ms)
     on conflict (id) do update set level = excluded.level, at = excluded.at`,
    [buckets.map((b) => b.id), buckets.map((b) => b.level), buckets.map((b) => b.atMs)],
  );
}

export async function removeBuckets(pool: pg.Pool, ids: readonly number[]): Promise<void> {
  if (ids.length > 0) {
    await pool.query('delete from rate_buckets where id = any($1::bigint[])', [ids]);
  }
}
