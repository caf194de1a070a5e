import type pg from 'pg';
import { NAMING_TYPES } from '../domain/events.ts';
import type {
  LinePage,
  LogFilter,
  LogPage,
  Order,
  Position,
  ReadRange,
  StoredEvent,
  StoredLine,
} from './eventlog.ts';

/** Positions that one call looks through when no index leads it to the matches. */
const SCAN_POSITIONS = 20_000;
/** Index entries that one call takes when the matches among them must still be picked. */
const CANDIDATES_MAX = 10_000;
/** With more values than this a list is no longer worth an index scan each. */
const DRIVER_VALUES_MAX = 50;

const namingTypes = NAMING_TYPES.map((type) => `'${type}'`).join(', ');

/** What of an event a reader may still see: its own personal row, and its subject's names. */
const DISCLOSURES = `
  concat_ws(',', p.identity, p.network, p.content,
    case when e.type in (${namingTypes}) then
      (select s.disclosures->>e.event_id::text from eventlog.subject_names s
       where s.subject = e.resource) end)`;

export const EVENT_COLUMNS = `e.position, e.line, ${DISCLOSURES} as disclosures`;

export function toStoredEvent(row: readonly string[]): StoredEvent {
  const [position = '0', line = '', disclosures = ''] = row;
  return { position: BigInt(position), line, disclosures };
}

const toStoredLine = ([position = '0', type = '', line = '']: readonly string[]): StoredLine => ({
  position: BigInt(position),
  type,
  line,
});

/**
 * One bounded step of a filtered read. A filter with an index costs the page; any other is looked for
 * in the next stretch of the log, and `scannedTo` says how far, also when nothing matched there.
 */
export async function readFiltered(pool: pg.Pool, range: ReadRange): Promise<LogPage> {
  const { rows, scannedTo } = await readStep(pool, range, EVENTS);
  return { events: rows.map(toStoredEvent), scannedTo };
}

/** The same of lines alone: what is personal is not even looked up. */
export async function readLines(pool: pg.Pool, range: ReadRange): Promise<LinePage> {
  const { rows, scannedTo } = await readStep(pool, range, LINES);
  return { lines: rows.map(toStoredLine), scannedTo };
}

/** How many events match, by whole index scans where an index leads to them. */
export async function countMatching(
  pool: pg.Pool,
  { after, until, filter: given }: Omit<ReadRange, 'limit'>,
): Promise<bigint> {
  const filter = await expandTypes(pool, given);
  const values: unknown[] = [after, until];
  const bind = (value: unknown) => `$${values.push(value)}`;
  const clauses = ['e.position > $1 and e.position <= $2', ...residualClauses(filter, bind)];
  const { rows } = await pool.query<{ n: string }>(
    `select count(*) as n from eventlog.events e where ${clauses.join(' and ')}`,
    values,
  );
  return BigInt(rows[0]?.n ?? 0);
}

type Rows = Readonly<{ rows: readonly (readonly string[])[]; scannedTo: Position }>;

async function readStep(pool: pg.Pool, range: ReadRange, what: Columns): Promise<Rows> {
  const { after, until, limit, order = 'asc' } = range;
  const isUp = order === 'asc';
  const farEnd = isUp ? until : after;
  if (after >= until) return { rows: [], scannedTo: farEnd };
  const behind = (position: string) => BigInt(position) - (isUp ? 0n : 1n);
  const reached = (rows: Rows['rows'], end: Position) => {
    const last = rows.at(-1)?.[0];
    return rows.length < limit || last === undefined ? end : behind(last);
  };
  const filter = await expandTypes(pool, range.filter);
  const driver = pickDriver(filter);
  if (driver === null) {
    const stretch = isEmpty(filter) ? until - after : BigInt(SCAN_POSITIONS);
    const end = isUp ? min(until, after + stretch) : max(after, until - stretch);
    const rows = await readMatching(pool, filter, {
      ...{ what, limit, order, values: isUp ? [after, end] : [end, until] },
      clause: 'e.position > $1 and e.position <= $2',
    });
    return { rows, scannedTo: reached(rows, end) };
  }
  const rest = driver.rest;
  const take = isEmpty(rest) ? limit : CANDIDATES_MAX;
  const candidates = await readCandidates(pool, driver, { after, until, take, order });
  if (candidates.length === 0) return { rows: [], scannedTo: farEnd };
  const rows = await readMatching(pool, rest, {
    ...{ what, limit, order, values: [candidates] },
    clause: 'e.position = any($1::bigint[])',
  });
  const lastCandidate = candidates.length < take ? undefined : candidates.at(-1);
  const end = lastCandidate === undefined ? farEnd : behind(lastCandidate);
  return { rows, scannedTo: reached(rows, end) };
}

type Driver = Readonly<{
  table: 'events' | 'event_mail_domains';
  column: 'resource' | 'actor' | 'type' | 'mail_domain';
  values: readonly string[];
  rest: LogFilter;
}>;

