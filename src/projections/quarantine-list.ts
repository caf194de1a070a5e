import type pg from 'pg';
import { utc } from '../clock.ts';
import type { HeldBy, Reason, Store } from '../domain/quarantine-language.ts';
import type { QuarantineState } from '../domain/quarantined-message.ts';
import type { RecipientGroup } from './quarantine.ts';

/** A held message as it stands. Times are RFC 3339 with six digits. */
export type MessageRow = Readonly<{
  id: string;
  revision: bigint;
  state: QuarantineState;
  nodeId: string;
  queueId: string;
  sender: string | null;
  recipients: readonly RecipientGroup[];
  subject: string | null;
  messageId: string | null;
  score: number | null;
  symbols: readonly string[];
  reason: Reason;
  sizeBytes: number;
  store: Store;
  /** Of the hold queue alone. */
  heldBy: HeldBy | null;
  arrivedAt: string;
  expiresAt: string;
  mailDomains: readonly number[];
  /** By the number of the recipient: how its last delivery went. */
  results: Readonly<Record<string, RecipientResult>>;
}>;

type RecipientResult = Readonly<{
  outcome: 'accepted' | 'deferred' | 'refused' | 'unknown';
  code: number | null;
  at: string;
  server: string | null;
  reply: string | null;
}>;

/** Where a page begins: behind this message, in the order of the list. */
export type ListPlace = Readonly<{ arrivedAt: string; id: string }>;

/**
 * What to look for. `terms` are exact and indexed: the first drives the search, so the rarest kind should
 * come first. Everything else is checked per message, under the scan budget.
 */
export type MessageSearch = Readonly<{
  /** In the quarantine, out of it, or both (null). */
  isOpen: boolean | null;
  terms: readonly string[];
  since: string | null;
  until: string | null;
  states: readonly string[] | null;
  reasons: readonly string[] | null;
  minScore: number | null;
  maxScore: number | null;
  expiresBefore: string | null;
  subject: string | null;
  /** Anywhere in subject, sender or Message-ID. */
  text: string | null;
  /** Recipients that must stand among those of this mail domain. */
  recipientOf: Readonly<{ mailDomain: number; address: string }> | null;
}>;

/** A search that found too little answers with what it has once it has looked at so many messages. */
export const SCAN_MESSAGES_MAX = 100_000;
export const SCAN_BUDGET_MS = 2_000;
const SCAN_BATCH = 1_000;
const SCAN_BATCH_MAX = 20_000;

export type Found = Readonly<{
  rows: readonly MessageRow[];
  /** Where the next page begins; null when everything was looked at. */
  next: ListPlace | null;
}>;

/** The next matches, newest first; fewer than `limit` with a `next` when the scan budget ran out. */
export async function searchMessages(
  pool: pg.Pool,
  search: MessageSearch,
  page: Readonly<{ after: ListPlace | null; offset: number; limit: number }>,
): Promise<Found> {
  const deadline = performance.now() + SCAN_BUDGET_MS;
  const isExact = !hasResidue(search);
  const wanted = page.offset + page.limit + 1;
  const rows: MessageRow[] = [];
  let { after } = page;
  let scanned = 0;
  let batch = isExact ? wanted : Math.max(SCAN_BATCH, wanted);
  for (;;) {
    const found = await scan(pool, search, after, { batch, limit: wanted - rows.length });
    rows.push(...found.rows);
    scanned += found.scanned;
    after = found.last ?? after;
    const isEnd = found.scanned < batch;
    if (rows.length >= wanted) {
      const shown = rows.slice(page.offset, wanted - 1);
      return { rows: shown, next: placeOf(shown.at(-1) ?? rows[wanted - 2]) };
    }
    if (isEnd) return { rows: rows.slice(page.offset), next: null };
    if (scanned >= SCAN_MESSAGES_MAX || performance.now() >= deadline) {
      return { rows: rows.slice(page.offset), next: after };
    }
    batch = Math.min(batch * 2, SCAN_BATCH_MAX, SCAN_MESSAGES_MAX - scanned);
  }
}

