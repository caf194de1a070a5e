import { DomainError } from '../../domain/errors.ts';
import {
  findWebhookType,
  WEBHOOK_TYPES,
  type WebhookType,
} from '../../projections/webhook-catalogue.ts';
import { payloadJsonSchema } from '../../projections/webhook-payload-schema.ts';
import { route } from '../route.ts';
import { read, tag } from '../webhook-access.ts';
import { z } from '../zod.ts';

const EventType = z
  .object({
    type: z.string(),
    description: z.string(),
    schema_version: z.int().positive(),
    raised: z.boolean().openapi({ description: 'Whether this release has a source of it.' }),
    wildcard: z.boolean().openapi({ description: 'Whether `*` takes it.' }),
  })
  .openapi('WebhookEventType');

const viewType = (found: WebhookType): z.input<typeof EventType> => ({
  type: found.type,
  description: found.description,
  schema_version: found.schemaVersion,
  raised: found.isRaised,
  // Until there is a type that must be named to be had.
  wildcard: true,
});

const listTypes = route({
  id: 'listWebhookEventTypes',
  method: 'get',
  path: '/webhook-event-types',
  tag,
  summary: 'List the event types that a subscription can have, by name.',
  permission: read,
  reply: z.array(EventType),
  errors: [],
  async handle() {
    const found = WEBHOOK_TYPES.map(findWebhookType).filter((type) => type !== null);
    return { data: found.map(viewType) };
  },
});

const readSchema = route({
  id: 'getWebhookEventTypeSchema',
  method: 'get',
  path: '/webhook-event-types/{type}/schema',
  tag,
  summary: 'Get the JSON Schema (2020-12) of the payloads of one event type.',
  description: 'Whole payloads, envelope and all, as they are signed and sent.',
  permission: read,
  params: z.strictObject({ type: z.string().min(1).max(100) }),
  reply: z.looseObject({ $schema: z.string(), $id: z.string() }),
  errors: ['not_found'],
  example: { params: { type: 'quarantine.released' } },
  async handle(_context, { params }) {
    if (findWebhookType(params.type) === null) {
      throw new DomainError('not_found', 'No such event type; see /webhook-event-types.');
    }
    return { data: payloadJsonSchema(params.type) };
  },
});

/** What there is to subscribe to. */
export const webhookEventTypeRoutes = [listTypes, readSchema];
