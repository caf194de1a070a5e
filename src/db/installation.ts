import type pg from 'pg';

/**
 * Binds the database to the master key's fingerprint at the first start, and says at every later one
 * whether it is the same: verifiers and cursors made under another key would silently stop working.
 */
export async function belongsToMasterKey(pool: pg.Pool, fingerprint: Buffer): Promise<boolean> {
  await pool.query(
    'insert into installation (key_fingerprint) values ($1) on conflict (one) do nothing',
    [fingerprint],
  );
  const { rows } = await pool.query<{ key_fingerprint: Buffer }>(
    'select key_fingerprint from installation',
  );
  return rows[0]?.key_fingerprint.equals(fingerprint) === true;
}

/** The fingerprint of the master key that the database was begun with, in hex; null before the first start. */
export async function readFingerprint(db: pg.ClientBase): Promise<string | null> {
  const { rows } = await db.query<{ fingerprint: string }>(
    `select encode(key_fingerprint, 'hex') as fingerprint from public.installation`,
  );
  return rows[0]?.fingerprint ?? null;
}
