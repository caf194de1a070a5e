import type pg from 'pg';
import { utc } from '../clock.ts';

/** How far a read model has come, as its checkpoint was last saved. */
export type Checkpoint = Readonly<{
  name: string;
  version: number;
  position: bigint;
  updatedAt: string;
}>;

/** The checkpoints of every read model that has ever run. */
export async function readCheckpoints(db: pg.ClientBase | pg.Pool): Promise<readonly Checkpoint[]> {
  const { rows } = await db.query<[string, number, string, string]>({
    text: `
      select name, version, position, ${utc('updated_at')}
      from projection_checkpoints order by name`,
    rowMode: 'array',
  });
  return rows.map(([name, version, position, updatedAt]) => ({
    name,
    version,
    position: BigInt(position),
    updatedAt,
  }));
}

/** The furthest position that a read model has applied; 0 without any. */
export async function readAppliedTo(db: pg.ClientBase): Promise<bigint> {
  const positions = (await readCheckpoints(db)).map(({ position }) => position);
  return positions.reduce((max, position) => (position > max ? position : max), 0n);
}
