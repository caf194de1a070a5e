import type pg from 'pg';
import {
  ATTEMPT_COLUMNS,
  type Attempt,
  attemptArrays,
  withAttemptDays,
} from './webhook-attempts.ts';
import type { RetryRow } from './webhook-retries.ts';

/** Where a subscription stands, as it was last put down. */
export type CursorRow = Readonly<{
  webhookId: number;
  token: bigint;
  place: CursorPlace;
  breaker: Readonly<Record<string, unknown>>;
  quietUntil: Date | null;
}>;

/**
 * Everything at or below `position` is delivered or in the retry set; `sequence` counts the matches of the
 * epoch until there. What lies between it and `sentTo` may have been sent.
 */
type CursorPlace = Readonly<{
  epoch: number;
  position: bigint;
  sequence: number;
  sentTo: bigint;
  isClean: boolean;
}>;

export type ReplayProgress = Readonly<{
  id: bigint;
  position: bigint;
  sentTo: bigint;
  delivered: bigint;
  failed: bigint;
}>;

/** What one round of work came to; all of it is put down at once, or nothing. */
export type Settlement = Readonly<{
  webhookId: number;
  token: bigint;
  place: CursorPlace;
  breaker: object;
  quietUntil: Date | null;
  attempts: readonly Attempt[];
  /** Retries that are over, unless somebody has asked for them since; whoever asks for a parked one has it retried. */
  done: readonly Readonly<{ position: bigint; askedAt: Date | null }>[];
  kept: readonly RetryRow[];
  replays: readonly ReplayProgress[];
}>;

/** What its owner says of a retry, unless somebody has asked for it since: then what that has set stays. */
const unlessAsked = (column: string): string => `
        ${column} = case when webhook_retries.asked_at is not distinct from excluded.asked_at
          then excluded.${column} else webhook_retries.${column} end`;

// The token is the fence: one who was taken for dead and is not finds another token here, and then nothing of the
// statement happens. Cursor, retry set and attempts change together, so that no crash can leave an event in none.
const SETTLE = `
  with moved as (
    update webhook_cursors
    set epoch = $3, position = $4, sequence = $5, sent_to = $6, is_clean = $7, breaker = $8, quiet_until = $9
    where webhook_id = $1 and token = $2
    returning webhook_id
  ), noted as (
    insert into webhook_attempts (webhook_id, ${ATTEMPT_COLUMNS.map(([name]) => name).join(', ')})
    select m.webhook_id, a.*
    from moved m, unnest(${ATTEMPT_COLUMNS.map(([, type], i) => `$${i + 13}::${type}[]`).join(', ')}) a
  ), done as (
    delete from webhook_retries r using moved m
      , unnest($10::bigint[], $28::timestamptz[]) d (position, asked_at)
    where r.webhook_id = m.webhook_id and r.position = d.position
      and (r.state = 'parked' or r.asked_at is not distinct from d.asked_at)
  ), kept as (
    insert into webhook_retries (webhook_id, position, event_id, key, epoch, sequence, tries, due_at,
      first_failed_at, last_outcome, state, is_sending, asked_at)
    select m.webhook_id, k.* from moved m, jsonb_to_recordset($11)
      k (position bigint, event_id uuid, key text, epoch int, sequence bigint, tries int,
         due_at timestamptz, first_failed_at timestamptz, last_outcome text, state text,
         is_sending boolean, asked_at timestamptz)
    on conflict (webhook_id, position) do update
    set is_sending = excluded.is_sending, last_outcome = excluded.last_outcome,
        ${['tries', 'due_at', 'first_failed_at', 'state'].map(unlessAsked).join(', ')}
  ), replayed as (
    update webhook_replays r
    set position = p.position, sent_to = p.sent_to, delivered = p.delivered, failed = p.failed
    from moved m, jsonb_to_recordset($12)
      p (id bigint, position bigint, sent_to bigint, delivered bigint, failed bigint)
    where r.id = p.id and r.webhook_id = m.webhook_id
  )
  select count(*)::int as moved from moved`;

/** Puts a round of work down; false when another owner has the subscription, and nothing was changed. */
export const settle = (pool: pg.Pool, batch: Settlement): Promise<boolean> =>
  withAttemptDays(pool, batch.attempts, () => settleOnce(pool, batch));

async function settleOnce(pool: pg.Pool, batch: Settlement): Promise<boolean> {
  const { place } = batch;
  const { rows } = await pool.query<{ moved: number }>({
    name: 'webhook_settle',
    text: SETTLE,
    values: [
      batch.webhookId,
      batch.token,
      place.epoch,
      place.position,
      place.sequence,
      place.sentTo,
      place.isClean,
      JSON.stringify(batch.breaker),
      batch.quietUntil,
      batch.done.map(({ position }) => position),
      JSON.stringify(batch.kept.map(toRetryRecord)),
      JSON.stringify(batch.replays.map(toReplayRecord)),
      ...attemptArrays(batch.attempts),
      batch.done.map(({ askedAt }) => askedAt),
    ],
  });
  return rows[0]?.moved === 1;
}

