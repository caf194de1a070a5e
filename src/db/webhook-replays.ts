import type pg from 'pg';

/** A replay as it stands: everything between `after` and `position` was posted, or is retried by itself. */
export type ReplayRow = Readonly<{
  id: bigint;
  webhookId: number;
  after: bigint;
  until: bigint;
  eventTypes: readonly string[] | null;
  state: 'running' | 'cancelled' | 'completed';
  position: bigint;
  sentTo: bigint;
  delivered: bigint;
  failed: bigint;
  createdAt: Date;
  endedAt: Date | null;
}>;

const SELECT = `
  select id, webhook_id, after_position, until_position, event_types, state, position, sent_to,
    delivered, failed, created_at, ended_at
  from webhook_replays`;

export async function findReplay(
  pool: pg.Pool,
  webhookId: number,
  id: bigint,
): Promise<ReplayRow | null> {
  const { rows } = await pool.query<Row>(`${SELECT} where webhook_id = $1 and id = $2`, [
    webhookId,
    id,
  ]);
  return rows[0] === undefined ? null : toRow(rows[0]);
}

/** Replays of one subscription, the oldest first; `running` takes those without an end. */
export async function listReplays(
  pool: pg.Pool,
  webhookId: number,
  { running, limit }: Readonly<{ running: boolean; limit: number }>,
): Promise<readonly ReplayRow[]> {
  const { rows } = await pool.query<Row>(
    `${SELECT} where webhook_id = $1 and (not $2 or state = 'running') order by id limit $3`,
    [webhookId, running, limit],
  );
  return rows.map(toRow);
}

type Row = {
  id: string;
  webhook_id: string;
  after_position: string;
  until_position: string;
  event_types: string[] | null;
  state: ReplayRow['state'];
  position: string;
  sent_to: string;
  delivered: string;
  failed: string;
  created_at: string;
  ended_at: string | null;
};

const toRow = (row: Row): ReplayRow => ({
  id: BigInt(row.id),
  webhookId: Number(row.webhook_id),
  after: BigInt(row.after_position),
  until: BigInt(row.until_position),
  eventTypes: row.event_types,
  state: row.state,
  position: BigInt(row.position),
  sentTo: BigInt(row.sent_to),
  delivered: BigInt(row.delivered),
  failed: BigInt(row.failed),
  createdAt: new Date(row.created_at),
  endedAt: row.ended_at === null ? null : new Date(row.ended_at),
});
