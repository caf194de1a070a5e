import type pg from 'pg';
import type { EventLog, Position, StoredEvent } from '../eventlog/eventlog.ts';
import { isConnectionError } from '../eventlog/unavailable.ts';
import { type RecordedEvent, readLine } from '../eventlog/upcast.ts';
import { type ProjectionStatus, readStatus } from './projection-status.ts';

/** One read model: which events it folds, and how. `apply` must be repeatable per event. */
export type Projection = Readonly<{
  name: string;
  version: number;
  types: readonly string[];
  apply: (db: pg.ClientBase, events: readonly ProjectedEvent[]) => Promise<void>;
  /** Empties its tables, for a rebuild. */
  clear: (db: pg.ClientBase) => Promise<void>;
}>;

export type ProjectedEvent = Readonly<{ event: RecordedEvent; stored: StoredEvent }>;

export type Projector = Readonly<{
  /** Resolves true once all named projections (default: every one) have applied up to a position. */
  caughtUp: (position: Position, names?: readonly string[], timeoutMs?: number) => Promise<boolean>;
  status: () => Promise<readonly ProjectionStatus[]>;
  stop: () => Promise<void>;
}>;

type Running = {
  projection: Projection;
  position: Position;
  savedPosition: Position;
  stoppedBy: string | null;
};

const PAGE_EVENTS = 1_000;
const TRIES_MAX = 5;
const RETRY_MS = 200;
const CAUGHT_UP_TIMEOUT_MS = 2_000;
/** A checkpoint that moved over events of no interest is saved at most this often. */
const IDLE_SAVE_POSITIONS = 5_000n;

type Logger = Readonly<Record<'warn' | 'error', (fields: object, message: string) => void>>;
type Waiter = { position: Position; names: readonly string[]; resolve: (done: boolean) => void };

/** Runs every projection behind the log's head until stopped. */
export async function startProjector(
  deps: Readonly<{ pool: pg.Pool; log: EventLog; logger: Logger }>,
  projections: readonly Projection[],
): Promise<Projector> {
  const abort = new AbortController();
  const running: Running[] = [];
  for (const projection of projections) {
    const position = await openSound(deps, projection);
    running.push({ projection, position, savedPosition: position, stoppedBy: null });
  }
  const waiters = new Set<Waiter>();
  const isDone = (waiter: Waiter) =>
    running.every(
      (r) => !waiter.names.includes(r.projection.name) || r.position >= waiter.position,
    );
  const progressed = () => {
    for (const waiter of [...waiters]) if (isDone(waiter)) waiter.resolve(true);
  };
  const loops = running.map((r) => run(deps, r, abort.signal, progressed));
  return {
    caughtUp(position, names = projections.map(({ name }) => name), ms = CAUGHT_UP_TIMEOUT_MS) {
      return new Promise((done) => {
        const timer = setTimeout(() => waiter.resolve(false), ms);
        const waiter: Waiter = {
          position,
          names,
          resolve(result) {
            clearTimeout(timer);
            waiters.delete(waiter);
            done(result);
          },
        };
        waiters.add(waiter);
        progressed();
      });
    },
    status: () => readStatus(deps.log, running),
    async stop() {
      abort.abort();
      await Promise.all(loops);
    },
  };
}

