import type pg from 'pg';

/**
 * Takes webhooks back to the end of a log that is shorter than the one they have seen: what is recorded next
 * must not be taken for sent. For a log in a database of its own.
 */
export async function takeWebhooksBack(db: pg.ClientBase | pg.Pool, head: string): Promise<void> {
  await db.query(
    `update public.webhook_cursors set position = least(position, $1), sent_to = least(sent_to, $1)
     where greatest(position, sent_to) > $1::bigint`,
    [head],
  );
  await db.query('delete from public.webhook_retries where position > $1', [head]);
  await db.query(
    `update public.webhook_replays set position = least(position, $1), sent_to = least(sent_to, $1),
       until_position = least(until_position, $1)
     where until_position > $1::bigint`,
    [head],
  );
}
