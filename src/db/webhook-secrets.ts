import type pg from 'pg';

/**
 * A secret that must be known to be used, encrypted under the master key. It stands in the table of the verifiers,
 * so that one statement erases all that a subject has.
 */
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
  // One that has signed before is new again: it is not to be swept before the event names it.
  const { rows } = await pool.query<{ sealed: Buffer }>(
    `insert into credentials (subject, kind, lookup, sealed) values ($1, 'webhook', $2, $3)
     on conflict (subject, kind, lookup) do update set created_at = now()
     returning sealed`,
    [subject, fingerprint, sealed],
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
