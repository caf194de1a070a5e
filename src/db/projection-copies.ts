import type pg from 'pg';
import { utc } from '../clock.ts';
import { nameOf, quoteName } from './relations.ts';

/** `rebuild`: is folded anew; `previous`: served until the last flip. */
export type CopyKind = 'rebuild' | 'previous';

/** A read model beside the one that serves, in a schema of its own. */
export type ProjectionCopy = Readonly<{
  name: string;
  kind: CopyKind;
  version: number;
  position: bigint;
  tables: readonly string[];
  updatedAt: string;
}>;

type Which = Pick<ProjectionCopy, 'name' | 'kind'>;

/** Where the tables of a copy are. */
export const schemaOf = ({ name, kind }: Which): string => `${kind}_${name}`;

const SELECT = `
  select name, kind, version, position, tables,
    ${utc('updated_at')} as "updatedAt"
  from projection_copies`;

type Row = Omit<ProjectionCopy, 'position'> & Readonly<{ position: string }>;
const toCopy = (row: Row): ProjectionCopy => ({ ...row, position: BigInt(row.position) });

export async function listCopies(db: pg.ClientBase | pg.Pool): Promise<readonly ProjectionCopy[]> {
  const { rows } = await db.query<Row>(`${SELECT} order by name, kind`);
  return rows.map(toCopy);
}

export async function findCopy(
  db: pg.ClientBase | pg.Pool,
  { name, kind }: Which,
): Promise<ProjectionCopy | null> {
  const { rows } = await db.query<Row>(`${SELECT} where name = $1 and kind = $2`, [name, kind]);
  return rows[0] === undefined ? null : toCopy(rows[0]);
}

/** Where a copy is, held there until the transaction ends; null when it is gone. */
export async function lockCopy(db: pg.ClientBase, { name, kind }: Which): Promise<bigint | null> {
  const { rows } = await db.query<{ position: string }>(
    'select position from projection_copies where name = $1 and kind = $2 for update',
    [name, kind],
  );
  return rows[0] === undefined ? null : BigInt(rows[0].position);
}

/** Notes a copy, or how far it has come. */
export async function saveCopy(
  db: pg.ClientBase,
  { name, kind, version, position, tables }: Omit<ProjectionCopy, 'updatedAt'>,
): Promise<void> {
  await db.query(
    `insert into projection_copies (name, kind, version, position, tables)
     values ($1, $2, $3, $4, $5)
     on conflict (name, kind) do update set version = excluded.version,
       position = excluded.position, tables = excluded.tables, updated_at = now()`,
    [name, kind, version, position, tables],
  );
}

/** Makes what a copy lacks of these tables, empty and in everything like those that serve. */
export async function addTables(
  db: pg.ClientBase | pg.Pool,
  { name, kind }: Which,
  tables: readonly string[],
): Promise<void> {
  await db.query('select add_projection_copy($1, $2, $3)', [name, kind, tables]);
}

/** Has the planner know the rows of a copy. */
export async function analyzeCopy(pool: pg.Pool, { name, kind, tables }: ProjectionCopy) {
  await pool.query('select analyze_projection_copy($1, $2, $3)', [name, kind, tables]);
}

/**
 * Puts the tables of a copy in the place of those that serve, which are the previous ones then, or
 * are dropped. Throws SQLSTATE 55P03 when somebody would not let go of one of them.
 */
export async function swapCopy(
  db: pg.ClientBase,
  { name, kind, tables }: Pick<ProjectionCopy, 'name' | 'kind' | 'tables'>,
  keep: boolean,
): Promise<void> {
  await db.query('select swap_projection_copy($1, $2, $3, $4)', [name, kind, tables, keep]);
  await db.query('delete from projection_copies where name = $1 and kind = any($2)', [
    name,
    [kind, 'previous'],
  ]);
}

