import type pg from 'pg';

/** The verifier of one secret, keyed under a numbered pepper. */
export type Credential = Readonly<{
  subject: string;
  kind: 'api_key';
  /** By which it is found: for an API key its prefix. */
  lookup: string;
  verifier: Buffer;
  pepper: number;
}>;

/** Written before the event that makes its subject, so that no subject lacks its credential. */
export async function saveCredential(pool: pg.Pool, credential: Credential): Promise<void> {
  await pool.query(
    `insert into credentials (subject, kind, lookup, verifier, pepper)
     values ($1, $2, $3, $4, $5)`,
    [
      credential.subject,
      credential.kind,
      credential.lookup,
      credential.verifier,
      credential.pepper,
    ],
  );
}

/** Erases what a subject has in the table: verifiers, and secrets of a webhook. */
export async function eraseCredentials(
  db: pg.Pool | pg.ClientBase,
  subject: string,
): Promise<void> {
  await db.query('delete from credentials where subject = $1', [subject]);
}

export async function readCredential(pool: pg.Pool, subject: string): Promise<Credential | null> {
  const { rows } = await pool.query<Credential>(
    'select subject, kind, lookup, verifier, pepper from credentials where subject = $1',
    [subject],
  );
  return rows[0] ?? null;
}

export async function listCredentials(pool: pg.Pool): Promise<readonly Credential[]> {
  const { rows } = await pool.query<Credential>(
    "select subject, kind, lookup, verifier, pepper from credentials where kind = 'api_key'",
  );
  return rows;
}

/**
 * Removes verifiers whose key was never created: their command ended between the two writes. Call when
 * the `api_keys` projection has caught up.
 */
export async function sweepOrphanCredentials(pool: pg.Pool): Promise<void> {
  await pool.query(
    `delete from credentials c
     where c.kind = 'api_key' and c.created_at < now() - interval '1 hour'
       and not exists (select from api_keys k where c.subject = 'api_key:' || k.id)`,
  );
}

/** Removes a verifier by its lookup; for a secret whose key is known not to exist. */
export async function forgetUnusedCredential(pool: pg.Pool, lookup: string): Promise<void> {
  await pool.query("delete from credentials where kind = 'api_key' and lookup = $1", [lookup]);
}
