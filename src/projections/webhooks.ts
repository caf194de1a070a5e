import type pg from 'pg';
import { utc } from '../clock.ts';
import type { DisableCause, Ordering, Webhook, WebhookEvent } from '../domain/webhook.ts';
import { openDisclosures } from '../eventlog/personal.ts';
import type { ProjectedEvent, Projection } from './projection.ts';

/**
 * From behind `after` on this filter counts, and `sequence` begins at 1. One that `skips` was begun to
 * leave out what had not been delivered until there.
 */
export type Epoch = Readonly<{
  epoch: number;
  after: bigint;
  eventTypes: readonly string[];
  skips: boolean;
}>;

/** A subscription as it is set. Times are RFC 3339 with six digits. */
export type WebhookRow = Readonly<{
  id: number;
  revision: bigint;
  status: 'active' | 'paused' | 'disabled';
  cause: DisableCause | null;
  url: string;
  description: string | null;
  mailDomain: number | null;
  ordering: Ordering;
  /** Oldest first; never empty. */
  epochs: readonly Epoch[];
  /** The one that signs first at the front. */
  secrets: Webhook['secrets'];
  failingSince: string | null;
  createdAt: string;
  updatedAt: string;
}>;

/** Subscriptions, and the replays that were asked for; how far those are is their worker's to write. */
export const webhooksProjection: Projection = {
  name: 'webhooks',
  version: 1,
  types: [
    'webhook.created',
    'webhook.updated',
    'webhook.secret_rotated',
    'webhook.paused',
    'webhook.resumed',
    'webhook.disabled',
    'webhook.enabled',
    'webhook.failing',
    'webhook.recovered',
    'webhook.replay_requested',
    'webhook.replay_cancelled',
    'webhook.replay_ended',
    'webhook.deleted',
  ] satisfies WebhookEvent['type'][],
  async apply(db, events) {
    for (const projected of events) await applyOne(db, projected);
  },
  tables: ['webhooks'],
  // How far each is stands there, too, and one that was asked for and has ended must not run again.
  shared: ['webhook_replays'],
};

/** Whatever of these stands in the log may change what is delivered from there on. */
export const WEBHOOK_CHANGES: ReadonlySet<string> = new Set(webhooksProjection.types);

async function applyOne(db: pg.ClientBase, projected: ProjectedEvent): Promise<void> {
  const { event } = projected;
  const { id } = event.resource;
  const fact = event as unknown as WebhookEvent;
  switch (fact.type) {
    case 'webhook.created':
      await create(db, projected, fact.data);
      return;
    case 'webhook.deleted':
      await db.query('delete from webhooks where id = $1', [id]);
      await db.query('delete from webhook_replays where webhook_id = $1', [id]);
      return;
    case 'webhook.updated':
      await update(db, projected, fact.data);
      break;
    case 'webhook.secret_rotated':
      await set(db, projected, 'secrets = $4', [JSON.stringify(fact.data.secrets)]);
      break;
    case 'webhook.paused':
      await set(db, projected, "status = 'paused'", []);
      break;
    case 'webhook.resumed':
      await set(db, projected, "status = 'active', failing_since = null", []);
      break;
    case 'webhook.disabled':
      await set(db, projected, "status = 'disabled', cause = $4", [fact.data.cause]);
      break;
    case 'webhook.enabled':
      await set(db, projected, "status = 'active', cause = null, failing_since = null", []);
      if (fact.data.resume === 'now') await beginEpoch(db, projected, { skips: true });
      break;
    case 'webhook.failing':
      await db.query('update webhooks set failing_since = $2 where id = $1', [id, fact.data.since]);
      return;
    case 'webhook.recovered':
      await db.query('update webhooks set failing_since = null where id = $1', [id]);
      return;
    default:
      await applyReplay(db, event, fact);
  }
  await db.query('update webhooks set revision = $2 where id = $1', [id, event.revision]);
}

async function create(
  db: pg.ClientBase,
  projected: ProjectedEvent,
  data: Extract<WebhookEvent, { type: 'webhook.created' }>['data'],
): Promise<void> {
  const { event } = projected;
  const { url, description } = readTold(projected);
  const epoch = {
    epoch: 1,
    after: data.start_after ?? event.position,
    event_types: data.event_types,
    skips: false,
  };
  await db.query(
    `insert into webhooks (id, revision, status, url, description, mail_domain, ordering, epochs, secrets,
       created_at, updated_at)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)
     on conflict (id) do nothing`,
    [
      event.resource.id,
      event.revision,
      data.enabled ? 'active' : 'paused',
      url ?? '',
      description,
      data.mail_domain,
      data.ordering,
      JSON.stringify([epoch]),
      JSON.stringify([{ fingerprint: data.secret, until: null }]),
      event.recorded_at,
    ],
  );
}

async function update(
  db: pg.ClientBase,
  projected: ProjectedEvent,
  data: Extract<WebhookEvent, { type: 'webhook.updated' }>['data'],
): Promise<void> {
  const { url, description } = readTold(projected);
  await set(
    db,
    projected,
    `ordering = $4, url = coalesce($5, url),
     description = case when $5::text is null then description else $6 end`,
    [data.ordering, url, description],
  );
  if (data.begins_epoch) {
    await beginEpoch(db, projected, { skips: false, eventTypes: data.event_types });
  }
}

