import { type DeliveryRow, listAttempts, listDeliveries } from '../../db/webhook-attempts.ts';
import { listRetries, requestResend } from '../../db/webhook-retries.ts';
import { DomainError } from '../../domain/errors.ts';
import type { WebhookRow } from '../../projections/webhooks.ts';
import type { Context } from '../context.ts';
import { BASE_PATH } from '../paths.ts';
import { route } from '../route.ts';
import { IdText, Instant, LIST_HEADERS, ListQuery, Timestamp } from '../schemas.ts';
import { findVisibleWebhook, read, tag, WebhookParams, write } from '../webhook-access.ts';
import { noteAsCaller } from '../webhook-commands.ts';
import { AttemptView, viewAttempt } from '../webhook-view.ts';
import { z } from '../zod.ts';

const ATTEMPTS_MAX = 1_000;
const EventId = z
  .string()
  .regex(/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/, 'must be an event id')
  .openapi({ format: 'uuid' });
const EventParams = z.strictObject({ id: IdText, event_id: EventId });
const EXAMPLE = { id: 1, event_id: '019683b4-a5c8-8b61-85a5-e437be5c0fe5' };

/** A place among deliveries, as `X-Next-Cursor` gives it. */
const PositionCursor = z
  .string()
  .regex(/^p\d{1,18}$/, 'is not a cursor of this list')
  .transform((text) => BigInt(text.slice(1)))
  .optional()
  .openapi({ type: 'string', description: 'From `X-Next-Cursor`.' });

const Delivery = z
  .object({
    event_id: EventId,
    type: z.string(),
    position: z.string(),
    status: z.enum(['delivered', 'retrying', 'parked', 'failed']).openapi({
      description:
        '`retrying`: it is tried again by itself. `parked`: it was given up until somebody resends it. ' +
        '`failed`: it waits for its endpoint.',
    }),
    attempts: z.number().int(),
    next_attempt_at: Instant.nullable(),
    last_attempt: AttemptView,
  })
  .openapi('WebhookDelivery');

const deliveries = route({
  id: 'listWebhookDeliveries',
  method: 'get',
  path: '/webhooks/{id}/deliveries',
  tag,
  summary: 'What was posted, event by event, the latest events first.',
  description:
    'Attempts are kept for 30 days. With a filter a page may hold less than `limit`, or nothing, and go on.',
  permission: read,
  params: WebhookParams,
  query: z.strictObject({
    status: z.enum(['delivered', 'retrying', 'parked', 'failed']).optional(),
    type: z.string().min(1).max(64).optional(),
    since: Timestamp.optional().openapi({ description: 'Events recorded at or behind it.' }),
    limit: ListQuery.shape.limit,
    cursor: PositionCursor,
  }),
  reply: z.array(Delivery),
  responseHeaders: LIST_HEADERS,
  errors: ['not_found'],
  async handle(context, { params, principal, query }) {
    const row = await findVisibleWebhook(context, principal, params.id);
    const { since, status = null, type = null, limit, cursor = null } = query;
    const from = since === undefined ? 0n : (await context.log.positionBefore(since)) + 1n;
    const found = await listDeliveries(context.pool, row.id, {
      ...{ from, type, status, limit, before: cursor },
    });
    return {
      data: found.rows.map((delivery) => ({
        event_id: delivery.last.eventId,
        type: delivery.last.type,
        position: String(delivery.last.position),
        status: statusOf(delivery),
        attempts: delivery.attempts,
        next_attempt_at:
          delivery.retryState === 'retrying' ? (delivery.dueAt?.toISOString() ?? null) : null,
        last_attempt: viewAttempt(delivery.last, principal),
      })),
      headers: nextPage(`/webhooks/${row.id}/deliveries`, found.scannedTo, {
        ...{ status, type, since: since ?? null, limit: String(limit) },
      }),
    };
  },
});

const statusOf = ({ retryState, isDelivered }: DeliveryRow): z.input<typeof Delivery>['status'] =>
  retryState ?? (isDelivered ? 'delivered' : 'failed');

