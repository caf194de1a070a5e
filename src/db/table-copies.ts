import type { Readable, Writable } from 'node:stream';
import type pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import { nameOf, quoteName } from './relations.ts';

/** A table as a backup names it; the bounds are those of its partitions, as PostgreSQL writes them. */
export type CopiedTable = Readonly<{
  schema: string;
  name: string;
  columns: readonly string[];
  partitions: readonly Readonly<{ name: string; bound: string }>[];
}>;

/** A table as it was found; another one of the same name has another oid. */
export type ListedTable = CopiedTable & Readonly<{ oid: number }>;

/** What says only how this database was made, or names tables beside the read models: a restored one has its own. */
const NOT_COPIED = ['schema_migrations', 'projection_copies'];
/** Days of attempts that were taken out of their table, and are about to be dropped. */
const FORGOTTEN = '^webhook_attempts_\\d{8}$';

/**
 * The tables of both schemas of this program, from the catalogue, so that none can be forgotten; those that refer
 * to others come behind them. What an extension keeps, and what is named as no table of this program is, is somebody
 * else's.
 */
export async function listTables(db: pg.ClientBase): Promise<readonly ListedTable[]> {
  const { rows } = await db.query<ListedTable>(
    `select n.nspname as schema, c.relname as name, c.oid,
       (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '') as columns,
       coalesce((select json_agg(json_build_object('name', p.relname, 'bound',
                   pg_get_expr(p.relpartbound, p.oid)) order by p.relname)
        from pg_inherits i join pg_class p on p.oid = i.inhrelid where i.inhparent = c.oid), '[]') as partitions
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname in ('eventlog', 'public') and c.relkind in ('r', 'p') and not c.relispartition
       and c.relname ~ '^[a-z0-9_]+$' and c.relname <> all($1) and c.relname !~ $2
       and not exists (select from pg_depend d
                       where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
     order by exists (select from pg_constraint f where f.conrelid = c.oid and f.contype = 'f'), 1, 2`,
    [NOT_COPIED, FORGOTTEN],
  );
  return rows;
}

const columnsOf = ({ columns }: CopiedTable): string => columns.map(quoteName).join(', ');

/** Every row as PostgreSQL's own text (COPY), one a line. */
export const copyOut = (db: pg.Client, table: CopiedTable): Readable =>
  db.query(copyTo(`copy (select ${columnsOf(table)} from ${nameOf(table)}) to stdout`));

/** Takes rows as `copyOut` gave them. */
export const copyIn = (db: pg.Client, table: CopiedTable): Writable =>
  db.query(copyFrom(`copy ${nameOf(table)} (${columnsOf(table)}) from stdin`));

/** Has the planner know the rows that a table was given. */
export async function analyze(db: pg.ClientBase, table: CopiedTable): Promise<void> {
  await db.query(`analyze ${nameOf(table)}`);
}

/** Makes a table ready for its rows: empty, and with the partitions that they need. */
export async function prepareTable(db: pg.ClientBase, table: CopiedTable): Promise<void> {
  const { rows } = await db.query(`select from ${nameOf(table)} limit 1`);
  // What a migration puts into a new database; the log itself refuses to be emptied, and is empty.
  if (rows.length > 0) await db.query(`delete from ${nameOf(table)}`);
  for (const { name, bound } of table.partitions) {
    const partition = nameOf({ schema: table.schema, name });
    // The bound is an expression; it comes from a manifest whose hash was checked, made by this very function's like.
    if (!/^FOR VALUES FROM \('[0-9: +-]+'\) TO \('[0-9: +-]+'\)$/.test(bound)) {
      throw new Error(`a partition has the bound ${bound}`);
    }
    await db.query(
      `create table if not exists ${partition} partition of ${nameOf(table)} ${bound}`,
    );
  }
}