/** The index to go by: the one that is likely to leave the fewest candidates. */
function pickDriver(filter: LogFilter): Driver | null {
  const { resources, actors, mailDomains, visibleTo, types } = filter;
  const without = (member: keyof LogFilter): LogFilter =>
    Object.fromEntries(Object.entries(filter).filter(([name]) => name !== member));
  const by = (column: Driver['column'], member: keyof LogFilter, values: readonly string[]) => ({
    table: column === 'mail_domain' ? ('event_mail_domains' as const) : ('events' as const),
    column,
    values: [...new Set(values)],
    rest: without(member),
  });
  if (usable(resources)) return by('resource', 'resources', resources);
  if (usable(actors)) return by('actor', 'actors', actors);
  if (usable(mailDomains)) return by('mail_domain', 'mailDomains', mailDomains);
  if (visibleTo !== undefined) return by('mail_domain', 'visibleTo', [visibleTo]);
  if (usable(types)) return by('type', 'types', types);
  return null;
}

const usable = (list: readonly string[] | undefined): list is readonly string[] =>
  list !== undefined && list.length <= DRIVER_VALUES_MAX;

/** Positions of the driver's values in order: each value is its own index scan, then merged. */
async function readCandidates(
  pool: pg.Pool,
  { table, column, values }: Driver,
  {
    after,
    until,
    take,
    order,
  }: Readonly<{ after: Position; until: Position; take: number; order: Order }>,
): Promise<string[]> {
  if (values.length === 0) return [];
  const cast = column === 'mail_domain' ? 'bigint' : 'text';
  const scans = values.map(
    (_, index) =>
      `(select position from eventlog.${table}
        where ${column} = $${index + 4}::${cast} and position > $1 and position <= $2
        order by ${column} ${order}, position ${order} limit $3)`,
  );
  const { rows } = await pool.query<string[]>({
    name: `candidates_${column}_${values.length}_${order}`,
    text: `select position from (${scans.join(' union all ')}) s order by position ${order} limit $3`,
    values: [after, until, take, ...values],
    rowMode: 'array',
  });
  return rows.map(([position = '0']) => position);
}

/** What is read of each event of a page; the position comes first. */
type Columns = Readonly<{ select: string; join: string }>;
const EVENTS: Columns = {
  select: EVENT_COLUMNS,
  join: `
      left join lateral (
        select x.identity, x.network, x.content from eventlog.event_personal x
        where x.position = e.position
        offset 0) p on true`,
};
const LINES: Columns = { select: 'e.position, e.type, e.line', join: '' };

type Matching = Readonly<{
  what: Columns;
  limit: number;
  order: Order;
  clause: string;
  values: readonly unknown[];
}>;

async function readMatching(
  pool: pg.Pool,
  filter: LogFilter,
  { what, limit, order, clause, values: given }: Matching,
): Promise<string[][]> {
  const values: unknown[] = [...given, limit];
  const limitAt = values.length;
  const bind = (value: unknown) => `$${values.push(value)}`;
  const clauses = [clause, ...residualClauses(filter, bind)];
  const { rows } = await pool.query<string[]>({
    // The page of events first: planned as one, the join would read every personal row before it.
    text: `
      with page as materialized (
        select e.position, e.event_id, e.type, e.resource, e.line from eventlog.events e
        where ${clauses.join(' and ')}
        order by e.position ${order}
        limit $${limitAt})
      select ${what.select}
      from page e
      ${what.join}
      order by e.position ${order}`,
    values,
    rowMode: 'array',
  });
  return rows;
}

function residualClauses(filter: LogFilter, bind: (value: unknown) => string): string[] {
  const any = (expression: string, list: readonly string[] | undefined) =>
    list === undefined ? [] : [`${expression} = any(${bind(list)}::text[])`];
  const occurred = (operator: string, time: string | undefined) =>
    time === undefined
      ? []
      : [`(e.line::json->>'occurred_at') collate "C" ${operator} ${bind(time)}::text`];
  const inDomain = (ids: readonly string[] | undefined) =>
    ids === undefined
      ? []
      : [
          `exists (select from eventlog.event_mail_domains d
             where d.mail_domain = any(${bind(ids)}::bigint[]) and d.position = e.position)`,
        ];
  return [
    ...any('e.resource', filter.resources),
    ...any('e.actor', filter.actors),
    ...any('e.type', filter.types),
    ...any("split_part(e.actor, ':', 1)", filter.actorTypes),
    ...any("split_part(e.resource, ':', 1)", filter.resourceTypes),
    ...any("(e.line::json->>'outcome')", filter.outcomes),
    ...occurred('>=', filter.occurredFrom),
    ...occurred('<', filter.occurredTo),
    ...inDomain(filter.mailDomains),
    ...inDomain(filter.visibleTo === undefined ? undefined : [filter.visibleTo]),
  ];
}

/** Turns type prefixes into the types that the log holds, by hopping along the index. */
async function expandTypes(pool: pg.Pool, filter: LogFilter): Promise<LogFilter> {
  if (filter.typePrefixes === undefined) return filter;
  const { rows } = await pool.query<{ type: string }>(`
    with recursive hop as (
      (select type from eventlog.events order by type limit 1)
      union all
      select (select e.type from eventlog.events e where e.type > hop.type order by e.type limit 1)
      from hop where hop.type is not null
    )
    select type from hop where type is not null`);
  const matching = rows
    .map(({ type }) => type)
    .filter((type) => filter.typePrefixes?.some((prefix) => type.startsWith(prefix)));
  const { typePrefixes: _, ...rest } = filter;
  return { ...rest, types: [...(filter.types ?? []), ...matching] };
}

const isEmpty = (filter: LogFilter): boolean => Object.keys(filter).length === 0;
const min = (a: Position, b: Position): Position => (a < b ? a : b);
const max = (a: Position, b: Position): Position => (a > b ? a : b);
