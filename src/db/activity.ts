import type pg from 'pg';

/** First and last use of a key, to the millisecond. */
export type KeyUse = Readonly<{ keyId: number; firstUsedAt: Date; lastUsedAt: Date }>;

/** A window of use that is not an event yet; `body` is its owner's. */
export type OpenWindow = Readonly<{ id: string; body: unknown }>;

export async function loadKeyUse(pool: pg.Pool): Promise<readonly KeyUse[]> {
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

export async function saveKeyUse(pool: pg.Pool, uses: readonly KeyUse[]): Promise<void> {
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

export async function removeKeyUse(pool: pg.Pool, keyIds: readonly number[]): Promise<void> {
  if (keyIds.length > 0) {
    await pool.query('delete from api_key_use where key_id = any($1::bigint[])', [keyIds]);
  }
}

export async function loadOpenWindows(pool: pg.Pool): Promise<readonly OpenWindow[]> {
  const { rows } = await pool.query<OpenWindow>('select id, body from open_windows');
  return rows;
}

export async function saveOpenWindows(
  pool: pg.Pool,
  windows: readonly OpenWindow[],
): Promise<void> {
  if (windows.length === 0) return;
  await pool.query(
    `insert into open_windows (id, body)
     select * from unnest($1::text[], $2::jsonb[])
     on conflict (id) do update set body = excluded.body`,
    [windows.map(({ id }) => id), windows.map(({ body }) => JSON.stringify(body))],
  );
}

export async function removeOpenWindows(pool: pg.Pool, ids: readonly string[]): Promise<void> {
  if (ids.length > 0) await pool.query('delete from open_windows where id = any($1)', [ids]);
}
