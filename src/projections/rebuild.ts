import type pg from 'pg';
import { doAlone, LOCKS } from '../db/lock.ts';
import {
  addTables,
  type CopyKind,
  dropCopy,
  findCopy,
  findStaleCopies,
  hasShapeOfServing,
  type ProjectionCopy,
  saveCopy,
} from '../db/projection-copies.ts';
import { inTransaction } from '../db/transaction.ts';
import type { Position } from '../eventlog/eventlog.ts';
import { type Checkpoint, lockCheckpoint, moveCheckpoint, openCheckpoint } from './checkpoint.ts';
import type { Rebuilding } from './copy-fold.ts';
import { bringToServe, type Flipped, requireNoOtherVersion } from './flip.ts';
import { type Projection, readPage } from './projection.ts';
import { RebuildRefused } from './rebuild-refused.ts';

/** The lock of a killed process is gone in an instant, but not at once. */
const LOCK_PATIENCE_MS = 2_000;
/** A gateway that starts waits for whoever is rebuilding by hand. */
const START_PATIENCE_MS = 60_000;
/** What is deleted and erased after a flip is still in the rows that served before it, so they are not kept for ever. */
const KEPT_MS = 7 * 86_400_000;

/**
 * Folds the log anew beside the rows that serve, up to where those are, and puts the new ones in their
 * place; the old ones are kept as the previous ones. Goes on where an earlier rebuild was cut off.
 * Refuses when rows of the same version differ, unless forced.
 */
export function rebuildProjection(
  d: Rebuilding,
  projection: Projection,
  { force = false }: Readonly<{ force?: boolean }> = {},
): Promise<Flipped> {
  return alone(d.pool, projection, LOCK_PATIENCE_MS, async () => {
    const serving = await openServing(d, projection);
    if (projection.tables.length === 0) return foldInPlace(d, projection, serving.position);
    const rows = force || serving.version !== projection.version ? 'counted' : 'alike';
    const copy = await openRebuild(d, projection, serving.position);
    return bringToServe(d, { projection, copy }, { rows, isRestored: false, isStart: false });
  });
}

/**
 * Puts the rows that served until the last flip back in their place, after folding into them what has
 * come since; those that serve now are the previous ones then.
 */
export function rollBackProjection(d: Rebuilding, projection: Projection): Promise<Flipped> {
  const { name, version, tables } = projection;
  return alone(d.pool, projection, LOCK_PATIENCE_MS, async () => {
    const serving = await openServing(d, projection);
    const previous = await findCopy(d.pool, { name, kind: 'previous' });
    if (previous === null) throw new RebuildRefused(`${name} has no previous rows.`);
    if (previous.version !== version) {
      throw new RebuildRefused(
        `The previous rows of ${name} are of version ${previous.version}, and this program folds ` +
          `${version}: start the release that they are of, which takes them back by itself.`,
      );
    }
    if (!(await isUsable(d.pool, { previous, tables }, serving.position))) {
      throw new RebuildRefused(
        `The tables of ${name} have changed since its previous rows served.`,
      );
    }
    return takeBack(d, { projection, previous }, false);
  });
}

/** Drops the previous rows of a projection, and a rebuild of it that was not finished; gives what there was. */
export function dropCopies(pool: pg.Pool, projection: Projection): Promise<readonly CopyKind[]> {
  return alone(pool, projection, LOCK_PATIENCE_MS, async () => {
    const dropped: CopyKind[] = [];
    for (const kind of ['rebuild', 'previous'] as const) {
      if ((await findCopy(pool, { name: projection.name, kind })) === null) continue;
      await inTransaction(pool, (db) => dropCopy(db, { name: projection.name, kind }));
      dropped.push(kind);
    }
    return dropped;
  });
}

/** Drops copies that nothing has been done to for a week, and that nobody is using now. */
export async function dropStaleCopies(pool: pg.Pool, now: Date): Promise<void> {
  const before = new Date(now.getTime() - KEPT_MS);
  const names = new Set((await findStaleCopies(pool, before)).map(({ name }) => name));
  for (const name of names) {
    await doAlone(pool, { lock: LOCKS.rebuild, name, patienceMs: 0 }, async () => {
      // Whoever had the lock before may have used one, or put another in its place.
      const stale = (await findStaleCopies(pool, before)).filter((copy) => copy.name === name);
      for (const copy of stale) await inTransaction(pool, (db) => dropCopy(db, copy));
    });
  }
}

/**
 * Where a projection goes on when a gateway starts. Rows of another version, and of one that has seen more
 * than the log holds (a log that was restored to an earlier state, for which they would pass for caught
 * up), are replaced first: by previous ones of this version, or by folding anew.
 */
