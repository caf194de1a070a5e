import type pg from 'pg';

/** First and last use of a key, to the millisecond. */
export type KeyUse = Readonly<{ keyId: number; firstUsedAt: Date; lastUsedAt: Date }>;

export async function loadKeyUses(pool: pg.Pool): Promise<readonly KeyUse[]> {
  const { rows } = await pool.query<{ key_id: string; first: string; last: string }>(
    `select key_id, (extract(epoch from first_used_at) * 1000)::bigint as first,
            (extract(epoch from last_used_at) * 1000)::bigint as last from api_key_use`,
  );
  return rows.map((row) => ({
    keyId: Number(row.key_id),
    firstUsedAt: new Date(Number(row.first)),
    lastUsedAt: new Date(Number(row.last)),
  }));
}

export async function saveKeyUses(pool: pg.Pool, uses: readonly KeyUse[]): Promise<void> {
  if (uses.length === 0) return;
  await pool.query(
    `insert into api_key_use as u (key_id, first_used_at, last_used_at)
     select * from unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[])
     on conflict (key_id) do update
       set first_used_at = least(u.first_used_at, excluded.first_used_at),
           last_used_at = greatest(u.last_used_at, excluded.last_used_at)`,
    [
      uses.map(({ keyId }) => keyId),
      uses.map(({ firstUsedAt }) => firstUsedAt),
      uses.map(({ lastUsedAt }) => lastUsedAt),
    ],
  );
}

export async function removeKeyUses(pool: pg.Pool, keyIds: readonly number[]): Promise<void> {
  if (keyIds.length > 0) {
    await pool.query('delete from api_key_use where key_id = any($1::bigint[])', [keyIds]);
  }
}
