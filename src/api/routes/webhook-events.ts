import { DomainError } from '../../domain/errors.ts';
import { sealedThrough } from '../audit-export.ts';
import { requireOneStart, startAsked } from '../log-place.ts';
import { BASE_PATH } from '../paths.ts';
import { route } from '../route.ts';
import { LIST_HEADERS, ListQuery, LogCursor, PositionText } from '../schemas.ts';
import { findVisibleWebhook, read, tag, WebhookParams } from '../webhook-access.ts';
import { z } from '../zod.ts';

const PulledEvent = z
  .object({
    type: z.string(),
    timestamp: z.string(),
    id: z.string(),
    schema: z.string().openapi({ description: 'See `/webhook-event-types/{type}/schema`.' }),
    sequence: z.number().int().nullable(),
    epoch: z.number().int(),
    log: z.object({
      position: z.string(),
      stream: z.string(),
      revision: z.string(),
      hash: z.string(),
    }),
    key: z.string(),
    data: z.record(z.string(), z.unknown()),
  })
  .openapi('WebhookEvent');

const EventsQuery = z.strictObject({
  after: PositionText.optional().openapi({
    description: 'Begin behind a known position, as `log.position` of a payload tells it.',
  }),
  cursor: LogCursor.optional().openapi({ description: 'From `X-Next-Cursor`.' }),
  limit: ListQuery.shape.limit,
});

const events = route({
  id: 'listWebhookEvents',
  method: 'get',
  path: '/webhooks/{id}/events',
  tag,
  summary: 'Read what a webhook is to have, in order, as the payloads that are posted.',
  description:
    'For a receiver that cannot be posted to, or wants to know what it missed: the same ids and, element for ' +
    'element, the same bytes as on the wire, whether they were delivered or not. Begins where the subscription ' +
    'does; events of before that, which `after` reaches, have no `sequence`. Poll with the last `X-Next-Cursor`: ' +
    'no event can ever appear behind it, and it is good as long as the log holds what lies behind it. A page may be ' +
    'empty and say `X-Has-More: true`, where little matched within five seconds. Reading moves no delivery; ' +
    'a webhook that is to be read alone is made with `enabled: false`.',
  permission: read,
  params: WebhookParams,
  query: EventsQuery,
  reply: z.array(PulledEvent),
  isAuditRead: true,
  responseHeaders: {
    ...LIST_HEADERS,
    'X-Next-Cursor': 'Where to go on, on every page.',
    'X-Sealed-Through': 'Every event recorded before this instant is visible for good.',
  },
  errors: [
    'not_found',
    'invalid_cursor',
    'cursor_filter_mismatch',
    'cursor_log_mismatch',
    'cursor_ahead_of_log',
    'cursor_gone',
  ],
  async handle(context, { params, principal, query }) {
    // The head first: a change of the filter that stands below it must be known.
    const head = await context.log.head();
    if (!(await context.projector.caughtUp(head.position, ['webhooks']))) {
      throw new DomainError('unavailable', 'The read models are behind; try again.');
    }
    const row = await findVisibleWebhook(context, principal, params.id);
    const bound = context.cursors.bind({ webhook: String(row.id) }, principal);
    requireOneStart(query);
    const { position: after, numbering } = startAsked(context, query, {
      bound,
      head: head.position,
    }) ?? {
      // What it is to have and the log has no more is told, not stepped over.
      position: context.cursors.requireInLog(row.epochs[0]?.after ?? 0n, head.position),
      numbering: null,
    };
    const range = { after, numbering, until: head.position, limit: query.limit };
    const page = await context.webhooks.pull(row, range);
    const { texts, hasMore } = page;
    const next = context.cursors.encode(bound, page.scannedTo, page.numbering);
    const path = `${BASE_PATH}/webhooks/${row.id}/events`;
    return {
      data: texts.map((text) => JSON.parse(text) as z.input<typeof PulledEvent>),
      dataText: `[${texts.join(',')}]`,
      headers: {
        'X-Next-Cursor': next,
        'X-Has-More': String(hasMore),
        'X-Sealed-Through': sealedThrough(head.recordedAt),
        ...(hasMore ? { Link: `<${path}?cursor=${next}&limit=${query.limit}>; rel="next"` } : {}),
      },
    };
  },
});

export const webhookEventRoutes = [events];
