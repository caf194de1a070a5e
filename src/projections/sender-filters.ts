import type pg from 'pg';
import { utc } from '../clock.ts';
import type { FILTER_KINDS, FILTER_SCOPES, SenderFilterEvent } from '../domain/sender-filter.ts';
import { openDisclosures } from '../eventlog/personal.ts';
import type { ProjectedEvent, Projection } from './projection.ts';

/** A sender filter that has not ended. Times are RFC 3339 with six digits. */
export type SenderFilterRow = Readonly<{
  id: number;
  revision: bigint;
  kind: (typeof FILTER_KINDS)[number];
  scope: (typeof FILTER_SCOPES)[number];
  /** Null for a global one, and for a recipient of no known mail domain. */
  mailDomain: number | null;
  /** An address, or `@` and a domain. */
  sender: string;
  recipient: string | null;
  expiresAt: string | null;
  /** The quarantined message whose release or discard made it. */
  madeBy: string | null;
  createdAt: string;
}>;

export const senderFiltersProjection: Projection = {
  name: 'sender_filters',
  version: 1,
  types: ['sender_filter.created', 'sender_filter.deleted', 'sender_filter.expired'],
  async apply(db, events) {
    for (const projected of events) await applyOne(db, projected);
  },
  tables: ['sender_filters'],
};

async function applyOne(db: pg.ClientBase, { event, stored }: ProjectedEvent): Promise<void> {
  const fact = event as unknown as SenderFilterEvent;
  const { id } = event.resource;
  if (fact.type !== 'sender_filter.created') {
    await db.query('delete from sender_filters where id = $1', [id]);
    return;
  }
  const disclosed = openDisclosures(stored.disclosures);
  const sender = disclosed.get('sender') ?? null;
  // Erased: a filter of nobody's mail does nothing.
  if (sender === null) return;
  const { kind, scope, mail_domain, expires_at, made_by } = fact.data;
  await db.query(
    `insert into sender_filters (id, revision, kind, scope, mail_domain, sender, recipient,
       expires_at, made_by_message, created_at)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
     on conflict (id) do nothing`,
    [
      id,
      event.revision,
      kind,
      scope,
      mail_domain,
      sender,
      disclosed.get('recipient') ?? null,
      expires_at,
      made_by,
      event.recorded_at,
    ],
  );
}

type Row = {
  id: string;
  revision: string;
  kind: SenderFilterRow['kind'];
  scope: SenderFilterRow['scope'];
  mail_domain: string | null;
  sender: string;
  recipient: string | null;
  expires_at: string | null;
  made_by_message: string | null;
  created_at: string;
};

const SELECT = `
  select id, revision, kind, scope, mail_domain, sender, recipient, ${utc('expires_at')} as expires_at,
    made_by_message, ${utc('created_at')} as created_at
  from sender_filters`;

/** Every member that is not null must match; `sender` without regard to case. */
export type SenderFilterSelection = Readonly<{
  kind: SenderFilterRow['kind'] | null;
  scope: SenderFilterRow['scope'] | null;
  mailDomain: number | null;
  sender: string | null;
}>;

/** A page of sender filters, newest first, with ids below `before`. */
export async function listSenderFilters(
  pool: pg.Pool,
  wanted: SenderFilterSelection,
  page: Readonly<{ before: number | null; limit: number }>,
): Promise<readonly SenderFilterRow[]> {
  const values: unknown[] = [];
  const conditions: string[] = [];
  const add = (value: unknown, condition: (bound: string) => string) => {
    if (value !== null) conditions.push(condition(`$${values.push(value)}`));
  };
  add(wanted.kind, (bound) => `kind = ${bound}`);
  add(wanted.scope, (bound) => `scope = ${bound}`);
  add(wanted.mailDomain, (bound) => `mail_domain = ${bound}`);
  add(wanted.sender, (bound) => `lower(sender) = lower(${bound})`);
  add(page.before, (bound) => `id < ${bound}`);
  const where = conditions.length === 0 ? '' : `where ${conditions.join(' and ')}`;
  const { rows } = await pool.query<Row>(
    `${SELECT} ${where} order by id desc limit $${values.push(page.limit)}`,
    values,
  );
  return rows.map(toRow);
}

export async function findSenderFilter(pool: pg.Pool, id: number): Promise<SenderFilterRow | null> {
  const { rows } = await pool.query<Row>(`${SELECT} where id = $1`, [id]);
  return rows[0] === undefined ? null : toRow(rows[0]);
}

/** What ending a filter needs to know of it. */
export type EndingFilter = Pick<SenderFilterRow, 'id' | 'mailDomain'>;
type Page = Readonly<{ after: number; limit: number }>;

/** Filters whose time has come, with ids above `after`, in order. */
export async function listDueSenderFilters(
  pool: pg.Pool,
  now: Date,
  { after, limit }: Page,
): Promise<readonly EndingFilter[]> {
  const { rows } = await pool.query<EndingRow>(
    `select id, mail_domain from sender_filters
     where expires_at <= $1 and id > $2 order by id limit $3`,
    [now, after, limit],
  );
  return rows.map(toEnding);
}

/** Filters whose mail domain is gone, with ids above `after`, in order. */
export async function listOrphanSenderFilters(
  pool: pg.Pool,
  { after, limit }: Page,
): Promise<readonly EndingFilter[]> {
  // Whoever made a filter found its mail domain in that table, so one that is not there is gone.
  const { rows } = await pool.query<EndingRow>(
    `select f.id, f.mail_domain from sender_filters f
     where f.mail_domain is not null and f.id > $1
       and not exists (select from mail_domains d where d.id = f.mail_domain)
     order by f.id limit $2`,
    [after, limit],
  );
  return rows.map(toEnding);
}

type EndingRow = Pick<Row, 'id' | 'mail_domain'>;

const toEnding = (row: EndingRow): EndingFilter => ({
  id: Number(row.id),
  mailDomain: row.mail_domain === null ? null : Number(row.mail_domain),
});

const toRow = (row: Row): SenderFilterRow => ({
  ...toEnding(row),
  revision: BigInt(row.revision),
  kind: row.kind,
  scope: row.scope,
  sender: row.sender,
  recipient: row.recipient,
  expiresAt: row.expires_at,
  madeBy: row.made_by_message,
  createdAt: row.created_at,
});
