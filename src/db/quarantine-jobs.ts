import type pg from 'pg';
import { utc } from '../clock.ts';

type JobState = 'running' | 'cancelled' | 'completed';

/** A bulk job as it was asked for; `request` is its caller's to read. */
export type JobRow<Request> = Readonly<{
  id: string;
  request: Request;
  state: JobState;
  createdAt: Date;
  endedAt: Date | null;
}>;

export type JobItem = Readonly<{
  ordinal: number;
  messageId: string;
  outcome: string | null;
  error: string | null;
}>;

/** Keeps a job and its items, before the event that begins it; a job that is there stays as it is. */
export async function saveJob(
  pool: pg.Pool,
  job: Readonly<{ id: string; request: object; createdAt: Date; messageIds: readonly string[] }>,
): Promise<void> {
  await pool.query(
    `with job as (
       insert into quarantine_jobs (id, request, state, created_at) values ($1, $2, 'running', $3)
       on conflict do nothing returning id)
     insert into quarantine_job_items (job_id, ordinal, message_id)
     select job.id, m.ordinal, m.id
     from job, unnest($4::uuid[]) with ordinality as m (id, ordinal)`,
    [job.id, JSON.stringify(job.request), job.createdAt, job.messageIds],
  );
}

export async function findJob<Request>(pool: pg.Pool, id: string): Promise<JobRow<Request> | null> {
  const { rows } = await pool.query<Row<Request>>(`${SELECT} where id = $1`, [id]);
  return rows[0] === undefined ? null : toRow(rows[0]);
}

/** Jobs without an end, the oldest first. */
export async function findOpenJobs<Request>(
  pool: pg.Pool,
  limit: number,
): Promise<readonly JobRow<Request>[]> {
  const { rows } = await pool.query<Row<Request>>(
    `${SELECT} where ended_at is null order by created_at limit $1`,
    [limit],
  );
  return rows.map(toRow);
}

/** Items in order, after one; `open` takes only those without an outcome. */
export async function findJobItems(
  pool: pg.Pool,
  jobId: string,
  page: Readonly<{ after: number; limit: number; open: boolean }>,
): Promise<readonly JobItem[]> {
  const { rows } = await pool.query<{
    ordinal: number;
    message_id: string;
    outcome: string | null;
    error: string | null;
  }>(
    `select ordinal, message_id, outcome, error from quarantine_job_items
     where job_id = $1 and ordinal > $2 and (not $4 or outcome is null)
     order by ordinal limit $3`,
    [jobId, page.after, page.limit, page.open],
  );
  return rows.map(({ message_id: messageId, ...item }) => ({ ...item, messageId }));
}

export async function saveJobItem(
  pool: pg.Pool,
  jobId: string,
  { ordinal, outcome, error }: Omit<JobItem, 'messageId'>,
): Promise<void> {
  await pool.query(
    `update quarantine_job_items set outcome = $3, error = $4
     where job_id = $1 and ordinal = $2 and outcome is null`,
    [jobId, ordinal, outcome, error],
  );
}

/** Items by outcome; those without one as `pending`. */
export async function countJobItems(
  pool: pg.Pool,
  jobId: string,
): Promise<Readonly<Record<string, number>>> {
  const { rows } = await pool.query<{ outcome: string; items: string }>(
    `select coalesce(outcome, 'pending') as outcome, count(*) as items
     from quarantine_job_items where job_id = $1 group by 1 order by 1`,
    [jobId],
  );
  return Object.fromEntries(rows.map(({ outcome, items }) => [outcome, Number(items)]));
}

/** Marks a job as cancelled; its items that have no outcome will not be begun. */
export async function cancelJob(pool: pg.Pool, id: string): Promise<void> {
  await pool.query(
    `update quarantine_jobs set state = 'cancelled' where id = $1 and ended_at is null`,
    [id],
  );
}

/** Gives what was not begun its outcome, and the job its end. */
export async function endJob(pool: pg.Pool, id: string, now: Date): Promise<void> {
  await pool.query(
    `with left_over as (
       update quarantine_job_items set outcome = 'cancelled' where job_id = $1 and outcome is null)
     update quarantine_jobs
     set ended_at = $2, state = case state when 'running' then 'completed' else state end
     where id = $1 and ended_at is null`,
    [id, now],
  );
}

/** Days for which a job can be read after its end. */
export const JOB_DAYS_KEPT = 30;
const DAY_MS = 86_400_000;

/** Forgets a job that was never begun. */
export async function forgetJob(pool: pg.Pool, id: string): Promise<void> {
  await pool.query('delete from quarantine_jobs where id = $1 and ended_at is null', [id]);
}

/** Forgets jobs that ended long ago; what they did stays in the log. */
export async function purgeJobs(pool: pg.Pool, now: Date): Promise<void> {
  const before = new Date(now.getTime() - JOB_DAYS_KEPT * DAY_MS);
  await pool.query('delete from quarantine_jobs where ended_at < $1', [before]);
}

const SELECT = `
  select id, request, state, ${utc('created_at')} as created_at, ${utc('ended_at')} as ended_at
  from quarantine_jobs`;

type Row<Request> = {
  id: string;
  request: Request;
  state: JobState;
  created_at: string;
  ended_at: string | null;
};

const toRow = <Request>(row: Row<Request>): JobRow<Request> => ({
  id: row.id,
  request: row.request,
  state: row.state,
  createdAt: new Date(row.created_at),
  endedAt: row.ended_at === null ? null : new Date(row.ended_at),
});