/** Follows the head; each page is applied with its checkpoint in one transaction. */
async function run(
  deps: Readonly<{ pool: pg.Pool; log: EventLog; logger: Logger }>,
  r: Running,
  signal: AbortSignal,
  progressed: () => void,
): Promise<void> {
  const isAborted = () => signal.aborted;
  for await (const head of deps.log.follow(r.position, signal)) {
    let poisoned = 0;
    let isFailing = false;
    while (r.position < head && !isAborted()) {
      try {
        await applyPage(deps, r, head);
        poisoned = 0;
        isFailing = false;
        progressed();
      } catch (error) {
        // A poison event stays poison; a database that is away comes back, so that is not counted.
        if (error instanceof ProjectionError) poisoned += 1;
        if (poisoned >= TRIES_MAX) {
          r.stoppedBy = (error as Error).message;
          deps.logger.error({ err: error, projection: r.projection.name }, 'projection stopped');
          return;
        }
        if (!isFailing) deps.logger.warn({ err: error, projection: r.projection.name }, 'retrying');
        isFailing = true;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }
  await saveCheckpoint(deps.pool, r).catch(() => undefined);
}

/** The fold itself failed, as opposed to reading or committing it. */
class ProjectionError extends Error {}

async function applyPage(
  { pool, log }: Readonly<{ pool: pg.Pool; log: EventLog }>,
  r: Running,
  head: Position,
): Promise<void> {
  const { projection } = r;
  const page = await log.readAll({
    after: r.position,
    until: head,
    filter: { types: projection.types },
    limit: PAGE_EVENTS,
  });
  if (page.events.length === 0) {
    r.position = page.scannedTo;
    if (r.position - r.savedPosition >= IDLE_SAVE_POSITIONS) await saveCheckpoint(pool, r);
    return;
  }
  const reached = await inTransaction(pool, async (db) => {
    const checkpoint = await lockCheckpoint(db, projection);
    // Another runner was faster, or a rebuild moved the checkpoint: go on from where it is.
    if (checkpoint !== r.savedPosition && checkpoint !== r.position) return checkpoint;
    try {
      await projection.apply(db, page.events.map(toProjected));
    } catch (error) {
      if (isConnectionError(error)) throw error;
      throw new ProjectionError(error instanceof Error ? error.message : 'unknown', {
        cause: error,
      });
    }
    await db.query(SAVE, [projection.name, page.scannedTo]);
    return page.scannedTo;
  });
  r.position = reached;
  r.savedPosition = reached;
}

/**
 * Folds the whole log anew into emptied tables, in one transaction: readers see the old rows until
 * the new ones are whole. Meant for a projection whose runner may be going on elsewhere; the
 * checkpoint's row lock keeps the two apart.
 */
export async function rebuildProjection(
  { pool, log }: Readonly<{ pool: pg.Pool; log: EventLog }>,
  projection: Projection,
  onProgress: (position: Position, head: Position) => void = () => undefined,
): Promise<Position> {
  await openCheckpoint(pool, projection);
  return inTransaction(pool, async (db) => {
    await db.query('set local statement_timeout = 0');
    await lockCheckpoint(db, projection);
    // Under the lock: what a runner applied until now is below this head, and is folded again.
    const { position: head } = await log.head();
    await projection.clear(db);
    let position = 0n;
    while (position < head) {
      const page = await log.readAll({
        after: position,
        until: head,
        filter: { types: projection.types },
        limit: PAGE_EVENTS,
      });
      await projection.apply(db, page.events.map(toProjected));
      position = page.scannedTo;
      onProgress(position, head);
    }
    await db.query(SAVE, [projection.name, head]);
    await db.query('update projection_checkpoints set version = $2 where name = $1', [
      projection.name,
      projection.version,
    ]);
    return head;
  });
}

const SAVE = `
  update projection_checkpoints set position = $2, updated_at = now() where name = $1`;

const toProjected = (stored: StoredEvent): ProjectedEvent => ({
  event: readLine(stored.line),
  stored,
});

/**
 * Where a projection goes on. One of an older version, or one that has seen more than the log holds (a log
 * that was restored to an earlier state), is folded anew: it would otherwise pass for caught up.
 */
async function openSound(
  deps: Readonly<{ pool: pg.Pool; log: EventLog; logger: Logger }>,
  projection: Projection,
): Promise<Position> {
  const { position, version } = await openCheckpoint(deps.pool, projection);
  const { position: head } = await deps.log.head();
  if (position <= head && version === projection.version) return position;
  deps.logger.warn({ projection: projection.name, position: String(position) }, 'rebuilding');
  return rebuildProjection(deps, projection);
}

async function openCheckpoint(
  pool: pg.Pool,
  { name, version }: Projection,
): Promise<{ position: Position; version: number }> {
  await pool.query(
    `insert into projection_checkpoints (name, version) values ($1, $2)
     on conflict (name) do nothing`,
    [name, version],
  );
  // Without a lock: whoever is applying a page holds the row's.
  const { rows } = await pool.query<{ position: string; version: number }>(
    'select position, version from projection_checkpoints where name = $1',
    [name],
  );
  return { position: BigInt(rows[0]?.position ?? 0), version: rows[0]?.version ?? version };
}

// The row lock is the fence: whoever holds it applies the next page, and rows and checkpoint commit together, so
// two runners or a crash can never apply a page twice or skip one.
async function lockCheckpoint(db: pg.ClientBase, { name }: Projection): Promise<Position> {
  const { rows } = await db.query<{ position: string }>(
    'select position from projection_checkpoints where name = $1 for update',
    [name],
  );
  return BigInt(rows[0]?.position ?? 0);
}

async function saveCheckpoint(pool: pg.Pool, r: Running): Promise<void> {
  if (r.position === r.savedPosition) return;
  // Only forward from what we saved: a runner elsewhere, or a rebuild, may have moved it.
  const { rowCount } = await pool.query(`${SAVE} and position = $3`, [
    r.projection.name,
    r.position,
    r.savedPosition,
  ]);
  if (rowCount === 1) r.savedPosition = r.position;
}

async function inTransaction<T>(
  pool: pg.Pool,
  work: (db: pg.ClientBase) => Promise<T>,
): Promise<T> {
  const db = await pool.connect();
  let failure: Error | undefined;
  try {
    await db.query('begin');
    const result = await work(db);
    await db.query('commit');
    return result;
  } catch (error) {
    failure = error as Error;
    await db.query('rollback').then(
      () => (failure = undefined),
      () => undefined,
    );
    throw error;
  } finally {
    db.release(failure);
  }
}
