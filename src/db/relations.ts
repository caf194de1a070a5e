import type pg from 'pg';

/** A table, or a sequence, by its two names. */
export type RelationName = Readonly<{ schema: string; name: string }>;

/** A name as SQL has it where it may hold anything. */
export const quoteName = (name: string): string => `"${name.replaceAll('"', '""')}"`;

export const nameOf = ({ schema, name }: RelationName): string =>
  `${quoteName(schema)}.${quoteName(name)}`;

/** Whether a database has it. */
export async function isThere(db: pg.ClientBase, relation: RelationName): Promise<boolean> {
  const { rows } = await db.query<{ found: boolean }>(
    'select to_regclass($1) is not null as found',
    [nameOf(relation)],
  );
  return rows[0]?.found === true;
}
