import type pg from 'pg';

const SEQUENCES = {
  api_key: 'api_key_ids',
  mail_domain: 'mail_domain_ids',
  sender_filter: 'sender_filter_ids',
  webhook: 'webhook_ids',
  webhook_replay: 'webhook_replay_ids',
} as const;

/** The next small integer for a resource; never given twice, gaps are possible. */
export async function nextId(pool: pg.Pool, kind: keyof typeof SEQUENCES): Promise<number> {
  const { rows } = await pool.query<{ id: string }>(`select nextval('${SEQUENCES[kind]}') as id`);
  return Number(rows[0]?.id);
}
