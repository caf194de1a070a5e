import type pg from 'pg';

/** What a filter said of one message that its mail server holds, or is about to hold. */
export type AnnouncedMail = Readonly<{
  queueId: string;
  announcedAt: Date;
  score: number | null;
  symbols: readonly string[];
  reason: string;
  clientIp: string | null;
}>;

/** By then the mail is in the hold queue, or was never put there. */
const KEPT_MS = 3_600_000;
/** Of one node; a mail server holds no more at once than it can have announced. */
const KEPT_MAX = 100_000;

/** Notes an announcement durably; a later one of the same queue id takes its place. */
export async function saveAnnouncement(
  pool: pg.Pool,
  nodeId: string,
  { queueId, announcedAt, score, symbols, reason, clientIp }: AnnouncedMail,
): Promise<void> {
  await pool.query(
    `insert into quarantine_announcements
       (node_id, queue_id, announced_at, score, symbols, reason, client_ip)
     values ($1, $2, $3, $4, $5, $6, $7)
     on conflict (node_id, queue_id) do update
       set announced_at = excluded.announced_at, score = excluded.score,
           symbols = excluded.symbols, reason = excluded.reason, client_ip = excluded.client_ip`,
    [nodeId, queueId, announcedAt, score, symbols, reason, clientIp],
  );
}

/** The announcements of some queue ids. */
export async function findAnnouncements(
  pool: pg.Pool,
  nodeId: string,
  queueIds: readonly string[],
): Promise<ReadonlyMap<string, AnnouncedMail>> {
  const { rows } = await pool.query<{
    queue_id: string;
    announced_at: string;
    score: number | null;
    symbols: string[];
    reason: string;
    client_ip: string | null;
  }>(
    `select queue_id, announced_at, score, symbols, reason, client_ip
     from quarantine_announcements where node_id = $1 and queue_id = any($2)`,
    [nodeId, queueIds],
  );
  return new Map(
    rows.map((row) => [
      row.queue_id,
      {
        queueId: row.queue_id,
        announcedAt: new Date(row.announced_at),
        score: row.score,
        symbols: row.symbols,
        reason: row.reason,
        clientIp: row.client_ip,
      },
    ]),
  );
}

/** Forgets announcements that have become part of a message. */
export async function dropAnnouncements(
  pool: pg.Pool,
  nodeId: string,
  queueIds: readonly string[],
): Promise<void> {
  await pool.query(
    'delete from quarantine_announcements where node_id = $1 and queue_id = any($2)',
    [nodeId, queueIds],
  );
}

/** Forgets what was announced and never held: mail that went another way, and the oldest of far too many. */
export async function purgeAnnouncements(pool: pg.Pool, nodeId: string, now: Date): Promise<void> {
  await pool.query(
    `delete from quarantine_announcements
     where node_id = $1 and announced_at <= greatest($2::timestamptz, (
       select announced_at from quarantine_announcements where node_id = $1
       order by announced_at desc offset $3 limit 1))`,
    [nodeId, new Date(now.getTime() - KEPT_MS), KEPT_MAX],
  );
}