export async function openSound(
  d: Rebuilding,
  projection: Projection,
  warn: (fields: object, message: string) => void,
): Promise<Position> {
  const { name, version, tables } = projection;
  const isSound = ({ position, version: served }: Checkpoint, head: Position) =>
    position <= head && served === version;
  const { position: head } = await d.log.head();
  const found = await openCheckpoint(d.pool, projection);
  if (isSound(found, head)) return found.position;
  const sound = await alone(d.pool, projection, START_PATIENCE_MS, async () => {
    // Whoever had the lock before may have done it.
    const serving = await openCheckpoint(d.pool, projection);
    if (isSound(serving, head)) return serving;
    const told = { projection: name, position: String(serving.position), version: serving.version };
    const isRestored = serving.position > head;
    const previous = await findCopy(d.pool, { name, kind: 'previous' });
    if (previous?.version === version && !isRestored) {
      if (await isUsable(d.pool, { previous, tables }, serving.position)) {
        warn(told, 'taking the previous rows back');
        return takeBack(d, { projection, previous }, true);
      }
    }
    warn(told, 'rebuilding');
    const until = isRestored ? head : serving.position;
    if (tables.length === 0) return foldInPlace(d, projection, until);
    const copy = await openRebuild(d, projection, until);
    const rows = isRestored ? 'any' : 'counted';
    const flipped = await bringToServe(
      d,
      { projection, copy },
      { rows, isRestored, isStart: true },
    );
    warn({ projection: name, differences: flipped.differences }, 'rebuilt');
    return flipped;
  });
  return sound.position;
}

/** Where the serving rows are, if they are in a state to be replaced by hand. */
async function openServing(d: Rebuilding, projection: Projection): Promise<Checkpoint> {
  const serving = await openCheckpoint(d.pool, projection);
  const { position: head } = await d.log.head();
  if (serving.position > head) {
    throw new RebuildRefused(
      `${projection.name} has applied more than the log holds. Is it the gateway's own log ` +
        '(MAILGUARD_EVENTLOG_URL)? If that was restored, start the gateway, which folds all anew.',
    );
  }
  await requireNoOtherVersion(d.pool, projection, serving.version);
  return serving;
}

/** The copy to fold into: the one that an earlier rebuild left, where it is of use, else one made anew. */
async function openRebuild(
  { pool }: Rebuilding,
  { name, version, tables, shared = [] }: Projection,
  until: Position,
): Promise<ProjectionCopy> {
  const left = await findCopy(pool, { name, kind: 'rebuild' });
  if (left?.version === version && (await isUsable(pool, { previous: left, tables }, until))) {
    return left;
  }
  const copy = { name, kind: 'rebuild', version, position: 0n, tables, updatedAt: '' } as const;
  await inTransaction(pool, async (db) => {
    await dropCopy(db, copy);
    await addTables(db, copy, [...tables, ...shared]);
    await saveCopy(db, copy);
  });
  return copy;
}

async function isUsable(
  pool: pg.Pool,
  { previous, tables }: Readonly<{ previous: ProjectionCopy; tables: readonly string[] }>,
  until: Position,
): Promise<boolean> {
  if (previous.position > until || previous.tables.join() !== tables.join()) return false;
  return hasShapeOfServing(pool, previous);
}

async function takeBack(
  d: Rebuilding,
  { projection, previous: copy }: Readonly<{ projection: Projection; previous: ProjectionCopy }>,
  isStart: boolean,
): Promise<Flipped> {
  await addTables(d.pool, copy, projection.shared ?? []);
  return bringToServe(d, { projection, copy }, { rows: 'any', isRestored: false, isStart });
}

/** What has no tables can be applied again beside its runner; only then does the checkpoint say so. */
async function foldInPlace(
  { pool, log, onProgress, pageEvents: limit }: Rebuilding,
  projection: Projection,
  until: Position,
): Promise<Flipped> {
  let after = 0n;
  while (after < until) {
    const range = limit === undefined ? { after, until } : { after, until, limit };
    const page = await readPage(log, projection, range);
    await inTransaction(pool, (db) => projection.apply(db, page.events));
    after = page.scannedTo;
    onProgress?.(after, until);
  }
  await inTransaction(pool, async (db) => {
    const { position } = await lockCheckpoint(db, projection);
    const { position: head } = await log.head();
    await moveCheckpoint(db, projection, position > head ? until : position);
  });
  return { position: until, differences: [] };
}

/** Runs work as the only one who rebuilds this projection. */
async function alone<T>(
  pool: pg.Pool,
  { name }: Projection,
  patienceMs: number,
  work: () => Promise<T>,
): Promise<T> {
  const done = await doAlone(pool, { lock: LOCKS.rebuild, name, patienceMs }, work);
  if (done === null) throw new RebuildRefused(`Another rebuild of ${name} is under way.`);
  return done.result;
}