const toRetryRecord = (row: RetryRow) => ({
  position: String(row.position),
  event_id: row.eventId,
  key: row.key,
  epoch: row.epoch,
  sequence: row.sequence,
  tries: row.tries,
  due_at: row.dueAt,
  first_failed_at: row.firstFailedAt,
  last_outcome: row.lastOutcome,
  state: row.state,
  is_sending: row.isSending,
  asked_at: row.askedAt,
});

const toReplayRecord = (progress: ReplayProgress) => ({
  id: String(progress.id),
  position: String(progress.position),
  sent_to: String(progress.sentTo),
  delivered: String(progress.delivered),
  failed: String(progress.failed),
});

/**
 * Takes subscriptions that nobody living has, at most this worker's fair share of all, and those that are its
 * own without its knowing: it failed between the two. Each gets a new token, by which whatever their former
 * owner still writes is refused.
 */
export async function claimCursors(
  pool: pg.Pool,
  workerId: string,
  owned: readonly number[],
): Promise<readonly CursorRow[]> {
  await pool.query(MAKE_CURSORS);
  const { rows } = await pool.query<ClaimedRow>(CLAIM, [workerId, owned]);
  return rows.map(toCursor);
}

const toCursor = (row: ClaimedRow): CursorRow => ({
  webhookId: Number(row.webhook_id),
  token: BigInt(row.token),
  place: {
    epoch: row.epoch,
    position: BigInt(row.position),
    sequence: Number(row.sequence),
    sentTo: BigInt(row.sent_to),
    isClean: row.is_clean,
  },
  breaker: row.breaker,
  quietUntil: row.quiet_until === null ? null : new Date(row.quiet_until),
});

const MAKE_CURSORS = `
  insert into webhook_cursors (webhook_id, epoch, position, sequence, sent_to)
  select w.id, 1, (w.epochs->0->>'after')::bigint, 0, (w.epochs->0->>'after')::bigint
  from webhooks w
  where not exists (select from webhook_cursors c where c.webhook_id = w.id)
  on conflict do nothing`;

// Whoever is claiming the same row is waited for by nobody: it is theirs.
const CLAIM = `
  with living as (
    select id from webhook_workers where lease_until > now()
  ), share as (
    select ceil((select count(*) from webhooks)::numeric / greatest((select count(*) from living), 1)) as n
  ), free as (
    select c.webhook_id from webhook_cursors c
    where (c.owner is null or c.owner not in (select id from living)
        or (c.owner = $1 and c.webhook_id <> all($2::bigint[])))
      and exists (select from webhooks w where w.id = c.webhook_id)
    order by c.webhook_id
    limit greatest((select n from share) - cardinality($2::bigint[]), 0)
    for update skip locked
  )
  update webhook_cursors c set owner = $1, token = c.token + 1
  from free where c.webhook_id = free.webhook_id
  returning c.webhook_id, c.token, c.epoch, c.position, c.sequence, c.sent_to, c.is_clean, c.breaker,
    c.quiet_until`;

type ClaimedRow = {
  webhook_id: string;
  token: string;
  epoch: number;
  position: string;
  sequence: string;
  sent_to: string;
  is_clean: boolean;
  breaker: Readonly<Record<string, unknown>>;
  quiet_until: string | null;
};

/** Gives a subscription back, so that another takes it at once. */
export async function releaseCursor(
  pool: pg.Pool,
  webhookId: number,
  token: bigint,
): Promise<void> {
  await pool.query('update webhook_cursors set owner = null where webhook_id = $1 and token = $2', [
    webhookId,
    token,
  ]);
}

/** Forgets where deleted subscriptions stood; what was attempted for them goes by its age. */
export async function forgetDeletedCursors(pool: pg.Pool): Promise<void> {
  await pool.query(
    'delete from webhook_cursors c where not exists (select from webhooks w where w.id = c.webhook_id)',
  );
  await pool.query(
    'delete from webhook_retries r where not exists (select from webhooks w where w.id = r.webhook_id)',
  );
}

/** Where a subscription stands, for people; null before anybody has taken it. */
export async function findCursor(
  pool: pg.Pool,
  webhookId: number,
): Promise<Pick<CursorRow, 'place' | 'breaker' | 'quietUntil'> | null> {
  const { rows } = await pool.query<ClaimedRow>(
    `select webhook_id, token, epoch, position, sequence, sent_to, is_clean, breaker, quiet_until
     from webhook_cursors where webhook_id = $1`,
    [webhookId],
  );
  return rows[0] === undefined ? null : toCursor(rows[0]);
}
