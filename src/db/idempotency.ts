import type pg from 'pg';

/** One caller's use of one `Idempotency-Key` on one path. */
export type IdempotencyId = Readonly<{
  principal: string;
  method: string;
  path: string;
  key: string;
}>;

export type Reserved =
  /** Ours to run; `commandId` is an earlier run's when that was cut short. */
  | Readonly<{ kind: 'run'; commandId: string }>
  | Readonly<{ kind: 'in_progress' }>
  | Readonly<{ kind: 'mismatch' }>
  /** `body` is null once the names in it were erased. */
  | Readonly<{ kind: 'replay'; status: number; headers: KeptHeaders; body: string | null }>;

/** The headers of an answer that belong to what it says, by name. */
export type KeptHeaders = Readonly<Record<string, string>>;

const IDEMPOTENCY_HOURS = 24;

/**
 * Reserves the key for one run, or tells what became of it. A row whose run is no longer under way (its
 * process is gone, or the database was away when it ended) is taken over with its command id, so
 * that the command finds its own events.
 */
export async function reserveIdempotencyKey(
  pool: pg.Pool,
  id: IdempotencyId,
  run: Readonly<{ fingerprint: Buffer; commandId: string; runner: string; now: Date }>,
  isUnderWay: (runner: string) => boolean,
): Promise<Reserved> {
  await purgeIdempotencyKeys(pool, run.now);
  const key = [id.principal, id.method, id.path, id.key];
  const made = await pool.query(INSERT, [
    ...key,
    run.fingerprint,
    run.commandId,
    run.runner,
    run.now,
  ]);
  if (made.rowCount === 1) return { kind: 'run', commandId: run.commandId };
  const { rows } = await pool.query<Row>(SELECT, key);
  const row = rows[0];
  // Released between the two statements: whoever comes next will run it.
  if (row === undefined) return { kind: 'in_progress' };
  if (!row.fingerprint.equals(run.fingerprint)) return { kind: 'mismatch' };
  if (row.status !== null) {
    return { kind: 'replay', status: row.status, headers: row.headers ?? {}, body: row.body };
  }
  if (isUnderWay(row.runner)) return { kind: 'in_progress' };
  const taken = await pool.query(TAKE_OVER, [...key, row.runner, run.runner]);
  if (taken.rowCount !== 1) return { kind: 'in_progress' };
  return { kind: 'run', commandId: row.command_id };
}

/** Keeps the first answer, whose names belong to `subject` (null: to nobody) unless that is erased. */
export async function completeIdempotencyKey(
  pool: pg.Pool,
  id: IdempotencyId,
  answer: Readonly<{ status: number; headers: KeptHeaders; body: string; subject: string | null }>,
): Promise<void> {
  // The lock makes an erasure wait, which then finds the answer; after one there is nothing to lock.
  await pool.query(
    `with living as (select from credentials where subject = $7 for share)
     update idempotency_keys set status = $5, subject = $7, headers = $8,
       body = case when $7::text is null or exists (select from living) then $6 end
     where principal = $1 and method = $2 and path = $3 and key = $4`,
    [
      id.principal,
      id.method,
      id.path,
      id.key,
      answer.status,
      answer.body,
      answer.subject,
      answer.headers,
    ],
  );
}

/** Forgets a reservation whose answer is not to be kept, so that the caller may try again. */
export async function releaseIdempotencyKey(pool: pg.Pool, id: IdempotencyId): Promise<void> {
  await pool.query(
    `delete from idempotency_keys
     where principal = $1 and method = $2 and path = $3 and key = $4 and status is null`,
    [id.principal, id.method, id.path, id.key],
  );
}

export async function eraseIdempotentAnswers(
  db: pg.Pool | pg.ClientBase,
  subject: string,
): Promise<void> {
  await db.query('update idempotency_keys set body = null where subject = $1', [subject]);
}

export async function purgeIdempotencyKeys(pool: pg.Pool, now: Date): Promise<void> {
  await pool.query(
    `delete from idempotency_keys where created_at < $1::timestamptz - $2 * interval '1 hour'`,
    [now, IDEMPOTENCY_HOURS],
  );
}

type Row = {
  fingerprint: Buffer;
  command_id: string;
  runner: string;
  status: number | null;
  headers: KeptHeaders | null;
  body: string | null;
};

const INSERT = `
  insert into idempotency_keys
    (principal, method, path, key, fingerprint, command_id, runner, created_at)
  values ($1, $2, $3, $4, $5, $6, $7, $8)
  on conflict (principal, method, path, key) do nothing`;

const SELECT = `
  select fingerprint, command_id, runner, status, headers, body from idempotency_keys
  where principal = $1 and method = $2 and path = $3 and key = $4`;

// Of two that find the same abandoned run, one changes its runner, and the other no longer finds it.
const TAKE_OVER = `
  update idempotency_keys set runner = $6
  where principal = $1 and method = $2 and path = $3 and key = $4 and runner = $5 and status is null`;
