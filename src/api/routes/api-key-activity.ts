import { isNarrowed, type Principal, sees } from '../../domain/access.ts';
import { apiKeyStream } from '../../domain/api-key.ts';
import { DomainError } from '../../domain/errors.ts';
import { readLine } from '../../eventlog/upcast.ts';
import { type ApiKeyRow, findApiKey } from '../../projections/api-keys.ts';
import {
  type ActivityWindow,
  countsAsDenied,
  readKeyActivity,
} from '../../projections/key-activity.ts';
import type { Context } from '../context.ts';
import { findVisibleKey } from '../key-access.ts';
import { route } from '../route.ts';
import { Id, Instant, inOrder, Timestamp } from '../schemas.ts';
import { z } from '../zod.ts';
import { KeyParams } from './api-keys.ts';

const DEFAULT_DAYS = 30;
const DAY_MS = 86_400_000;

const Window = z.object({
  from: Instant,
  to: Instant,
  requests: z.number().int(),
  denied: z.number().int(),
  rate_limited: z.number().int(),
  addresses: z.array(z.string()),
});

export const keyActivity = route({
  id: 'getApiKeyActivity',
  method: 'get',
  path: '/auth/api-keys/{id}/activity',
  tag: 'API keys',
  summary: 'When a key was valid, how it ended, and what was done with it when.',
  description:
    'Also of a deleted key, for unnarrowed full-admin and read-only. Windows are a minute long (an ' +
    'hour for requests under `/audit`), and are joined to hours or days when they are too many. ' +
    `Without \`from\` the last ${DEFAULT_DAYS} days are shown. \`events\` are those of the key's whole life.`,
  permission: { operation: 'keys_read', reach: 'mail_domain' },
  params: KeyParams,
  query: z
    .strictObject({ from: Timestamp.optional(), to: Timestamp.optional() })
    .superRefine(inOrder('from', 'to')),
  reply: z
    .object({
      key_id: Id,
      active_from: Instant,
      active_until: Instant.nullable(),
      ended_by: z.enum(['revoked', 'rotated', 'deleted', 'expired']).nullable(),
      windows: z.array(Window),
      events: z.array(z.object({ position: z.string(), type: z.string(), at: Instant })),
    })
    .openapi('ApiKeyActivity'),
  errors: ['not_found'],
  async handle(context, { params, query, principal }) {
    const row = await findKeyOrGrave(context, principal, params.id);
    const now = context.clock.now();
    const to = query.to === undefined ? now.getTime() : Date.parse(query.to);
    const from = query.from === undefined ? to - DEFAULT_DAYS * DAY_MS : Date.parse(query.from);
    const windows = await readKeyActivity(context.log, row.id, { from, to });
    const open = openWindows(context, row.id, { from, to });
    const stream = await context.log.readStream(apiKeyStream(row.id));
    // Only a grace period ends later than it is recorded; the database's clock need not be ours.
    const isOver =
      row.endedAt !== null &&
      (row.status !== 'rotated' || Date.parse(row.endedAt) <= now.getTime());
    const expired = row.expiresAt !== null && Date.parse(row.expiresAt) <= now.getTime();
    return {
      data: {
        key_id: row.id,
        active_from: row.createdAt,
        active_until: isOver ? row.endedAt : expired ? row.expiresAt : null,
        ended_by: isOver ? row.endedBy : expired ? ('expired' as const) : null,
        windows: [...windows, ...open].map((window) => ({
          ...window,
          from: new Date(window.from).toISOString(),
          to: new Date(window.to).toISOString(),
          addresses: [...window.addresses],
        })),
        events: stream.map(({ line }) => {
          const { position, type, recorded_at } = readLine(line);
          return { position, type, at: recorded_at };
        }),
      },
    };
  },
});

/** What is counted in memory and will be an event when its window is over. */
function openWindows(
  { activity }: Context,
  keyId: number,
  { from, to }: Readonly<{ from: number; to: number }>,
): ActivityWindow[] {
  return activity.openWindows(keyId).flatMap((window) => {
    if (window.to <= from || window.from >= to) return [];
    const common = { from: window.from, to: window.to, addresses: window.addresses };
    if (window.type === 'used') {
      const { denied = 0, rate_limited = 0 } = window.byOutcome;
      return [{ ...common, requests: window.requests, denied, rate_limited }];
    }
    if (!countsAsDenied(window.reason)) return [];
    return [{ ...common, requests: 0, denied: window.count, rate_limited: 0 }];
  });
}

async function findKeyOrGrave(
  context: Context,
  principal: Principal,
  id: number,
): Promise<ApiKeyRow> {
  const row = await findApiKey(context.pool, id);
  if (row === null || row.status !== 'deleted') return findVisibleKey(context, principal, id);
  const mayDig = principal.scope === 'full-admin' || principal.scope === 'read-only';
  if (mayDig && !isNarrowed(principal) && sees(principal, row.mailDomain)) return row;
  throw new DomainError('not_found', 'No such API key.');
}