/** Drops a copy and what it has beside its tables. */
export async function dropCopy(db: pg.ClientBase, { name, kind }: Which): Promise<void> {
  await db.query('delete from projection_copies where name = $1 and kind = $2', [name, kind]);
  await db.query('select drop_projection_copy($1, $2)', [name, kind]);
}

/** Copies that nothing has been done to since a time. */
export async function findStaleCopies(pool: pg.Pool, before: Date): Promise<readonly Which[]> {
  const { rows } = await pool.query<Which>(
    'select name, kind from projection_copies where updated_at < $1',
    [before],
  );
  return rows;
}

/**
 * Whether the tables of a copy are all there and in everything like those that serve: a migration
 * that came since changed only the latter.
 */
export async function hasShapeOfServing(db: pg.ClientBase | pg.Pool, copy: ProjectionCopy) {
  const { rows } = await db.query<{ same: boolean }>(
    `select coalesce(bool_and((${shapeOf("'public'")}) = (${shapeOf('$2')})), true) as same
     from unnest($1::text[]) t (name)`,
    [copy.tables, schemaOf(copy)],
  );
  return rows[0]?.same === true;
}

/** Columns, constraints, indexes and privileges of a table as one text; null when there is none. */
const shapeOf = (schema: string): string => `
  select string_agg(line, E'\\n' order by line)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace, lateral (
    select concat_ws(' ', 'column', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
             a.attcollation::regcollation, pg_get_expr(d.adbin, d.adrelid)) as line
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    union all
    select concat_ws(' ', 'constraint', conname, pg_get_constraintdef(oid))
    from pg_constraint where conrelid = c.oid
    union all
    select concat_ws(' ', 'index', regexp_replace(pg_get_indexdef(indexrelid), ' ON \\S+ ', ' '))
    from pg_index where indrelid = c.oid
    union all
    select concat_ws(' ', 'grant', g.grantee, g.privilege_type)
    from aclexplode(c.relacl) g where g.grantee <> c.relowner) lines
  where n.nspname = ${schema} and c.relname = t.name`;

type Compared = Readonly<{
  table: string;
  /** Columns to leave out. */
  besides: readonly string[];
  /** Only rows whose time in a column is not further back. */
  within: Readonly<{ column: string; hours: number }> | null;
}>;

/** How many rows only the serving table has, and how many only the copy. */
export async function countDifferences(
  db: pg.ClientBase,
  copy: Which,
  { table, besides, within }: Compared,
): Promise<Readonly<{ onlyOld: number; onlyNew: number }>> {
  const { rows: columns } = await db.query<{ name: string }>(
    `select quote_ident(attname) as name from pg_attribute
     where attrelid = format('public.%I', $1::text)::regclass and attnum > 0 and not attisdropped
       and attname <> all($2) order by attnum`,
    [table, besides],
  );
  const list = columns.map(({ name }) => name).join(', ');
  const where =
    within === null
      ? ''
      : `where ${quoteName(within.column)} >= now() - make_interval(hours => ${within.hours})`;
  const from = (schema: string) =>
    `select ${list} from ${nameOf({ schema, name: table })} ${where}`;
  const [old, made] = [from('public'), from(schemaOf(copy))];
  const { rows } = await db.query<{ only_old: string; only_new: string }>(
    `select (select count(*) from (${old} except all ${made}) a) as only_old,
            (select count(*) from (${made} except all ${old}) b) as only_new`,
  );
  return { onlyOld: Number(rows[0]?.only_old), onlyNew: Number(rows[0]?.only_new) };
}

/** Adds to a shared table what the scratch of a copy has and it lacks. */
export async function addMissing(db: pg.ClientBase, copy: Which, table: string): Promise<void> {
  const serving = nameOf({ schema: 'public', name: table });
  const scratch = nameOf({ schema: schemaOf(copy), name: table });
  await db.query(`insert into ${serving} select * from ${scratch} on conflict do nothing`);
}
