import type { Readable, Writable } from 'node:stream';
import type pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';

/** A table as a backup names it; the bounds are those of its partitions, as PostgreSQL writes them. */
export type CopiedTable = Readonly<{
  schema: string;
  name: string;
  columns: readonly string[];
  partitions: readonly Readonly<{ name: string; bound: string }>[];
}>;

/** A table as it was found; another one of the same name has another oid. */
export type ListedTable = CopiedTable & Readonly<{ oid: number }>;

/**
 * What says only how this database was made, or names tables beside the read models: a restored database has its own.
 */
const NOT_COPIED = ['schema_migrations', 'projection_copies'];
/** Days of attempts that were taken out of their table, and are about to be dropped. */
const FORGOTTEN = '^webhook_attempts_\\d{8}$';

/**
 * The tables of both schemas of this program, from the catalogue, so that none can be forgotten; those that refer
 * to others come behind them. What an extension keeps, and what is named
 * as no table of this program is, is somebody else's.
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

const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`;
const columnsOf = ({ columns }: CopiedTable): string => columns.map(quote).join(', ');

/** Its name in SQL. */
export const nameOf = ({ schema, name }: Pick<CopiedTable, 'schema' | 'name'>): string =>
  `${quote(schema)}.${quote(name)}`;

/** Every row as PostgreSQL's own text (COPY), one a line. */
export const copyOut = (db: pg.Client, table: CopiedTable): Readable =>
  db.query(copyTo(`copy (select ${columnsOf(table)} from ${nameOf(table)}) to stdout`));

/** Takes rows as `copyOut` gave them. */
export const copyIn = (db: pg.Client, table: CopiedTable): Writable =>
  db.query(copyFrom(`copy ${nameOf(table)} (${columnsOf(table)}) from stdin`));

/** Whether a database has a table, or a sequence. */
export async function isThere(
  db: pg.ClientBase,
  what: Pick<CopiedTable, 'schema' | 'name'>,
): Promise<boolean> {
  const { rows } = await db.query<{ found: boolean }>(
    'select to_regclass($1) is not null as found',
    [nameOf(what)],
  );
  return rows[0]?.found === true;
}

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
    const partition = `${quote(table.schema)}.${quote(name)}`;
    // The bound is an expression; it comes from a manifest whose hash was checked, made by this very function's like.
    if (!/^FOR VALUES FROM \('[0-9: +-]+'\) TO \('[0-9: +-]+'\)$/.test(bound)) {
      throw new Error(`a partition has the bound ${bound}`);
    }
    await db.query(
      `create table if not exists ${partition} partition of ${nameOf(table)} ${bound}`,
    );
  }
}

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
  if (last === null || !(await isThere(db, { schema: 'public', name }))) return;
  await db.query('select setval($1::regclass, $2::bigint)', [`public.${quote(name)}`, last]);
}

/** Those that a database has been through; none before the first. */
export async function listMigrations(db: pg.ClientBase): Promise<readonly string[]> {
  if (!(await isThere(db, { schema: 'public', name: 'schema_migrations' }))) return [];
  const { rows } = await db.query<{ name: string }>(
    'select name from public.schema_migrations order by id',
  );
  return rows.map(({ name }) => name);
}

/**
 * Takes webhooks back to the end of a log that is shorter than the one they have seen: what is recorded next
 * must not be taken for sent. For a log in a database of its own.
 */
export async function takeWebhooksBack(db: pg.ClientBase | pg.Pool, head: string): Promise<void> {
  await db.query(
    `update public.webhook_cursors set position = least(position, $1), sent_to = least(sent_to, $1)
     where greatest(position, sent_to) > $1::bigint`,
    [head],
  );
  await db.query('delete from public.webhook_retries where position > $1', [head]);
  await db.query(
    `update public.webhook_replays set position = least(position, $1), sent_to = least(sent_to, $1),
       until_position = least(until_position, $1)
     where until_position > $1::bigint`,
    [head],
  );
}

/** The version of the server. */
export async function readServerVersion(db: pg.ClientBase): Promise<string> {
  const { rows } = await db.query<{ server_version: string }>('show server_version');
  return rows[0]?.server_version ?? '';
}

/** The fingerprint of the master key that the database was begun with, in hex; null before the first start. */
export async function readFingerprint(db: pg.ClientBase): Promise<string | null> {
  const { rows } = await db.query<{ fingerprint: string }>(
    `select encode(key_fingerprint, 'hex') as fingerprint from public.installation`,
  );
  return rows[0]?.fingerprint ?? null;
}

const PAGE_IDS = 1_000;

/** Messages in the quarantine whose bytes the spool should have, a page at a time. */
export async function* listSpooled(db: pg.ClientBase): AsyncGenerator<readonly string[]> {
  let after = '00000000-0000-0000-0000-000000000000';
  for (;;) {
    const { rows } = await db.query<{ id: string }>(
      `select id from public.quarantined_messages
       where id > $1 and store = 'spool' and has_content and is_open order by id limit $2`,
      [after, PAGE_IDS],
    );
    const last = rows.at(-1);
    if (last === undefined) return;
    yield rows.map(({ id }) => id);
    after = last.id;
  }
}
