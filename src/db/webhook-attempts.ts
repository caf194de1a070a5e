import type pg from 'pg';

export type AttemptKind = 'live' | 'retry' | 'probe' | 'replay' | 'ping';

/** One HTTP try, as it is put down; positions of pings are 0. */
export type Attempt = Readonly<{
  position: bigint;
  startedAt: Date;
  eventId: string;
  type: string;
  kind: AttemptKind;
  /** Counts from 1 for each event. */
  tries: number;
  outcome: string;
  status: number | null;
  ms: number;
  /** SHA-256 of the exact bytes; null when it is not known whether any were sent. */
  bodySha256: Buffer | null;
  /** Fingerprints of the secrets that signed, with spaces. */
  signedBy: string | null;
  /** The address that was talked to. */
  peer: string | null;
  replayId: bigint | null;
  error: string | null;
  /** The beginning of a refusal's body. */
  excerpt: string | null;
}>;

/** The columns of an attempt, in the order of `attemptArrays`. */
export const ATTEMPT_COLUMNS = [
  ['position', 'bigint'],
  ['started_at', 'timestamptz'],
  ['event_id', 'uuid'],
  ['type', 'text'],
  ['kind', 'text'],
  ['tries', 'int'],
  ['outcome', 'text'],
  ['status', 'smallint'],
  ['ms', 'int'],
  ['body_sha256', 'bytea'],
  ['signed_by', 'text'],
  ['peer', 'text'],
  ['replay_id', 'bigint'],
  ['error', 'text'],
  ['excerpt', 'text'],
] as const;

/** One array a column, for `unnest`. */
export const attemptArrays = (attempts: readonly Attempt[]): unknown[][] => [
  attempts.map(({ position }) => position),
  attempts.map(({ startedAt }) => startedAt),
  attempts.map(({ eventId }) => eventId),
  attempts.map(({ type }) => type),
  attempts.map(({ kind }) => kind),
  attempts.map(({ tries }) => tries),
  attempts.map(({ outcome }) => outcome),
  attempts.map(({ status }) => status),
  attempts.map(({ ms }) => ms),
  attempts.map(({ bodySha256 }) => bodySha256),
  attempts.map(({ signedBy }) => signedBy),
  attempts.map(({ peer }) => peer),
  attempts.map(({ replayId }) => replayId),
  attempts.map(({ error }) => error),
  attempts.map(({ excerpt }) => excerpt),
];

/** Puts down one attempt that belongs to no delivery. */
export async function saveAttempt(
  pool: pg.Pool,
  webhookId: number,
  attempt: Attempt,
): Promise<void> {
  const names = ATTEMPT_COLUMNS.map(([name]) => name).join(', ');
  const places = ATTEMPT_COLUMNS.map((_, index) => `$${index + 2}`).join(', ');
  await withAttemptDays(pool, [attempt], () =>
    pool.query(
      `insert into webhook_attempts (webhook_id, ${names})
       select $1, ${places} where exists (select from webhooks where id = $1)`,
      [webhookId, ...attemptArrays([attempt]).map(([value]) => value)],
    ),
  );
}

/** PostgreSQL says so of a row that no partition is there for. */
const CHECK_VIOLATION = '23514';

/** Writes attempts, and makes their days first where the clock has gone beyond those that are there. */
export async function withAttemptDays<T>(
  pool: pg.Pool,
  attempts: readonly Attempt[],
  write: () => Promise<T>,
): Promise<T> {
  try {
    return await write();
  } catch (error) {
    if ((error as { code?: unknown }).code !== CHECK_VIOLATION) throw error;
    const days = new Set(attempts.map(({ startedAt }) => startedAt.toISOString().slice(0, 10)));
    for (const day of days)
      await pool.query('select ensure_webhook_attempt_days($1::date, 1)', [day]);
    return write();
  }
}

/** Where something between two positions was delivered by the cursor, or by one replay. */
export async function findDelivered(
  pool: pg.Pool,
  webhookId: number,
  { after, until, replayId }: Readonly<{ after: bigint; until: bigint; replayId: bigint | null }>,
): Promise<ReadonlySet<bigint>> {
  const { rows } = await pool.query<{ position: string }>(
    `select distinct position from webhook_attempts
     where webhook_id = $1 and position > $2 and position <= $3 and outcome = 'delivered'
       and replay_id is not distinct from $4`,
    [webhookId, after, until, replayId],
  );
  return new Set(rows.map(({ position }) => BigInt(position)));
}

/** The attempts at one event, the oldest first. */
export async function listAttempts(
  pool: pg.Pool,
  webhookId: number,
  position: bigint,
  limit: number,
): Promise<readonly Attempt[]> {
  const names = ATTEMPT_COLUMNS.map(([name]) => name).join(', ');
  const { rows } = await pool.query<AttemptRow>(
    `select ${names} from webhook_attempts where webhook_id = $1 and position = $2
     order by started_at, tries limit $3`,
    [webhookId, position, limit],
  );
  return rows.map(toAttempt);
}

/** One event as it was delivered, or was tried to be; `attempts` are those that are still kept. */
export type DeliveryRow = Readonly<{
  last: Attempt;
  attempts: number;
  isDelivered: boolean;
  retryState: 'retrying' | 'parked' | null;
  dueAt: Date | null;
}>;

export type DeliverySelection = Readonly<{
  before: bigint | null;
  /** Events recorded at or behind it. */
  from: bigint;
  type: string | null;
  status: 'delivered' | 'retrying' | 'parked' | 'failed' | null;
  limit: number;
}>;

