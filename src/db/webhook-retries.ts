import type pg from 'pg';

/** An event that is tried again by itself, behind the cursor. */
export type RetryRow = Readonly<{
  position: bigint;
  eventId: string;
  key: string;
  epoch: number;
  sequence: number | null;
  tries: number;
  dueAt: Date;
  firstFailedAt: Date;
  lastOutcome: string | null;
  state: 'retrying' | 'parked';
  isSending: boolean;
  /** When somebody last asked for it to be sent again. */
  askedAt: Date | null;
}>;

/** The retry set of one subscription; it is bounded by what may be put into it. */
export async function listRetries(
  pool: pg.Pool,
  webhookId: number,
  selection: Readonly<{
    state: RetryRow['state'] | null;
    after: bigint;
    limit: number;
  }>,
): Promise<readonly RetryRow[]> {
  const { rows } = await pool.query<Row>(
    `select position, event_id, key, epoch, sequence, tries, due_at, first_failed_at, last_outcome,
       state, is_sending, asked_at
     from webhook_retries
     where webhook_id = $1 and ($2::text is null or state = $2) and position > $3
     order by position limit $4`,
    [webhookId, selection.state, selection.after, selection.limit],
  );
  return rows.map(toRow);
}

export async function countRetries(
  pool: pg.Pool,
  webhookId: number,
): Promise<Readonly<{ retrying: number; parked: number }>> {
  const { rows } = await pool.query<{ retrying: string; parked: string }>(
    `select count(*) filter (where state = 'retrying') as retrying,
       count(*) filter (where state = 'parked') as parked
     from webhook_retries where webhook_id = $1`,
    [webhookId],
  );
  return { retrying: Number(rows[0]?.retrying ?? 0), parked: Number(rows[0]?.parked ?? 0) };
}

/** Parked events of one subscription that are kept; of older ones the log tells that they were parked. */
const PARKED_MAX = 10_000;

/** Forgets the oldest parked events where there are too many. */
export async function pruneParked(pool: pg.Pool): Promise<void> {
  await pool.query(
    `delete from webhook_retries r using webhooks w
     where r.webhook_id = w.id and r.state = 'parked' and r.position <= (
       select p.position from webhook_retries p where p.webhook_id = w.id and p.state = 'parked'
       order by p.position desc offset ${PARKED_MAX} limit 1)`,
  );
}

/** Puts an event up to be sent (again) at once; what was parked is parked no more. */
export async function requestResend(
  pool: pg.Pool,
  webhookId: number,
  wanted: Readonly<{
    position: bigint;
    eventId: string;
    key: string;
    epoch: number;
    sequence: number | null;
    now: Date;
  }>,
): Promise<void> {
  await pool.query(
    `insert into webhook_retries (webhook_id, position, event_id, key, epoch, sequence, tries, due_at,
       first_failed_at, state, asked_at)
     select $1, $2, $3, $4, $5, $6, 0, $7, $7, 'retrying', $7 where exists (select from webhooks where id = $1)
     on conflict (webhook_id, position) do update
     set state = 'retrying', tries = 0, due_at = $7, first_failed_at = $7, asked_at = $7`,
    [
      webhookId,
      wanted.position,
      wanted.eventId,
      wanted.key,
      wanted.epoch,
      wanted.sequence,
      wanted.now,
    ],
  );
}

type Row = {
  position: string;
  event_id: string;
  key: string;
  epoch: number;
  sequence: string | null;
  tries: number;
  due_at: string;
  first_failed_at: string;
  last_outcome: string | null;
  state: RetryRow['state'];
  is_sending: boolean;
  asked_at: string | null;
};

const toRow = (row: Row): RetryRow => ({
  position: BigInt(row.position),
  eventId: row.event_id,
  key: row.key,
  epoch: row.epoch,
  sequence: row.sequence === null ? null : Number(row.sequence),
  tries: row.tries,
  dueAt: new Date(row.due_at),
  firstFailedAt: new Date(row.first_failed_at),
  lastOutcome: row.last_outcome,
  state: row.state,
  isSending: row.is_sending,
  askedAt: row.asked_at === null ? null : new Date(row.asked_at),
});
