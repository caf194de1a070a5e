import type pg from 'pg';
import { readCidrs } from '../cidr-text.ts';
import { utc } from '../clock.ts';
import type { Scope } from '../domain/access.ts';
import { API_KEY_TYPES, type ApiKeyEvent } from '../domain/api-key.ts';
import type { AllowedCidrs } from '../domain/cidr.ts';
import type { StoredEvent } from '../eventlog/eventlog.ts';
import { disclosedCidrs } from './key-addresses.ts';
import type { ProjectedEvent, Projection } from './projection.ts';

/** A key as the read model has it: without names, use and secrets, which live elsewhere. */
export type ApiKeyRow = Readonly<{
  id: number;
  revision: bigint;
  status: 'active' | 'rotated' | 'expired' | 'revoked' | 'deleted';
  scope: Scope;
  mailDomain: number | null;
  rateLimitPerMinute: number;
  expiresAt: string | null;
  /** Empty when there is a list and it is erased or cannot be read: the key is closed. */
  allowedCidrs: AllowedCidrs;
  owner: Readonly<{ type: string; id: string }>;
  predecessor: number | null;
  successor: number | null;
  graceUntil: string | null;
  bucket: number;
  createdAt: string;
  revokedAt: string | null;
  endedAt: string | null;
  endedBy: 'revoked' | 'rotated' | 'deleted' | 'expired' | null;
}>;

export const apiKeysProjection: Projection = {
  name: 'api_keys',
  version: 1,
  types: API_KEY_TYPES,
  async apply(db, events) {
    for (const projected of events) await applyOne(db, projected);
  },
  tables: ['api_keys'],
};

async function applyOne(db: pg.ClientBase, { event, stored }: ProjectedEvent): Promise<void> {
  const fact = event as unknown as ApiKeyEvent;
  const id = event.resource.id;
  switch (fact.type) {
    case 'api_key.created':
      await db.query(INSERT, [
        id,
        event.revision,
        fact.data.scope,
        fact.data.mail_domain,
        fact.data.rate_limit_per_minute,
        fact.data.expires_at,
        fact.data.owner.type,
        fact.data.owner.id,
        fact.data.predecessor,
        fact.data.bucket,
        event.recorded_at,
        fact.data.restricted ?? false,
        toColumn(stored),
      ]);
      return;
    case 'api_key.updated':
      await db.query(
        `update api_keys set revision = $2, rate_limit_per_minute = $3, expires_at = $4,
           restricted = coalesce($5, restricted),
           allowed_cidrs = case when $5::boolean is null then allowed_cidrs else $6::jsonb end
         where id = $1`,
        [
          id,
          event.revision,
          fact.data.rate_limit_per_minute,
          fact.data.expires_at,
          fact.data.restricted ?? null,
          toColumn(stored),
        ],
      );
      return;
    case 'api_key.rotated':
      await db.query(
        `update api_keys set revision = $2, status = 'rotated', successor = $3, grace_until = $4,
           ended_at = $4, ended_by = 'rotated'
         where id = $1`,
        [id, event.revision, fact.data.successor, fact.data.grace_until],
      );
      return;
    case 'api_key.revoked':
      await end(db, event.resource.id, event.revision, 'revoked', event.recorded_at);
      return;
    case 'api_key.expired':
      await end(db, event.resource.id, event.revision, 'expired', fact.data.expired_at);
      return;
    case 'api_key.deleted':
      await end(db, event.resource.id, event.revision, 'deleted', event.recorded_at);
      return;
  }
}

const INSERT = `
  insert into api_keys (id, revision, status, scope, mail_domain, rate_limit_per_minute, expires_at,
    owner_type, owner_id, predecessor, bucket, created_at, restricted, allowed_cidrs)
  values ($1, $2, 'active', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::jsonb)
  on conflict (id) do nothing`;

function toColumn(stored: StoredEvent): string | null {
  const cidrs = disclosedCidrs(stored);
  return cidrs === null ? null : JSON.stringify(cidrs);
}

// A key ends once: a later revocation or deletion changes its status, not when and why it ended. Only a grace
// period can still be cut short.
async function end(
  db: pg.ClientBase,
  id: string,
  revision: string,
  by: 'revoked' | 'expired' | 'deleted',
  at: string,
): Promise<void> {
  await db.query(
    `update api_keys set revision = $2, status = $3,
       ended_by = case when ended_at is null or ended_at > $4::timestamptz then $3 else ended_by end,
       ended_at = least(ended_at, $4::timestamptz),
       revoked_at = case when $3 = 'revoked' then $4::timestamptz else revoked_at end,
       allowed_cidrs = case when $3 = 'deleted' then null else allowed_cidrs end
     where id = $1`,
    [id, revision, by, at],
  );
}

