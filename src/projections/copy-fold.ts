import type pg from 'pg';
import { lockCopy, type ProjectionCopy, saveCopy, schemaOf } from '../db/projection-copies.ts';
import { inTransaction } from '../db/transaction.ts';
import type { EventLog, Position } from '../eventlog/eventlog.ts';
import { type Page, type Projection, readPage } from './projection.ts';
import { RebuildRefused } from './rebuild-refused.ts';

/** What a rebuild works with. */
export type Rebuilding = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  /** Called after each page, and while something is waited for; what it throws ends the rebuild there. */
  onProgress?: (position: Position, until: Position) => void;
  /** The most events of a page. */
  pageEvents?: number;
}>;

/** A copy, and the projection that is folded into it. */
export type Folded = Readonly<{ projection: Projection; copy: ProjectionCopy }>;

/**
 * Folds a copy on to a position, page by page; each page commits with how far the copy is, so that
 * what is cut off goes on there. Nothing that serves is touched.
 */
export async function foldTo(
  d: Rebuilding,
  { projection, copy }: Folded,
  until: Position,
): Promise<ProjectionCopy> {
  let at = copy;
  while (at.position < until) {
    const { position: after } = at;
    const page = await readNext(d, projection, { after, until });
    const next = { ...at, position: page.scannedTo };
    await inTransaction(d.pool, async (db) => {
      await requirePlace(db, at);
      await applyToCopy(db, { projection, copy }, page);
      await saveCopy(db, next);
    });
    at = next;
    d.onProgress?.(at.position, until);
  }
  return at;
}

/** The same within one transaction, for the little that is left to do under a lock. */
export async function foldRest(
  db: pg.ClientBase,
  d: Rebuilding,
  folded: Folded & Readonly<{ until: Position }>,
): Promise<void> {
  const { projection, copy, until } = folded;
  await requirePlace(db, copy);
  let after = copy.position;
  while (after < until) {
    const page = await readNext(d, projection, { after, until });
    await applyToCopy(db, folded, page);
    after = page.scannedTo;
  }
  if (after === until) return;
  throw new RebuildRefused(`The copy of ${copy.name} is ahead of the rows that serve.`);
}

const readNext = (
  { log, pageEvents }: Rebuilding,
  projection: Projection,
  range: Readonly<{ after: Position; until: Position }>,
): Promise<Page> =>
  readPage(log, projection, pageEvents === undefined ? range : { ...range, limit: pageEvents });

/** The row lock is the fence: a second runner, whose session was taken for lost, finds the copy elsewhere. */
async function requirePlace(db: pg.ClientBase, copy: ProjectionCopy): Promise<void> {
  if ((await lockCopy(db, copy)) === copy.position) return;
  throw new RebuildRefused(`Another rebuild of ${copy.name} has taken over.`);
}

async function applyToCopy(
  db: pg.ClientBase,
  { projection, copy }: Folded,
  { events }: Page,
): Promise<void> {
  if (events.length === 0) return;
  // The copy's tables and no others: a projection that reads what is not its own fails here, instead of
  // mixing rows of two times.
  await db.query("select set_config('search_path', $1, true)", [schemaOf(copy)]);
  await projection.apply(db, events);
  await db.query('set local search_path to default');
}
