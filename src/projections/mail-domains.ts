import { createHmac } from 'node:crypto';
import { domainToASCII } from 'node:url';
import type pg from 'pg';
import { utc } from '../clock.ts';
import type { MailDomainEvent, MailDomainSettings } from '../domain/mail-domain.ts';
import { openDisclosures } from '../eventlog/personal.ts';
import type { Secrets } from '../secrets.ts';
import type { ProjectedEvent, Projection } from './projection.ts';

/** A mail domain as it stands; its name is its subject's, and is looked up where it is shown. */
export type MailDomainRow = Readonly<{
  id: number;
  stream: string;
  revision: bigint;
  settings: MailDomainSettings;
  backendServers: readonly string[];
  createdAt: string;
  updatedAt: string;
}>;

const NAME =
  /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]$/;

/**
 * A mail domain's name in its one form: lower-case A-labels (IDNA, UTS 46) without a final dot. Null
 * for what is no name of a DNS domain.
 */
export function normaliseMailDomainName(text: string): string | null {
  // The URL parser behind `domainToASCII` would cut at, or decode, what no name may hold.
  if (/[^\p{L}\p{M}\p{N}.\-\u3002\uff0e\uff61]/u.test(text.trim())) return null;
  const ascii = domainToASCII(text.trim().replace(/\.$/, '')).toLowerCase();
  return NAME.test(ascii) ? ascii : null;
}

/** The stream that a name's mail domains live in: it makes names unique, and does not tell them. */
export function mailDomainStream({ streamNameKey }: Secrets, name: string): string {
  const digest = createHmac('sha256', streamNameKey).update(name).digest('hex');
  return `mail_domain-${digest.slice(0, 32)}`;
}

export const mailDomainsProjection: Projection = {
  name: 'mail_domains',
  version: 1,
  types: ['mail_domain.created', 'mail_domain.updated', 'mail_domain.deleted'],
  async apply(db, events) {
    for (const projected of events) await applyOne(db, projected);
  },
  tables: ['mail_domains'],
};

async function applyOne(db: pg.ClientBase, { event, stored }: ProjectedEvent): Promise<void> {
  const fact = event as unknown as MailDomainEvent;
  if (fact.type === 'mail_domain.deleted') {
    await db.query('delete from mail_domains where id = $1', [fact.data.id]);
    return;
  }
  const servers = openDisclosures(stored.disclosures).get('backend_servers');
  await db.query(UPSERT, [
    fact.data.id,
    event.stream,
    event.revision,
    JSON.stringify(fact.data.settings),
    servers === undefined ? null : JSON.stringify(servers),
    event.recorded_at,
  ]);
}

const UPSERT = `
  insert into mail_domains as d
    (id, stream, revision, settings, backend_servers, created_at, updated_at)
  values ($1, $2, $3, $4, coalesce($5::jsonb, '[]'), $6, $6)
  on conflict (id) do update
    set revision = excluded.revision, settings = excluded.settings,
        backend_servers = coalesce($5::jsonb, d.backend_servers), updated_at = excluded.updated_at
    where d.revision < excluded.revision`;

type Row = {
  id: string;
  stream: string;
  revision: string;
  settings: MailDomainSettings;
  backend_servers: string[];
  created_at: string;
  updated_at: string;
};

const SELECT = `
  select d.id, d.stream, d.revision, d.settings, d.backend_servers,
    ${utc('d.created_at')} as created_at, ${utc('d.updated_at')} as updated_at
  from mail_domains d`;

/** A page of mail domains, newest first, with ids below `before`; `only` narrows to one. */
export async function listMailDomains(
  pool: pg.Pool,
  page: Readonly<{ only: number | null; before: number | null; limit: number }>,
): Promise<readonly MailDomainRow[]> {
  const { rows } = await pool.query<Row>(
    `${SELECT}
     where ($1::bigint is null or d.id = $1) and ($2::bigint is null or d.id < $2)
     order by d.id desc limit $3`,
    [page.only, page.before, page.limit],
  );
  return rows.map(toRow);
}

export async function findMailDomain(pool: pg.Pool, id: number): Promise<MailDomainRow | null> {
  const { rows } = await pool.query<Row>(`${SELECT} where d.id = $1`, [id]);
  return rows[0] === undefined ? null : toRow(rows[0]);
}

/** Those of the given ids that are mail domains now. */
export async function findLivingMailDomains(
  pool: pg.Pool,
  ids: readonly number[],
): Promise<ReadonlySet<number>> {
  if (ids.length === 0) return new Set();
  const { rows } = await pool.query<{ id: string }>(
    'select id from mail_domains where id = any($1::bigint[])',
    [ids],
  );
  return new Set(rows.map(({ id }) => Number(id)));
}

/** The living mail domain of a name, by the stream that the name gives. */
export async function findMailDomainByStream(
  pool: pg.Pool,
  stream: string,
): Promise<MailDomainRow | null> {
  const { rows } = await pool.query<Row>(`${SELECT} where d.stream = $1`, [stream]);
  return rows[0] === undefined ? null : toRow(rows[0]);
}

/** Living mail domains by the streams that their names give. */
export async function findMailDomainsByStreams(
  pool: pg.Pool,
  streams: readonly string[],
): Promise<ReadonlyMap<string, MailDomainRow>> {
  if (streams.length === 0) return new Map();
  const { rows } = await pool.query<Row>(`${SELECT} where d.stream = any($1)`, [streams]);
  return new Map(rows.map((row) => [row.stream, toRow(row)]));
}

/** Where a mail domain's mail goes, as `host:port`, in order; empty when there is no such mail domain. */
export async function findBackends(pool: pg.Pool, id: number): Promise<readonly string[]> {
  return (await findMailDomain(pool, id))?.backendServers ?? [];
}

const toRow = (row: Row): MailDomainRow => ({
  id: Number(row.id),
  stream: row.stream,
  revision: BigInt(row.revision),
  settings: row.settings,
  backendServers: row.backend_servers,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
});
