import type pg from 'pg';
import { utc } from '../clock.ts';
import type { Position } from '../eventlog/eventlog.ts';
import type { Projection } from './projection.ts';

/** How far the tables that serve have come, and which version of the fold their rows are of. */
export type Checkpoint = Readonly<{ position: Position; version: number }>;

/** The checkpoint of a projection, which is made when it has none. Takes no lock. */
export async function openCheckpoint(
  pool: pg.Pool,
  { name, version }: Projection,
): Promise<Checkpoint> {
  await pool.query(
    `insert into projection_checkpoints (name, version) values ($1, $2)
     on conflict (name) do nothing`,
    [name, version],
  );
  // Without a lock: whoever is applying a page holds the row's.
  return read(pool, name, '');
}

/**
 * The row lock is the fence: whoever holds it applies the next page, and rows and checkpoint commit
 * together, so two runners or a crash can never apply a page twice or skip one. A flip holds it, too.
 */
export const lockCheckpoint = (db: pg.ClientBase, { name }: Projection): Promise<Checkpoint> =>
  read(db, name, 'for update');

async function read(
  db: pg.ClientBase | pg.Pool,
  name: string,
  locking: '' | 'for update',
): Promise<Checkpoint> {
  const { rows } = await db.query<{ position: string; version: number }>(
    `select position, version from projection_checkpoints where name = $1 ${locking}`,
    [name],
  );
  const row = rows[0];
  if (row === undefined) throw new Error(`the read model ${name} has no checkpoint`);
  return { position: BigInt(row.position), version: row.version };
}

/** How far every read model that has ever run had come when that was last saved. */
export async function listCheckpoints(
  db: pg.ClientBase | pg.Pool,
): Promise<readonly (Checkpoint & Readonly<{ name: string; updatedAt: string }>)[]> {
  const { rows } = await db.query<{
    name: string;
    version: number;
    position: string;
    updatedAt: string;
  }>(
    `select name, version, position, ${utc('updated_at')} as "updatedAt"
     from projection_checkpoints order by name`,
  );
  return rows.map((row) => ({ ...row, position: BigInt(row.position) }));
}

/** The furthest position that any read model has seen; a log that ends before it has lost its last ones. */
export async function furthestCheckpoint(db: pg.ClientBase | pg.Pool): Promise<Position> {
  const { rows } = await db.query<{ position: string }>(
    'select coalesce(max(position), 0) as position from projection_checkpoints',
  );
  return BigInt(rows[0]?.position ?? 0);
}

/** Moves a checkpoint whose lock is held. */
export async function moveCheckpoint(
  db: pg.ClientBase,
  { name, version }: Projection,
  position: Position,
): Promise<void> {
  await db.query(
    `update projection_checkpoints set position = $2, version = $3, updated_at = now()
     where name = $1`,
    [name, position, version],
  );
}

/** Moves a checkpoint that is where, and of the version, that it is taken to be; false when it is not. */
export async function advanceCheckpoint(
  pool: pg.Pool,
  { name, version }: Projection,
  { from, to }: Readonly<{ from: Position; to: Position }>,
): Promise<boolean> {
  const { rowCount } = await pool.query(
    `update projection_checkpoints set position = $2, updated_at = now()
     where name = $1 and position = $3 and version = $4`,
    [name, to, from, version],
  );
  return rowCount === 1;
}
