import type { OpenAPIRegistry, RouteConfig } from '@asteasolutions/zod-to-openapi';
import { WEBHOOK_TYPES } from '../projections/webhook-catalogue.ts';
import { payloadJsonSchema } from '../projections/webhook-payload-schema.ts';

/** Puts into the contract what a receiver gets for each event type, and what it may answer. */
export function registerWebhooks(registry: OpenAPIRegistry): void {
  registerShared(registry);
  const shared = new Map<string, object>();
  for (const type of WEBHOOK_TYPES) {
    const { $schema: _dialect, $id: _id, title: _title, ...schema } = payloadJsonSchema(type);
    const { $defs, examples, ...payload } = schema;
    // One name is one schema in the whole catalogue, so it is the same whichever payload brings it.
    for (const [name, definition] of Object.entries($defs)) shared.set(name, definition);
    const name = `${pascalOf(type)}Payload`;
    registry.registerComponent('schemas', name, withComponents(payload));
    registry.registerWebhook(toWebhook(type, { name, payload, example: examples[0] }));
  }
  for (const [name, definition] of shared) {
    registry.registerComponent('schemas', name, withComponents(definition));
  }
}

type Component = Readonly<Record<string, unknown>>;

/** A JSON Schema whose definitions stand among the components of the contract. */
const withComponents = (schema: object): Component =>
  JSON.parse(JSON.stringify(schema).replaceAll('"#/$defs/', '"#/components/schemas/')) as Component;

const pascalOf = (type: string): string =>
  type.replace(/(?:^|[._])([a-z])/g, (_, letter: string) => letter.toUpperCase());

function toWebhook(
  type: string,
  { name, payload, example }: { name: string; payload: Component; example: unknown },
): RouteConfig {
  const description = String(payload['description']);
  return {
    method: 'post',
    path: type,
    operationId: `on${pascalOf(type)}`,
    tags: ['Webhooks'],
    summary: description.slice(0, description.indexOf('.') + 1),
    // Who calls is told by the signature alone.
    security: [],
    parameters: Object.keys(HEADERS).map((header) => ({
      $ref: `#/components/parameters/${header}`,
    })),
    request: {
      body: {
        required: true,
        content: {
          'application/json': { schema: { $ref: `#/components/schemas/${name}` }, example },
        },
      },
    },
    responses: Object.fromEntries(
      Object.entries(ANSWERS).map(([status, { component }]) => [
        status,
        { $ref: `#/components/responses/${component}` },
      ]),
    ),
  };
}

/** Of every delivery (Standard Webhooks 1.0.0, "webhook headers"), by the name of the component. */
const HEADERS = {
  WebhookId: {
    name: 'webhook-id',
    required: true,
    description: 'The event’s id, the same in every try; deduplicate by it.',
    example: '019683b4-a5c8-8b61-85a5-e437be5c0fe5',
  },
  WebhookTimestamp: {
    name: 'webhook-timestamp',
    required: true,
    description:
      'When this try was made, in seconds since 1970; refuse what is over 5 minutes off.',
    example: '1777621333',
  },
  WebhookSignature: {
    name: 'webhook-signature',
    required: true,
    description:
      '`v1,` and the base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`. While a secret is ' +
      'being rotated there are several, separated by spaces; one that matches is enough.',
    example: 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  },
  WebhookReplay: {
    name: 'webhook-replay',
    required: false,
    description: 'Only on what is sent for a replay: which one. It is not signed.',
    example: '12',
  },
} as const;

const DELIVERY_HEADER = 'webhook-delivery';
const deliveryHeader = (value: string, description: string) => ({
  [DELIVERY_HEADER]: { description, schema: { type: 'string' as const, enum: [value] } },
});
const retryAfter = {
  'Retry-After': {
    description: 'Seconds, or an HTTP date; at most 24 hours count.',
    schema: { type: 'string' as const },
  },
};
const parking = deliveryHeader(
  'abort-message',
  'Do not send this event again; it is parked, and can be sent again by hand.',
);

/** What a receiver may answer, by status. */
const ANSWERS = {
  '2XX': {
    component: 'WebhookTaken',
    description: 'Taken; the body is not read.',
    headers: deliveryHeader('disable', 'Taken, and send nothing more until it is enabled again.'),
  },
  '410': {
    component: 'WebhookGone',
    description: 'Send nothing more until it is enabled again. The event is kept.',
    headers: {},
  },
  '429': {
    component: 'WebhookTooMany',
    description: 'The whole subscription waits as long as is asked.',
    headers: { ...retryAfter, ...parking },
  },
  '503': {
    component: 'WebhookUnavailable',
    description: 'With `Retry-After` the whole subscription waits; without, the event is retried.',
    headers: { ...retryAfter, ...parking },
  },
  default: {
    component: 'WebhookRetried',
    description: 'Not taken: retried, with growing pauses. Redirects are not followed.',
    headers: parking,
  },
};

function registerShared(registry: OpenAPIRegistry): void {
  for (const [component, header] of Object.entries(HEADERS)) {
    registry.registerComponent('parameters', component, {
      ...header,
      in: 'header',
      schema: { type: 'string' },
    });
  }
  for (const { component, description, headers } of Object.values(ANSWERS)) {
    registry.registerComponent('responses', component, {
      description,
      ...(Object.keys(headers).length === 0 ? {} : { headers }),
    });
  }
}
