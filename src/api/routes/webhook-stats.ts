import { toTimestamp } from '../../clock.ts';
import { summarizeAttempts } from '../../db/webhook-attempts.ts';
import { findCursor } from '../../db/webhook-cursors.ts';
import { countRetries } from '../../db/webhook-retries.ts';
import type { WebhookRow } from '../../projections/webhooks.ts';
import type { Context } from '../context.ts';
import { route } from '../route.ts';
import { Instant } from '../schemas.ts';
import { findVisibleWebhook, read, tag, WebhookParams } from '../webhook-access.ts';
import { z } from '../zod.ts';

const DAY_MS = 86_400_000;

const Stats = z
  .object({
    position: z.string().openapi({
      description: 'Every event at or below it is delivered, or is tried again by itself.',
    }),
    head: z.string().openapi({ description: 'The last position of the log.' }),
    epoch: z.number().int(),
    sequence: z
      .number()
      .int()
      .openapi({ description: 'The number of the last event at or below.' }),
    oldest_waiting_at: Instant.nullable().openapi({
      description: 'When what comes next was recorded; null when everything was delivered.',
    }),
    retrying: z.number().int(),
    parked: z.number().int(),
    in_flight: z.number().int(),
    breaker: z.enum(['closed', 'open', 'half_open']).openapi({
      description: 'Open: the endpoint is down, and looked at now and then.',
    }),
    quiet_until: Instant.nullable().openapi({ description: 'The receiver has asked for it.' }),
    last_day: z.array(
      z.object({
        outcome: z.string(),
        attempts: z.number().int(),
        p50_ms: z.number().int(),
        p99_ms: z.number().int(),
      }),
    ),
  })
  .openapi('WebhookStats');

export const webhookStatsRoute = route({
  id: 'getWebhookStats',
  method: 'get',
  path: '/webhooks/{id}/stats',
  tag,
  summary: 'Where a webhook stands, how far behind it is, and how its endpoint has answered.',
  permission: read,
  params: WebhookParams,
  reply: Stats,
  errors: ['not_found'],
  async handle(context, { params, principal }) {
    const row = await findVisibleWebhook(context, principal, params.id);
    return { data: await statsOf(context, row) };
  },
});

async function statsOf(
  { pool, log, clock, webhooks }: Context,
  row: WebhookRow,
): Promise<z.input<typeof Stats>> {
  const now = clock.nowMs();
  const [cursor, retries, head, oldest, lastDay] = await Promise.all([
    findCursor(pool, row.id),
    countRetries(pool, row.id),
    log.head(),
    webhooks.oldestWaiting(row),
    summarizeAttempts(pool, row.id, new Date(now - DAY_MS)),
  ]);
  const running = webhooks
    .subscriptions()
    .find(({ id }) => id === row.id)
    ?.status();
  const quietUntil = cursor?.quietUntil ?? null;
  const breaker = running?.breaker ?? cursor?.breaker['state'];
  return {
    position: String(running?.position ?? cursor?.place.position ?? row.epochs[0]?.after ?? 0n),
    head: String(head.position),
    epoch: cursor?.place.epoch ?? 1,
    sequence: cursor?.place.sequence ?? 0,
    oldest_waiting_at: oldest,
    ...retries,
    in_flight: running?.inFlight ?? 0,
    breaker: breaker === 'open' || breaker === 'half_open' ? breaker : 'closed',
    quiet_until: quietUntil !== null && quietUntil.getTime() > now ? toTimestamp(quietUntil) : null,
    last_day: lastDay.map(({ outcome, attempts, p50, p99 }) => ({
      ...{ outcome, attempts, p50_ms: p50, p99_ms: p99 },
    })),
  };
}
