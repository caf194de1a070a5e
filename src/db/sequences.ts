import type pg from 'pg';
import { isThere, nameOf } from './relations.ts';

/** Where a sequence is; null for one that has given out nothing. */
export type Sequence = Readonly<{ name: string; last: string | null }>;

export async function listSequences(db: pg.ClientBase): Promise<readonly Sequence[]> {
  const { rows } = await db.query<Sequence>(
    `select sequencename as name, last_value::text as last from pg_sequences
     where schemaname = 'public' order by 1`,
  );
  return rows;
}

export async function setSequence(db: pg.ClientBase, { name, last }: Sequence): Promise<void> {
  // One that is not there belongs to a table that was somebody else's.
  const sequence = { schema: 'public', name };
  if (last === null || !(await isThere(db, sequence))) return;
  await db.query('select setval($1::regclass, $2::bigint)', [nameOf(sequence), last]);
}