type Row = {
  id: string;
  revision: string;
  status: ApiKeyRow['status'];
  scope: Scope;
  mail_domain: string | null;
  rate_limit_per_minute: number;
  expires_at: string | null;
  restricted: boolean;
  allowed_cidrs: unknown;
  owner_type: string;
  owner_id: string;
  predecessor: string | null;
  successor: string | null;
  grace_until: string | null;
  bucket: string;
  created_at: string;
  revoked_at: string | null;
  ended_at: string | null;
  ended_by: ApiKeyRow['endedBy'];
};

const iso = (column: string) => `${utc(column)} as ${column}`;

const COLUMNS = `
  id, revision, status, scope, mail_domain, rate_limit_per_minute, ${iso('expires_at')},
  restricted, allowed_cidrs, owner_type, owner_id, predecessor, successor, ${iso('grace_until')}, bucket,
  ${iso('created_at')}, ${iso('revoked_at')}, ${iso('ended_at')}, ended_by`;

/** Whose keys: of one owner, of one mail domain, or, with neither, all that are not deleted. */
export type KeySelection = Readonly<{
  owner?: Readonly<{ type: string; id: string }>;
  selfId?: number;
  mailDomain?: number;
}>;

/** A page of keys, newest first, with ids below `before`. */
export async function listApiKeys(
  pool: pg.Pool,
  selection: KeySelection,
  page: Readonly<{ before: number | null; limit: number }>,
): Promise<readonly ApiKeyRow[]> {
  const { rows } = await pool.query<Row>(
    `select ${COLUMNS} from api_keys
     where status <> 'deleted'
       and ($1::text is null or (owner_type = $1 and owner_id = $2) or id = $3)
       and ($4::bigint is null or mail_domain = $4)
       and ($5::bigint is null or id < $5)
     order by id desc limit $6`,
    [
      selection.owner?.type ?? null,
      selection.owner?.id ?? null,
      selection.selfId ?? null,
      selection.mailDomain ?? null,
      page.before,
      page.limit,
    ],
  );
  return rows.map(toApiKeyRow);
}

/** One key, also a deleted one. */
export async function findApiKey(pool: pg.Pool, id: number): Promise<ApiKeyRow | null> {
  const { rows } = await pool.query<Row>(`select ${COLUMNS} from api_keys where id = $1`, [id]);
  return rows[0] === undefined ? null : toApiKeyRow(rows[0]);
}

/** Those of the given ids whose keys are deleted. */
export async function findDeletedKeys(
  pool: pg.Pool,
  ids: readonly number[],
): Promise<readonly number[]> {
  const { rows } = await pool.query<{ id: string }>(
    `select id from api_keys where id = any($1::bigint[]) and status = 'deleted'`,
    [ids],
  );
  return rows.map(({ id }) => Number(id));
}

/** Those of the given buckets that no key shares any more; one that no key is known of may be new. */
export async function findForsakenBuckets(
  pool: pg.Pool,
  buckets: readonly number[],
): Promise<readonly number[]> {
  const { rows } = await pool.query<{ bucket: string }>(
    `select bucket from api_keys where bucket = any($1::bigint[])
     group by bucket having bool_and(status = 'deleted')`,
    [buckets],
  );
  return rows.map(({ bucket }) => Number(bucket));
}

/** Every key there is or was, for filling the memory at the start. */
export async function readAllApiKeys(pool: pg.Pool): Promise<readonly ApiKeyRow[]> {
  const { rows } = await pool.query<Row>(`select ${COLUMNS} from api_keys order by id`);
  return rows.map(toApiKeyRow);
}

function toApiKeyRow(row: Row): ApiKeyRow {
  return {
    id: Number(row.id),
    revision: BigInt(row.revision),
    status: row.status,
    scope: row.scope,
    mailDomain: idOrNull(row.mail_domain),
    rateLimitPerMinute: row.rate_limit_per_minute,
    expiresAt: row.expires_at,
    allowedCidrs: row.restricted ? readCidrs(row.allowed_cidrs) : null,
    owner: { type: row.owner_type, id: row.owner_id },
    predecessor: idOrNull(row.predecessor),
    successor: idOrNull(row.successor),
    graceUntil: row.grace_until,
    bucket: Number(row.bucket),
    createdAt: row.created_at,
    revokedAt: row.revoked_at,
    endedAt: row.ended_at,
    endedBy: row.ended_by,
  };
}

const idOrNull = (text: string | null): number | null => (text === null ? null : Number(text));
