import type pg from 'pg';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import type { Projection } from '../../src/projections/projection.ts';
import { type Projector, startProjector } from '../../src/projections/projector.ts';

export const silent = { warn: () => undefined, error: () => undefined };

/** Empties the tables of a projection. */
export async function clearTables(
  db: pg.ClientBase | pg.Pool,
  { tables }: Projection,
): Promise<void> {
  for (const table of tables) await db.query(`delete from ${table}`);
}

/** Starts a projector and waits until it has applied all that the log holds. */
export async function caughtUp(
  deps: Readonly<{ pool: pg.Pool; log: EventLog }>,
  projections: readonly Projection[],
): Promise<Projector> {
  const projector = await startProjector({ ...deps, logger: silent }, projections);
  const { position } = await deps.log.head();
  if (await projector.caughtUp(position, undefined, 15_000)) return projector;
  await projector.stop();
  throw new Error('the projections do not catch up');
}

/** Folds the log into emptied tables, as a gateway does that runs for the first time. */
export async function foldAnew(
  deps: Readonly<{ pool: pg.Pool; log: EventLog }>,
  projection: Projection,
): Promise<void> {
  await clearTables(deps.pool, projection);
  await deps.pool.query('delete from projection_checkpoints where name = $1', [projection.name]);
  await (await caughtUp(deps, [projection])).stop();
}

const gates: (() => void)[] = [];

/** Something to wait at until it is opened, at the latest by `openGates`. */
export function gate() {
  let open = (): void => undefined;
  let arrived = (): void => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const reached = new Promise<void>((resolve) => {
    arrived = resolve;
  });
  gates.push(() => open());
  return {
    open: () => open(),
    reached,
    pass: () => {
      arrived();
      return opened;
    },
  };
}

/** For the end of a test: whoever still waits at a gate goes on. */
export function openGates(): void {
  for (const open of gates.splice(0)) open();
}