/** Headers of a list that goes on at a position. */
function nextPage(
  path: string,
  next: bigint | null,
  query: Readonly<Record<string, string | null>>,
): Record<string, string> {
  if (next === null) return { 'X-Has-More': 'false' };
  const given = Object.entries(query).flatMap(([name, value]) =>
    value === null ? [] : [`&${name}=${encodeURIComponent(value)}`],
  );
  return {
    'X-Has-More': 'true',
    'X-Next-Cursor': `p${next}`,
    Link: `<${BASE_PATH}${path}?cursor=p${next}${given.join('')}>; rel="next"`,
  };
}

const attempts = route({
  id: 'listWebhookAttempts',
  method: 'get',
  path: '/webhooks/{id}/deliveries/{event_id}/attempts',
  tag,
  summary: 'Every HTTP try of one event, the first first.',
  description: `At most ${ATTEMPTS_MAX}; attempts are kept for 30 days.`,
  permission: read,
  params: EventParams,
  reply: z.array(AttemptView),
  errors: ['not_found'],
  example: { params: EXAMPLE },
  async handle(context, { params, principal }) {
    const row = await findVisibleWebhook(context, principal, params.id);
    const { position } = await findDelivery(context, row, params.event_id);
    const found = await listAttempts(context.pool, row.id, position, ATTEMPTS_MAX);
    return { data: found.map((attempt) => viewAttempt(attempt, principal)) };
  },
});

const resend = route({
  id: 'resendWebhookEvent',
  method: 'post',
  path: '/webhooks/{id}/deliveries/{event_id}/resend',
  tag,
  summary: 'Post one event again, whether it was delivered, is waiting or was parked.',
  description: 'The same id and the same bytes; its tries count from the start.',
  permission: write,
  params: EventParams,
  body: z.strictObject({}),
  bodyOptional: true,
  reply: z.object({ event_id: EventId, position: z.string() }),
  message: 'Under way',
  errors: ['not_found'],
  example: { params: EXAMPLE },
  async handle(context, { params, principal, meta, commandId }) {
    const row = await findVisibleWebhook(context, principal, params.id);
    const { event_id: eventId } = params;
    const found = await findDelivery(context, row, eventId);
    const position = String(found.position);
    const data = { event_id: eventId, position };
    const note = { type: 'webhook.resend_requested', data } as const;
    await noteAsCaller(context, row, { meta, commandId }, note);
    await requestResend(context.pool, row.id, { ...found, eventId, now: context.clock.now() });
    await context.webhooks.changed(row.id);
    return { data, status: 202 };
  },
});

const Parked = z
  .object({
    event_id: EventId,
    position: z.string(),
    tries: z.number().int(),
    last_outcome: z.string().nullable(),
    first_failed_at: Instant,
    key: z.string(),
  })
  .openapi('WebhookParkedEvent');

const parked = route({
  id: 'listParkedWebhookEvents',
  method: 'get',
  path: '/webhooks/{id}/parked',
  tag,
  summary: 'Events that were given up, until somebody resends them, the earliest first.',
  permission: read,
  params: WebhookParams,
  query: z.strictObject({ limit: ListQuery.shape.limit, cursor: PositionCursor }),
  reply: z.array(Parked),
  responseHeaders: LIST_HEADERS,
  errors: ['not_found'],
  async handle(context, { params, principal, query }) {
    const row = await findVisibleWebhook(context, principal, params.id);
    const { limit, cursor = 0n } = query;
    const rows = await listRetries(context.pool, row.id, {
      ...{ state: 'parked', after: cursor, limit: limit + 1 },
    });
    const page = rows.slice(0, limit);
    const next = rows.length > limit ? (page.at(-1)?.position ?? null) : null;
    return {
      data: page.map((one) => ({
        event_id: one.eventId,
        position: String(one.position),
        tries: one.tries,
        last_outcome: one.lastOutcome,
        first_failed_at: one.firstFailedAt.toISOString(),
        key: one.key,
      })),
      headers: nextPage(`/webhooks/${row.id}/parked`, next, { limit: String(limit) }),
    };
  },
});

export const webhookDeliveryRoutes = [deliveries, attempts, resend, parked];

async function findDelivery({ webhooks }: Context, row: WebhookRow, eventId: string) {
  const found = await webhooks.locate(row, eventId);
  if (found === null) throw new DomainError('not_found', 'No such event of this webhook.');
  return found;
}