const placeOf = (row: MessageRow | undefined): ListPlace | null =>
  row === undefined ? null : { arrivedAt: row.arrivedAt, id: row.id };

const hasResidue = (s: MessageSearch): boolean =>
  s.terms.length > 1 ||
  [
    s.states,
    s.reasons,
    s.minScore,
    s.maxScore,
    s.expiresBefore,
    s.subject,
    s.text,
    s.recipientOf,
  ].some((value) => value !== null);

type Scanned = Readonly<{ rows: MessageRow[]; scanned: number; last: ListPlace | null }>;

async function scan(
  pool: pg.Pool,
  search: MessageSearch,
  after: ListPlace | null,
  { batch, limit }: Readonly<{ batch: number; limit: number }>,
): Promise<Scanned> {
  const values: unknown[] = [];
  const bind = (value: unknown) => `$${values.push(value)}`;
  const candidates = candidatesOf(search, after, bind(batch), bind);
  const residue = residueOf(search, bind);
  // The left join keeps one row when nothing matches: it still says how far was looked.
  const { rows } = await pool.query<(Row | Nothing) & LookedAt>(
    `with candidates as materialized (${candidates}),
     last as (
       select count(*) over () as scanned, ${utc('arrived_at')} as last_at, id as last_id
       from candidates order by candidates.arrived_at, id limit 1)
     select last.*, found.* from last left join (
       select ${COLUMNS}, m.arrived_at as sorted_at
       from candidates c join quarantined_messages m on m.id = c.id ${residue}
       order by c.arrived_at desc, c.id desc limit ${bind(limit)}
     ) found on true
     order by found.sorted_at desc, found.id desc`,
    values,
  );
  const [first] = rows;
  if (first === undefined) return { rows: [], scanned: 0, last: null };
  return {
    rows: rows.filter((row) => row.id !== null).map(toMessageRow),
    scanned: Number(first.scanned),
    last: { arrivedAt: first.last_at, id: first.last_id },
  };
}

type LookedAt = { scanned: string; last_at: string; last_id: string };
type Nothing = { id: null };

type Bind = (value: unknown) => string;

/** The next messages in the order of the list, from the index of the leading term or of all. */
function candidatesOf(
  search: MessageSearch,
  after: ListPlace | null,
  limit: string,
  bind: Bind,
): string {
  const [leading] = search.terms;
  const id = leading === undefined ? 'id' : 'message_id';
  const from =
    leading === undefined
      ? 'quarantined_messages where true'
      : `quarantine_terms where term = ${bind(leading)}`;
  const bounds = [
    after === null
      ? ''
      : `and (arrived_at, ${id}) < (${bind(after.arrivedAt)}::timestamptz, ${bind(after.id)}::uuid)`,
    search.since === null ? '' : `and arrived_at >= ${bind(search.since)}::timestamptz`,
    search.until === null ? '' : `and arrived_at < ${bind(search.until)}::timestamptz`,
  ].join(' ');
  const run = (isOpen: boolean) =>
    `(select arrived_at, ${id} as id from ${from} and is_open = ${isOpen} ${bounds}
      order by arrived_at desc, ${id} desc limit ${limit})`;
  // The index has the open and the closed ones apart, each in order.
  if (search.isOpen !== null) return run(search.isOpen);
  return `select * from (${run(true)} union all ${run(false)}) both_runs
    order by arrived_at desc, id desc limit ${limit}`;
}

