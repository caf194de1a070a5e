import type pg from 'pg';

/**
 * Says that a worker lives, and for how long that still counts when it says nothing more: by the database's
 * clock, so that no node's matters. One row, however much it has.
 */
export async function renewLease(
  pool: pg.Pool,
  worker: Readonly<{ workerId: string; nodeId: string; leaseMs: number }>,
): Promise<void> {
  await pool.query(
    `insert into webhook_workers (id, node_id, lease_until)
     values ($1, $2, now() + $3 * interval '1 millisecond')
     on conflict (id) do update set lease_until = excluded.lease_until`,
    [worker.workerId, worker.nodeId, worker.leaseMs],
  );
}

/** Of how many subscriptions this worker has more than its share. */
export async function countSurplus(pool: pg.Pool, owned: number): Promise<number> {
  const { rows } = await pool.query<{ surplus: string }>(
    `select $1::int - ceil((select count(*) from webhooks)::numeric
       / greatest((select count(*) from webhook_workers where lease_until > now()), 1)) as surplus`,
    [owned],
  );
  return Math.max(0, Number(rows[0]?.surplus ?? 0));
}

/**
 * Takes it that no other worker lives: for a process that has the database for itself. One that is wrong
 * about it, since the other is only slow, is protected by the token all the same.
 */
export async function forgetOtherWorkers(pool: pg.Pool, workerId: string): Promise<void> {
  await pool.query('delete from webhook_workers where id <> $1', [workerId]);
}

/** The end of a worker, and of those that have long been silent. */
export async function endLease(pool: pg.Pool, workerId: string): Promise<void> {
  await pool.query(
    `delete from webhook_workers where id = $1 or lease_until < now() - interval '1 hour'`,
    [workerId],
  );
}
