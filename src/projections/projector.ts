import type pg from 'pg';
import { inTransaction } from '../db/transaction.ts';
import type { EventLog, Position } from '../eventlog/eventlog.ts';
import { isConnectionError } from '../eventlog/unavailable.ts';
import { advanceCheckpoint, lockCheckpoint, moveCheckpoint } from './checkpoint.ts';
import { type Projection, readPage } from './projection.ts';
import { type ProjectionStatus, readStatus } from './projection-status.ts';
import { openSound } from './rebuild.ts';

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
    const warn: Logger['warn'] = (fields, message) => deps.logger.warn(fields, message);
    const position = await openSound(deps, projection, warn);
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
  const page = await readPage(log, projection, { after: r.position, until: head });
  if (page.events.length === 0) {
    r.position = page.scannedTo;
    // It is where it is, saved or not, and whoever waits for that hears of it; the next one is saved.
    const isDue = r.position - r.savedPosition >= IDLE_SAVE_POSITIONS;
    if (isDue) await saveCheckpoint(pool, r).catch(() => undefined);
    return;
  }
  const reached = await inTransaction(pool, async (db) => {
    const { position: checkpoint, version } = await lockCheckpoint(db, projection);
    if (version !== projection.version) {
      throw new ProjectionError(`its rows are of version ${version} now, by another release`);
    }
    // Another runner was faster, or a rebuild moved the checkpoint: go on from where it is.
    if (checkpoint !== r.savedPosition && checkpoint !== r.position) return checkpoint;
    try {
      await projection.apply(db, page.events);
    } catch (error) {
      if (isConnectionError(error)) throw error;
      throw new ProjectionError(error instanceof Error ? error.message : 'unknown', {
        cause: error,
      });
    }
    await moveCheckpoint(db, projection, page.scannedTo);
    return page.scannedTo;
  });
  r.position = reached;
  r.savedPosition = reached;
}

async function saveCheckpoint(pool: pg.Pool, r: Running): Promise<void> {
  const { position: to, savedPosition: from } = r;
  if (to === from) return;
  // Only forward from what we saved: a runner elsewhere, or a rebuild, may have moved it.
  if (await advanceCheckpoint(pool, r.projection, { from, to })) r.savedPosition = to;
}