function residueOf(search: MessageSearch, bind: Bind): string {
  const conditions = search.terms.slice(1).map(
    (other) => `exists (select from quarantine_terms t where t.term = ${bind(other)}
      and t.is_open = m.is_open and t.arrived_at = m.arrived_at and t.message_id = m.id)`,
  );
  const add = (value: unknown, condition: (bound: string) => string) => {
    if (value !== null) conditions.push(condition(bind(value)));
  };
  const pattern = (text: string | null) =>
    text === null ? null : `%${text.replace(/[\\%_]/g, '\\$&')}%`;
  add(search.states, (bound) => `m.state = any(${bound})`);
  add(search.reasons, (bound) => `m.reason = any(${bound})`);
  add(search.minScore, (bound) => `m.score >= ${bound}`);
  add(search.maxScore, (bound) => `m.score <= ${bound}`);
  add(search.expiresBefore, (bound) => `m.expires_at < ${bound}::timestamptz`);
  add(pattern(search.subject), (bound) => `m.subject ilike ${bound}`);
  add(
    pattern(search.text),
    (bound) =>
      `(m.subject ilike ${bound} or m.sender ilike ${bound} or m.message_id ilike ${bound})`,
  );
  if (search.recipientOf !== null) {
    const { mailDomain, address } = search.recipientOf;
    conditions.push(`exists (
      select from jsonb_array_elements(m.recipients) g, jsonb_array_elements_text(g->'addresses') a
      where (g->>'mail_domain')::bigint = ${bind(mailDomain)} and lower(a) = ${bind(address.toLowerCase())})`);
  }
  return conditions.length === 0 ? '' : `where ${conditions.join(' and ')}`;
}

const COLUMNS = `m.id, m.revision, m.state, m.node_id, m.queue_id, m.sender, m.recipients, m.subject,
  m.message_id, m.score, m.symbols, m.reason, m.size_bytes, ${utc('m.arrived_at')} as arrived_at,
  ${utc('m.expires_at')} as expires_at, m.mail_domains, m.results, m.store, m.held_by`;

type Row = {
  id: string;
  revision: string;
  state: QuarantineState;
  node_id: string;
  queue_id: string;
  sender: string | null;
  recipients: RecipientGroup[];
  subject: string | null;
  message_id: string | null;
  score: number | null;
  symbols: string[];
  reason: Reason;
  size_bytes: string;
  arrived_at: string;
  expires_at: string;
  mail_domains: string[];
  results: Record<string, RecipientResult>;
  store: Store;
  held_by: HeldBy | null;
};

/** Messages by id, in no order; unknown ones are absent. */
export async function findMessages(
  pool: pg.Pool,
  ids: readonly string[],
): Promise<readonly MessageRow[]> {
  const { rows } = await pool.query<Row>(
    `select ${COLUMNS} from quarantined_messages m where m.id = any($1::uuid[])`,
    [ids],
  );
  return rows.map(toMessageRow);
}

/**
 * The message that a node's queue id means: the one in the quarantine, else the latest. For a narrowed caller only
 * messages of its mail domain count, since anybody may hand in mail under a queue id that is in use.
 */
export async function findMessageInQueue(
  pool: pg.Pool,
  named: Readonly<{ nodeId: string; queueId: string; mailDomain: number | null }>,
): Promise<MessageRow | null> {
  const { rows } = await pool.query<Row>(
    `select ${COLUMNS} from quarantined_messages m where m.node_id = $1 and m.queue_id = $2
       and ($3::bigint is null or $3 = any(m.mail_domains))
     order by m.is_open desc, m.arrived_at desc, m.id desc limit 1`,
    [named.nodeId, named.queueId, named.mailDomain],
  );
  return rows[0] === undefined ? null : toMessageRow(rows[0]);
}

const toMessageRow = (row: Row): MessageRow => ({
  id: row.id,
  revision: BigInt(row.revision),
  state: row.state,
  nodeId: row.node_id,
  queueId: row.queue_id,
  sender: row.sender,
  recipients: row.recipients,
  subject: row.subject,
  messageId: row.message_id,
  score: row.score,
  symbols: row.symbols,
  reason: row.reason,
  sizeBytes: Number(row.size_bytes),
  arrivedAt: row.arrived_at,
  expiresAt: row.expires_at,
  mailDomains: row.mail_domains.map(Number),
  results: row.results,
  store: row.store,
  heldBy: row.held_by,
});