/** The epoch that begins behind this event; applied twice, it is there once. */
async function beginEpoch(
  db: pg.ClientBase,
  { event }: ProjectedEvent,
  { skips, eventTypes }: Readonly<{ skips: boolean; eventTypes?: readonly string[] }>,
): Promise<void> {
  await db.query(
    `update webhooks set epochs = epochs || jsonb_build_object(
       'epoch', (epochs->-1->>'epoch')::int + 1, 'after', $2::text, 'skips', $3::boolean,
       'event_types', coalesce($4::jsonb, epochs->-1->'event_types'))
     where id = $1 and (epochs->-1->>'after')::bigint < $2::bigint`,
    [
      event.resource.id,
      event.position,
      skips,
      eventTypes === undefined ? null : JSON.stringify(eventTypes),
    ],
  );
}

async function set(
  db: pg.ClientBase,
  { event }: ProjectedEvent,
  assignments: string,
  values: readonly unknown[],
): Promise<void> {
  await db.query(
    `update webhooks set updated_at = $2, revision = $3, ${assignments} where id = $1`,
    [event.resource.id, event.recorded_at, event.revision, ...values],
  );
}

async function applyReplay(
  db: pg.ClientBase,
  event: ProjectedEvent['event'],
  fact: WebhookEvent,
): Promise<void> {
  if (fact.type === 'webhook.replay_requested') {
    const { replay_id: id, after, until, event_types: eventTypes } = fact.data;
    await db.query(
      `insert into webhook_replays (id, webhook_id, after_position, until_position, event_types,
         state, position, sent_to, created_at)
       values ($1, $2, $3, $4, $5, 'running', $3, $3, $6)
       on conflict (id) do nothing`,
      [id, event.resource.id, after, until, eventTypes, event.recorded_at],
    );
  } else if (fact.type === 'webhook.replay_cancelled' || fact.type === 'webhook.replay_ended') {
    const state = fact.type === 'webhook.replay_ended' ? 'completed' : 'cancelled';
    await db.query(
      `update webhook_replays set state = $2, ended_at = $3 where id = $1 and ended_at is null`,
      [fact.data.replay_id, state, event.recorded_at],
    );
  }
}

function readTold({ stored }: ProjectedEvent): { url: string | null; description: string | null } {
  const members = openDisclosures(stored.disclosures);
  const text = (name: string) => {
    const value = members.get(name);
    return typeof value === 'string' ? value : null;
  };
  return { url: text('url'), description: text('description') };
}

type Row = {
  id: string;
  revision: string;
  status: WebhookRow['status'];
  cause: DisableCause | null;
  url: string;
  description: string | null;
  mail_domain: string | null;
  ordering: Ordering;
  epochs: readonly { epoch: number; after: string; event_types: string[]; skips: boolean }[];
  secrets: Webhook['secrets'];
  failing_since: string | null;
  created_at: string;
  updated_at: string;
};

const SELECT = `
  select id, revision, status, cause, url, description, mail_domain, ordering, epochs, secrets,
    ${utc('failing_since')} as failing_since, ${utc('created_at')} as created_at,
    ${utc('updated_at')} as updated_at
  from webhooks`;

export async function findWebhook(pool: pg.Pool, id: number): Promise<WebhookRow | null> {
  const { rows } = await pool.query<Row>(`${SELECT} where id = $1`, [id]);
  return rows[0] === undefined ? null : toRow(rows[0]);
}

/** A page of subscriptions, newest first, with ids below `before`; of one mail domain, or of all. */
export async function listWebhooks(
  pool: pg.Pool,
  mailDomain: number | null,
  { before, limit }: Readonly<{ before: number | null; limit: number }>,
): Promise<readonly WebhookRow[]> {
  const { rows } = await pool.query<Row>(
    `${SELECT} where ($1::bigint is null or mail_domain = $1) and ($2::bigint is null or id < $2)
     order by id desc limit $3`,
    [mailDomain, before, limit],
  );
  return rows.map(toRow);
}

/** Subscriptions of mail domains that are gone. */
export async function listOrphanWebhooks(pool: pg.Pool): Promise<readonly WebhookRow[]> {
  const { rows } = await pool.query<Row>(
    `${SELECT} where mail_domain is not null
       and not exists (select from mail_domains d where d.id = mail_domain) order by id limit 500`,
  );
  return rows.map(toRow);
}

export async function countWebhooks(pool: pg.Pool): Promise<number> {
  const { rows } = await pool.query<{ n: string }>('select count(*) as n from webhooks');
  return Number(rows[0]?.n ?? 0);
}

const toRow = (row: Row): WebhookRow => ({
  id: Number(row.id),
  revision: BigInt(row.revision),
  status: row.status,
  cause: row.cause,
  url: row.url,
  description: row.description,
  mailDomain: row.mail_domain === null ? null : Number(row.mail_domain),
  ordering: row.ordering,
  epochs: row.epochs.map(({ epoch, after, event_types: eventTypes, skips }) => ({
    ...{ epoch, eventTypes, skips },
    after: BigInt(after),
  })),
  secrets: row.secrets,
  failingSince: row.failing_since,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
});
