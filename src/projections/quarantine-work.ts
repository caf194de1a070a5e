import type pg from 'pg';
import type { IntentKind } from './quarantine.ts';

export type DueIntent = Readonly<{ messageId: string; kind: IntentKind }>;

/** Actions whose time has come, oldest first, without those on some messages. */
export async function findDueIntents(
  pool: pg.Pool,
  due: Readonly<{ now: Date; besides: readonly string[]; limit: number }>,
): Promise<readonly DueIntent[]> {
  const { rows } = await pool.query<{ message_id: string; kind: IntentKind }>(
    `select message_id, split_part(kind, '/', 1) as kind
     from quarantine_intents
     where due_at <= $1 and message_id <> all($2::uuid[])
     order by due_at limit $3`,
    [due.now, due.besides, due.limit],
  );
  return rows.map(({ message_id: messageId, kind }) => ({ messageId, kind }));
}

/** Actions without an outcome, by kind. */
export async function countIntents(
  pool: pg.Pool,
): Promise<readonly Readonly<{ kind: string; actions: number }>[]> {
  const { rows } = await pool.query<{ kind: string; actions: string }>(
    `select split_part(kind, '/', 1) as kind, count(*) as actions
     from quarantine_intents group by 1 order by 1`,
  );
  return rows.map(({ kind, actions }) => ({ kind, actions: Number(actions) }));
}

export type ExpiredMessage = Readonly<{
  id: string;
  isOpen: boolean;
  mailDomains: readonly number[];
}>;

/** Messages whose retention has ended and whose bytes should still be there, the oldest first. */
export async function findExpiredMessages(
  pool: pg.Pool,
  now: Date,
  limit: number,
): Promise<readonly ExpiredMessage[]> {
  const { rows } = await pool.query<{ id: string; is_open: boolean; mail_domains: string[] }>(
    `select id, is_open, mail_domains from quarantined_messages
     where has_content and expires_at <= $1 and state in ('held', 'release_failed', 'released')
     order by expires_at limit $2`,
    [now, limit],
  );
  return rows.map((row) => ({
    id: row.id,
    isOpen: row.is_open,
    mailDomains: row.mail_domains.map(Number),
  }));
}

/** Notes that the bytes of messages are gone for good. Not an event: their time was known from the start. */
export async function markContentRemoved(pool: pg.Pool, ids: readonly string[]): Promise<void> {
  // One by one: a lock on several, in another order than the projector takes them, could be a deadlock.
  for (const id of ids) {
    await pool.query('update quarantined_messages set has_content = false where id = $1', [id]);
  }
}

/** Whether any message was ever held, as far as the read model knows. */
export async function hasMessages(pool: pg.Pool): Promise<boolean> {
  const { rows } = await pool.query('select from quarantined_messages limit 1');
  return rows.length > 0;
}

/** Those of the given messages whose bytes are still to be kept. */
export async function findMessagesWithContent(
  pool: pg.Pool,
  ids: readonly string[],
): Promise<ReadonlySet<string>> {
  const { rows } = await pool.query<{ id: string }>(
    'select id from quarantined_messages where has_content and id = any($1::uuid[])',
    [ids],
  );
  return new Set(rows.map(({ id }) => id));
}

const PAGE_IDS = 1_000;

/** Messages in the quarantine whose bytes the spool should have, a page at a time. */
export async function* listSpooled(db: pg.ClientBase): AsyncGenerator<readonly string[]> {
  let after = '00000000-0000-0000-0000-000000000000';
  for (;;) {
    const { rows } = await db.query<{ id: string }>(
      `select id from quarantined_messages
       where id > $1 and store = 'spool' and has_content and is_open order by id limit $2`,
      [after, PAGE_IDS],
    );
    const last = rows.at(-1);
    if (last === undefined) return;
    yield rows.map(({ id }) => id);
    after = last.id;
  }
}
