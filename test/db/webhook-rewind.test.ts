import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import { takeWebhooksBack } from '../../src/db/webhook-rewind.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let db: pg.Client;
beforeEach(async () => {
  database = await createDatabase();
  db = openClient({ url: database.url, role: null });
  await db.connect();
});
afterEach(async () => {
  await db.end();
  await database.drop();
});

/** A subscription that stands at a position, with a retry and a replay up to there. */
async function makeSubscription(id: number, position: number): Promise<void> {
  await db.query(
    `insert into webhook_cursors (webhook_id, epoch, position, sequence, sent_to) values ($1, 1, $2, 3, $2)`,
    [id, position],
  );
  await db.query(
    `insert into webhook_retries (webhook_id, position, event_id, key, epoch, tries, due_at, first_failed_at, state)
     values ($1, $2, gen_random_uuid(), 'k', 1, 1, now(), now(), 'retrying')`,
    [id, position],
  );
  await db.query(
    `insert into webhook_replays (id, webhook_id, after_position, until_position, state, position, sent_to, created_at)
     values ($1, $1, 0, $2::bigint, 'running', $2::bigint - 1, $2::bigint, now())`,
    [id, position],
  );
}

const rowsOf = async (sql: string): Promise<unknown[]> => (await db.query(sql)).rows;

describe('takeWebhooksBack', () => {
  beforeEach(async () => {
    await makeSubscription(1, 5);
    await makeSubscription(2, 9);
    await takeWebhooksBack(db, '7');
  });

  it('has a subscription go on at the end of the log, and leaves what is behind it', async () => {
    expect(
      await rowsOf('select webhook_id, position, sent_to from webhook_cursors order by 1'),
    ).toEqual([
      { webhook_id: '1', position: '5', sent_to: '5' },
      { webhook_id: '2', position: '7', sent_to: '7' },
    ]);
  });

  it('forgets retries of what the log no longer has', async () => {
    expect(await rowsOf('select position from webhook_retries')).toEqual([{ position: '5' }]);
  });

  it('has a replay end where the log does', async () => {
    expect(
      await rowsOf('select id, position, sent_to, until_position from webhook_replays order by id'),
    ).toEqual([
      { id: '1', position: '4', sent_to: '5', until_position: '5' },
      { id: '2', position: '7', sent_to: '7', until_position: '7' },
    ]);
  });
});
