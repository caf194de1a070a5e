import type pg from 'pg';
import Cursor from 'pg-cursor';
import { inTransaction } from '../db/transaction.ts';
import type { EventLog, Position } from '../eventlog/eventlog.ts';
import { type Projection, readPage } from './projection.ts';

const ROWS_AT_A_TIME = 500;

type Replaying = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  onProgress: (position: Position, until: Position) => void;
  /** Takes the next rows of a table, each as JSON text, in the order of its columns; also once with none. */
  take: (table: string, rows: readonly string[]) => Promise<void>;
}>;

/**
 * A read model as it was when the log ended at a position: folded from the start into tables of this transaction alone,
 * and gone with it. What was erased since is not in it. Nothing that serves is touched.
 */
export async function replayProjection(
  d: Replaying,
  projection: Projection,
  until: Position,
): Promise<void> {
  const { tables, shared = [] } = projection;
  await inTransaction(d.pool, async (db) => {
    await db.query('set local statement_timeout = 0');
    for (const table of [...tables, ...shared]) {
      await db.query(
        `create temp table "${table}" (like public."${table}" including all) on commit drop`,
      );
    }
    // These tables and no others: a projection that reads what is not its own fails, instead of mixing times.
    await db.query('set local search_path = pg_temp');
    let after = 0n;
    while (after < until) {
      const page = await readPage(d.log, projection, { after, until });
      await projection.apply(db, page.events);
      after = page.scannedTo;
      d.onProgress(after, until);
    }
    for (const table of tables) await takeRows(db, table, d.take);
  });
}

/** In an order that is the rows' own, so that two replays of one position are the same text. */
async function takeRows(db: pg.ClientBase, table: string, take: Replaying['take']): Promise<void> {
  const text = `select row_to_json(t)::text from "${table}" t order by t`;
  const cursor = db.query(new Cursor<[string]>(text, [], { rowMode: 'array' }));
  for (;;) {
    const rows = await cursor.read(ROWS_AT_A_TIME);
    await take(
      table,
      rows.map(([row]) => row),
    );
    if (rows.length < ROWS_AT_A_TIME) break;
  }
  await cursor.close();
}