/** Events that one page looks through for those that match. */
const SCAN_DELIVERIES = 5_000;

/**
 * Deliveries, the latest events first. `scannedTo` is where to go on: null when everything was looked at.
 */
export async function listDeliveries(
  pool: pg.Pool,
  webhookId: number,
  { before, from, type, status, limit }: DeliverySelection,
): Promise<Readonly<{ rows: readonly DeliveryRow[]; scannedTo: bigint | null }>> {
  const names = ATTEMPT_COLUMNS.map(([name]) => `a.${name}`).join(', ');
  const scan = type === null && status === null ? limit + 1 : SCAN_DELIVERIES;
  const { rows } = await pool.query<
    AttemptRow & {
      n: string;
      is_delivered: boolean;
      state: DeliveryRow['retryState'];
      due_at: string | null;
      matches: boolean;
    }
  >(
    `with seen as materialized (
       select position, count(*) as n, max(started_at) as at, bool_or(outcome = 'delivered') as is_delivered
       from webhook_attempts
       where webhook_id = $1 and position > 0 and position >= $2
         and ($3::bigint is null or position < $3)
       group by position order by position desc limit $6
     ), judged as (
       select s.*, r.state, r.due_at,
         ($5::text is null or $5 = case when r.state is not null then r.state
            when s.is_delivered then 'delivered' else 'failed' end) as matches
       from seen s left join webhook_retries r on r.webhook_id = $1 and r.position = s.position
     )
     select ${names}, j.n, j.is_delivered, j.state, j.due_at, j.matches and ($4::text is null or a.type = $4) as matches
     from judged j
     join lateral (
       select * from webhook_attempts x
       where x.webhook_id = $1 and x.position = j.position and x.started_at = j.at
       order by x.tries desc limit 1) a on true
     order by j.position desc`,
    [webhookId, from, before, type, status, scan],
  );
  const found = rows.filter(({ matches }) => matches).slice(0, limit);
  const last = found.length === limit ? found.at(-1) : rows.at(-1);
  const isEnd = rows.length < scan && last === rows.at(-1);
  return {
    rows: found.map((row) => ({
      last: toAttempt(row),
      attempts: Number(row.n),
      isDelivered: row.is_delivered,
      retryState: row.state,
      dueAt: row.due_at === null ? null : new Date(row.due_at),
    })),
    scannedTo: isEnd || last === undefined ? null : BigInt(last.position),
  };
}

/** What became of attempts since an instant, and how long they took. */
export async function summarizeAttempts(
  pool: pg.Pool,
  webhookId: number,
  since: Date,
): Promise<Readonly<{ outcome: string; attempts: number; p50: number; p99: number }>[]> {
  const { rows } = await pool.query<{ outcome: string; n: string; p50: number; p99: number }>(
    `select outcome, count(*) as n, percentile_disc(0.5) within group (order by ms) as p50,
       percentile_disc(0.99) within group (order by ms) as p99
     from (select outcome, ms from webhook_attempts
           where webhook_id = $1 and started_at >= $2 and kind <> 'ping'
           order by position desc limit 100000) recent
     group by outcome order by outcome`,
    [webhookId, since],
  );
  return rows.map(({ outcome, n, p50, p99 }) => ({ outcome, attempts: Number(n), p50, p99 }));
}

/** Days for which attempts are kept, at least. */
export const ATTEMPT_DAYS_KEPT = 30;
/** Days that have their tables ahead of time: as long as nobody may be there to make them. */
const DAYS_AHEAD = 14;
const DAY_MS = 86_400_000;
/** Days that are dropped in one run. */
const DROPS_MAX = 40;

/** Makes the tables of the coming days, and drops those of days that are over for long. */
export async function keepAttemptDays(pool: pg.Pool, now: Date): Promise<void> {
  const dayOf = (ms: number) => new Date(ms).toISOString().slice(0, 10);
  await pool.query('select ensure_webhook_attempt_days($1::date, $2)', [
    dayOf(now.getTime() - DAY_MS),
    DAYS_AHEAD + 2,
  ]);
  const before = dayOf(now.getTime() - ATTEMPT_DAYS_KEPT * DAY_MS);
  for (let drops = 0; drops < DROPS_MAX; drops += 1) {
    const { rows } = await pool.query<{ detached: boolean }>(
      'select detach_webhook_attempt_day($1::date) as detached',
      [before],
    );
    if (rows[0]?.detached !== true) break;
  }
  for (let drops = 0; drops < DROPS_MAX; drops += 1) {
    const { rows } = await pool.query<{ dropped: boolean }>(
      'select drop_webhook_attempt_day() as dropped',
    );
    if (rows[0]?.dropped !== true) return;
  }
}

type AttemptRow = {
  position: string;
  started_at: string;
  event_id: string;
  type: string;
  kind: AttemptKind;
  tries: number;
  outcome: string;
  status: number | null;
  ms: number;
  body_sha256: Buffer | null;
  signed_by: string | null;
  peer: string | null;
  replay_id: string | null;
  error: string | null;
  excerpt: string | null;
};

const toAttempt = (row: AttemptRow): Attempt => ({
  position: BigInt(row.position),
  startedAt: new Date(row.started_at),
  eventId: row.event_id,
  type: row.type,
  kind: row.kind,
  tries: row.tries,
  outcome: row.outcome,
  status: row.status,
  ms: row.ms,
  bodySha256: row.body_sha256,
  signedBy: row.signed_by,
  peer: row.peer,
  replayId: row.replay_id === null ? null : BigInt(row.replay_id),
  error: row.error,
  excerpt: row.excerpt,
});
