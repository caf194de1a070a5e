import { z } from 'zod';
import type { Json } from '../domain/decider.ts';
import { EVENT_TYPES } from '../domain/events.ts';
import { findWebhookType, type WebhookType } from './webhook-catalogue.ts';
import { Id, Instant, ResourceRef } from './webhook-data.ts';

/** The name of a payload's schema, as the payload itself says it. */
export const schemaOf = (type: string, version: number): string => `${type}/${version}`;

/** The members of `data` that every type has. */
const COMMON = {
  actor: ResourceRef.meta({ description: 'Who did it.' }),
  resource: ResourceRef.meta({ description: 'What it is about.' }),
  mail_domains: z.array(Id).meta({
    id: 'WebhookMailDomains',
    description: 'Ids of its mail domains; for a narrowed subscription only its own.',
    examples: [['7']],
  }),
  outcome: z.enum(['success', 'failure', 'denied']).meta({ id: 'WebhookOutcome' }),
};

/** The names that thin members must leave alone. */
export const COMMON_MEMBERS: readonly string[] = Object.keys(COMMON);

const EventId = z.uuid().meta({
  id: 'WebhookEventId',
  description: 'The same as in `webhook-id` and in the audit log; deduplicate by it.',
  examples: ['019683b4-a5c8-8b61-85a5-e437be5c0fe5'],
});
const Sequence = z
  .int()
  .min(0)
  .nullable()
  .meta({
    id: 'WebhookSequence',
    description:
      'Without gaps within the epoch, so that a receiver can tell what it missed; null for an event from ' +
      'before the subscription began.',
    examples: [48_213],
  });
const Epoch = z
  .int()
  .min(0)
  .meta({
    id: 'WebhookEpoch',
    description: 'Goes up when the subscription is changed so that sequences begin anew.',
    examples: [1],
  });
const Digits = z.string().regex(/^\d+$/);
const Log = z
  .strictObject({
    position: Digits.meta({ description: 'In the whole log.', examples: ['8812345'] }),
    stream: Id.meta({ examples: ['api_key-43'] }),
    revision: Digits.meta({ description: 'Within the stream, from 0.', examples: ['3'] }),
    hash: z
      .string()
      .regex(/^sha256:[0-9a-f]{64}$/)
      .meta({
        description: 'The leaf hash of the committed line (RFC 6962 section 2.1).',
        examples: ['sha256:5728916b57100b1904a956ee38b24e5162ec5fd28e9c75cbff222880b94c7eab'],
      }),
  })
  .meta({ id: 'WebhookLog', description: 'Where the event stands in the audit log.' });
const Key = Id.meta({
  id: 'WebhookKey',
  description:
    'The ordering key; a subscription ordered by key gets its events one after the other.',
  examples: ['api_key-43'],
});

const schemas = new Map<string, z.ZodObject>();

/** What a payload of this type looks like; throws for a type that is not for subscribers. */
export function payloadSchema(type: string): z.ZodObject {
  const known = schemas.get(type);
  if (known !== undefined) return known;
  const found = findWebhookType(type);
  if (found === null) throw new Error(`${type} is not for subscribers`);
  const shape = z.strictObject({
    type: z.literal(type),
    timestamp: Instant,
    id: EventId,
    schema: z.literal(schemaOf(type, found.schemaVersion)),
    sequence: Sequence,
    epoch: Epoch,
    log: Log,
    key: Key,
    data: z.strictObject({ ...COMMON, ...found.data.shape }),
  });
  const schema = shape.meta({
    title: type,
    description: describe(found),
    examples: [exampleOf(found, shape)],
  });
  schemas.set(type, schema);
  return schema;
}

const describe = ({ description, isRaised }: WebhookType): string =>
  isRaised ? description : `${description} Not raised by this release; its shape may still change.`;

/** A JSON Schema 2020-12 document; its other keywords describe an object. */
type PayloadJsonSchema = Readonly<{
  $schema: string;
  $id: string;
  $defs: Readonly<Record<string, object>>;
  examples: readonly unknown[];
  [keyword: string]: unknown;
}>;

/** The same as JSON Schema 2020-12, with one example; shared definitions stand in `$defs`. */
export function payloadJsonSchema(type: string): PayloadJsonSchema {
  const root = payloadSchema(type);
  const {
    $schema = '',
    $defs = {},
    examples = [],
    ...rest
  } = z.toJSONSchema(root, {
    override({ zodSchema, jsonSchema }) {
      // The whole example says it once.
      if (zodSchema !== root) delete jsonSchema.examples;
      // What JavaScript can hold exactly is no rule of the contract.
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
      if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
    },
  });
  const version = findWebhookType(type)?.schemaVersion ?? 1;
  const $id = `urn:mailguard:webhook:${type}:${version}`;
  return { $schema, $id, ...rest, examples, $defs };
}

function exampleOf({ type }: WebhookType, shape: z.ZodObject) {
  const sample = sampleOf(shape) as Record<'log' | 'data', Record<string, Json>>;
  const kind = type.startsWith('quarantine.bulk_') ? 'quarantine_bulk' : kindOf(type);
  const stream = `${kind}-43`;
  const outcome = EVENT_TYPES[type as keyof typeof EVENT_TYPES] as
    | (typeof EVENT_TYPES)[keyof typeof EVENT_TYPES]
    | undefined;
  return {
    ...sample,
    log: { ...sample.log, stream },
    key: stream,
    data: {
      ...sample.data,
      resource: { type: kind, id: '43' },
      outcome: type.endsWith('.denied') ? 'denied' : (outcome?.outcome ?? 'success'),
    },
  };
}

const kindOf = (type: string): string =>
  type.replace(/\..*/, '').replace(/^quarantine$/, 'quarantined_message');

/** A value that the schema takes: the example on its way down that comes first. */
function sampleOf(schema: z.core.$ZodType): unknown {
  const given = z.globalRegistry.get(schema)?.['examples'] as readonly unknown[] | undefined;
  if (given !== undefined) return given[0];
  if (schema instanceof z.ZodLiteral) return schema.value;
  if (schema instanceof z.ZodEnum) return schema.options[0];
  if (schema instanceof z.ZodBoolean) return true;
  if (schema instanceof z.ZodArray) return [sampleOf(schema.element)];
  if (schema instanceof z.ZodOptional) return sampleOf(schema.unwrap());
  if (schema instanceof z.ZodObject) {
    const members = Object.entries<z.core.$ZodType>(schema.shape);
    return Object.fromEntries(members.map(([name, member]) => [name, sampleOf(member)]));
  }
  if (schema instanceof z.ZodNullable) {
    const inner = sampleOf(schema.unwrap());
    return inner === undefined ? null : inner;
  }
  return undefined;
}
