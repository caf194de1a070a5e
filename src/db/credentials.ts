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

/** A secret that must be known to be used, encrypted under the master key. */
export type SealedSecret = Readonly<{ fingerprint: string; sealed: Buffer }>;

/**
 * Written before the event that names its fingerprint, so that no subscription lacks its secret; one
 * that no event names is never used. What the subject already has of this fingerprint stays, and is returned.
 */
export async function saveWebhookSecret(
  pool: pg.Pool,
  subject: string,
  { fingerprint, sealed }: SealedSecret,
): Promise<Buffer> {
  await pool.query(
    `insert into credentials (subject, kind, lookup, sealed) values ($1, 'webhook', $2, $3)
     on conflict do nothing`,
    [subject, fingerprint, sealed],
  );
  const { rows } = await pool.query<{ sealed: Buffer }>(
    `select sealed from credentials where subject = $1 and kind = 'webhook' and lookup = $2`,
    [subject, fingerprint],
  );
  return rows[0]?.sealed ?? sealed;
}

export async function listWebhookSecrets(
  pool: pg.Pool,
  subject: string,
): Promise<readonly SealedSecret[]> {
  const { rows } = await pool.query<SealedSecret>(
    `select lookup as fingerprint, sealed from credentials where subject = $1 and kind = 'webhook'`,
    [subject],
  );
  return rows;
}

/** Removes secrets of subscriptions that sign no more: their grace is over, or they never were. */
export async function sweepWebhookSecrets(pool: pg.Pool, now: Date): Promise<void> {
  await pool.query(
    `delete from credentials c
     where c.kind = 'webhook' and c.created_at < now() - interval '1 hour'
       and not exists (
         select from webhooks w, jsonb_to_recordset(w.secrets) s (fingerprint text, until timestamptz)
         where c.subject = 'webhook:' || w.id and s.fingerprint = c.lookup
           and (s.until is null or s.until > $1))`,
    [now],
  );
}
