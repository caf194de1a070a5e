import type pg from 'pg';

/** A window of use that is not an event yet; `body` is its owner's. */
export type OpenWindow = Readonly<{ id: string; body: unknown }>;

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
