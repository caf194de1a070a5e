import type { SubjectNames } from '../domain/decider.ts';
import { BURST_FACTOR, capacityOf } from '../domain/rate-limit.ts';
import type { ApiKeyRow } from '../projections/api-keys.ts';
import { readDenials } from '../projections/rate-limits.ts';
import type { Context } from './context.ts';
import { Id, Instant, ScopeName } from './schemas.ts';
import { z } from './zod.ts';

/** A key as callers see it; its secret is in none of these members. */
export const KeyView = z
  .object({
    id: Id,
    name: z.string(),
    key_prefix: z.string(),
    scope: ScopeName,
    mail_domain: z.string().nullable(),
    mail_domain_id: Id.nullable(),
    rate_limit_per_minute: z.number().int(),
    burst: z.number().int(),
    status: z.enum(['active', 'grace', 'rotated', 'expired', 'revoked']),
    last_used_at: Instant.nullable(),
    first_used_at: Instant.nullable(),
    expires_at: Instant.nullable(),
    allowed_cidrs: z
      .array(z.string())
      .nullable()
      .openapi({
        description:
          'Where it may be used from; null: anywhere. Empty: the list is erased, and the key is closed ' +
          'until it gets another.',
      }),
    created_at: Instant,
    revoked_at: Instant.nullable(),
    owner: z.object({ type: z.string(), id: z.string() }),
    predecessor: Id.nullable(),
    rate_limit: z.object({
      capacity: z.number().int(),
      remaining: z.number().int(),
      denied_last_hour: z.number().int(),
    }),
  })
  .openapi('ApiKey');

/** A key right after it was made: the only answer that holds it. */
export const NewKeyView = KeyView.extend({
  key: z.string().optional().openapi({ description: 'Told once. A replayed answer omits it.' }),
}).openapi('NewApiKey');

const HOUR_MS = 3_600_000;

/** Rows joined with names, use and limits, as they are now. */
export async function viewKeys(
  context: Context,
  rows: readonly ApiKeyRow[],
): Promise<z.input<typeof KeyView>[]> {
  const subjects = rows.flatMap(({ id, mailDomain }) => [
    `api_key:${id}`,
    ...(mailDomain === null ? [] : [`mail_domain:${mailDomain}`]),
  ]);
  const hourAgo = new Date(context.clock.nowMs() - HOUR_MS);
  const [names, denials] = await Promise.all([
    context.log.readNames(subjects),
    readDenials(
      context.pool,
      rows.map(({ id }) => id),
      hourAgo,
    ),
  ]);
  return rows.map((row) => viewKey(context, row, names, denials.get(row.id) ?? 0));
}

function viewKey(
  { clock, limiter, activity }: Context,
  row: ApiKeyRow,
  names: ReadonlyMap<string, SubjectNames>,
  deniedInEvents: number,
): z.input<typeof KeyView> {
  const own = names.get(`api_key:${row.id}`);
  const use = activity.lastUse(row.id);
  const deniedSince = activity
    .openWindows(row.id)
    .reduce(
      (sum, w) => sum + (w.type === 'denied' && w.reason === 'rate_limited' ? w.count : 0),
      0,
    );
  return {
    id: row.id,
    name: own?.name ?? '',
    key_prefix: own?.key_prefix ?? '',
    scope: row.scope,
    mail_domain:
      row.mailDomain === null ? null : (names.get(`mail_domain:${row.mailDomain}`)?.name ?? null),
    mail_domain_id: row.mailDomain,
    rate_limit_per_minute: row.rateLimitPerMinute,
    burst: row.rateLimitPerMinute * BURST_FACTOR,
    status: statusOf(row, clock.now()),
    last_used_at: use?.lastUsedAt.toISOString() ?? null,
    first_used_at: use?.firstUsedAt.toISOString() ?? null,
    expires_at: row.expiresAt,
    allowed_cidrs: row.allowedCidrs?.map(({ text }) => text) ?? null,
    created_at: row.createdAt,
    revoked_at: row.revokedAt,
    owner: row.owner,
    predecessor: row.predecessor,
    rate_limit: {
      capacity: capacityOf(row.rateLimitPerMinute),
      remaining: limiter.remaining(row.bucket, row.rateLimitPerMinute),
      denied_last_hour: deniedInEvents + deniedSince,
    },
  };
}

function statusOf(row: ApiKeyRow, now: Date): z.input<typeof KeyView>['status'] {
  const isOver = (at: string | null) => at !== null && Date.parse(at) <= now.getTime();
  if (row.status === 'rotated') return isOver(row.graceUntil) ? 'rotated' : 'grace';
  if (row.status === 'active') return isOver(row.expiresAt) ? 'expired' : 'active';
  // A deleted key is shown to nobody; whoever holds its row in a race sees it as ended.
  return row.status === 'deleted' ? 'revoked' : row.status;
}
