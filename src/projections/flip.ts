import pg from 'pg';
import { isServed } from '../db/lock.ts';
import {
  addMissing,
  analyzeCopy,
  countDifferences,
  type ProjectionCopy,
  saveCopy,
  swapCopy,
} from '../db/projection-copies.ts';
import { inTransaction } from '../db/transaction.ts';
import type { Position } from '../eventlog/eventlog.ts';
import { lockCheckpoint, moveCheckpoint, openCheckpoint } from './checkpoint.ts';
import { type Folded, foldRest, foldTo, type Rebuilding } from './copy-fold.ts';
import type { Projection } from './projection.ts';
import { type Difference, RebuildRefused } from './rebuild-refused.ts';

/** Closer than this the rest is folded under the lock that keeps the serving tables where they are. */
const FLIP_LAG_POSITIONS = 1_000n;
/** A log that grows faster than it can be folded is not run after for ever: the lock ends the race. */
const ROUNDS_MAX = 20;
/** Whoever reads a table for long is let be, and asked again; all in all for about half a minute. */
const TRIES_MAX = 100;
const RETRY_MS = 200;
/** A runner that applies a page holds the checkpoint for as long. */
const CHECKPOINT_WAIT_MS = 5_000;
const COMPARE_MAX_MS = 3_600_000;

/** What must be so before a copy comes to serve. */
export type Gate = Readonly<{
  /** Whether rows are compared, and whether it matters what comes of it. */
  rows: 'alike' | 'counted' | 'any';
  /**
   * The serving tables have seen more than the log holds: the copy ends at the log's head, and they
   * are of no worth to anybody.
   */
  isRestored: boolean;
  /** A gateway that starts has the database to itself; anybody else must mind the one that serves. */
  isStart: boolean;
}>;

export type Flipped = Readonly<{ position: Position; differences: readonly Difference[] }>;

/** Folds a copy on until it is where the serving tables are, and puts it in their place. */
export async function bringToServe(
  d: Rebuilding,
  { projection, copy: from }: Folded,
  gate: Gate,
): Promise<Flipped> {
  const near = await comeNear(d, { projection, copy: from }, gate);
  await analyzeCopy(d.pool, near);
  if (gate.rows === 'any') {
    const position = await flip(d, { projection, copy: near }, gate);
    return { position, differences: [] };
  }
  const { copy, differences } = await compare(d, { projection, copy: near });
  if (gate.rows === 'alike' && differences.length > 0) {
    throw new RebuildRefused(
      `The rows of ${projection.name} that serve and those folded anew differ.`,
      differences,
    );
  }
  return { position: await flip(d, { projection, copy }, gate), differences };
}

async function comeNear(
  d: Rebuilding,
  { projection, copy }: Folded,
  { isRestored }: Gate,
): Promise<ProjectionCopy> {
  let at = copy;
  for (let round = 0; round < ROUNDS_MAX; round += 1) {
    const until = isRestored
      ? (await d.log.head()).position
      : (await openCheckpoint(d.pool, projection)).position;
    if (until - at.position <= FLIP_LAG_POSITIONS) return at;
    at = await foldTo(d, { projection, copy: at }, until);
  }
  return at;
}

/**
 * Compares every row, both ways, at one position, while nobody waits: the runner is held for as long as
 * the rest takes to fold and one transaction to begin, which then sees both where they were.
 */
async function compare(
  d: Rebuilding,
  { projection, copy: from }: Folded,
): Promise<Readonly<{ copy: ProjectionCopy; differences: readonly Difference[] }>> {
  const work = async (reader: pg.ClientBase) => {
    const copy = await patiently(d, from, () =>
      inTransaction(d.pool, async (holder) => {
        await waitAtMost(holder);
        const { position } = await lockCheckpoint(holder, projection);
        const there = await foldTo(d, { projection, copy: from }, position);
        await reader.query(`set local statement_timeout = ${COMPARE_MAX_MS}`);
        // The first thing that it reads: from here on it sees this moment.
        await reader.query('select from projection_checkpoints limit 1');
        return there;
      }),
    );
    return { copy, differences: await findDifferences(reader, { projection, copy }) };
  };
  return inTransaction(d.pool, work, 'isolation level repeatable read read only');
}

async function findDifferences(
  db: pg.ClientBase,
  { projection, copy }: Folded,
): Promise<readonly Difference[]> {
  const found: Difference[] = [];
  for (const table of copy.tables) {
    const { columns: besides = [], olderThan: within = null } = projection.unlike?.[table] ?? {};
    const counts = await countDifferences(db, copy, { table, besides, within });
    if (counts.onlyOld > 0 || counts.onlyNew > 0) found.push({ table, ...counts });
  }
  return found;
}

/**
 * The rest, the swap and the checkpoint in one transaction, with the runner held: it finds the rows of
 * the copy exactly where it left its own, so what it has in memory stays true.
 */
const flip = (d: Rebuilding, { projection, copy }: Folded, gate: Gate): Promise<Position> =>
  patiently(d, copy, () =>
    inTransaction(d.pool, async (db) => {
      await waitAtMost(db);
      const serving = await lockCheckpoint(db, projection);
      if (!gate.isStart) await requireNoOtherVersion(db, projection, serving.version);
      const until = gate.isRestored ? (await d.log.head()).position : serving.position;
      await foldRest(db, d, { projection, copy, until });
      if (gate.isRestored) {
        for (const table of projection.shared ?? []) await addMissing(db, copy, table);
      }
      await swapCopy(db, copy, !gate.isRestored);
      if (!gate.isRestored) {
        const { name, tables } = copy;
        const { version } = serving;
        await saveCopy(db, { name, kind: 'previous', version, position: until, tables });
      }
      await moveCheckpoint(db, projection, until);
      return until;
    }),
  );

/** A gateway goes on folding as its version does; rows of another one would not be what it takes them for. */
export async function requireNoOtherVersion(
  db: pg.ClientBase | pg.Pool,
  { name, version }: Projection,
  serving: number,
): Promise<void> {
  if (serving === version || !(await isServed(db))) return;
  throw new RebuildRefused(
    `A gateway is running that folds version ${serving} of ${name}, and this program folds ` +
      `${version}: stop it first, or start the gateway of this release, which does this by itself.`,
  );
}

/** Tries again when somebody would not let go of a lock; nobody has to wait for us meanwhile. */
async function patiently<T>(
  d: Rebuilding,
  { name, position }: ProjectionCopy,
  attempt: () => Promise<T>,
): Promise<T> {
  for (let tries = 0; tries < TRIES_MAX; tries += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (!isLockTimeout(error)) throw error;
    }
    d.onProgress?.(position, position);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  throw new RebuildRefused(
    `Somebody has been using the rows of ${name} for too long. Nothing is lost: try again later.`,
  );
}

const isLockTimeout = (error: unknown): boolean =>
  error instanceof pg.DatabaseError && error.code === '55P03';

const waitAtMost = (db: pg.ClientBase) =>
  db.query(`set local lock_timeout = ${CHECKPOINT_WAIT_MS}`);
