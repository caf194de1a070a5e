import { z } from 'zod';
import type { Json } from '../domain/decider.ts';
import type { RecordedEvent } from '../eventlog/upcast.ts';
import { type Described, RAISED } from './webhook-data.ts';
import { PROMISED } from './webhook-promised.ts';

/** An event type as subscribers know it. */
export type WebhookType = Readonly<{
  type: string;
  /** One sentence for whoever builds a receiver. */
  description: string;
  /** Of the payload, not of the event: a payload that changes its shape gets the next one. */
  schemaVersion: 1;
  /** Whether this release has a source of such events. */
  isRaised: boolean;
  /** The thin members of `data`; those that are the same for every type stand in `webhook-payload-schema.ts`. */
  data: z.ZodObject;
}>;

const toTypes = (described: Readonly<Record<string, Described>>, isRaised: boolean) =>
  Object.entries(described).map(([type, { description, data }]): [string, WebhookType] => [
    type,
    { type, description, schemaVersion: 1, isRaised, data },
  ]);

const CATALOGUE: ReadonlyMap<string, WebhookType> = new Map([
  ...toTypes(RAISED, true),
  ...toTypes(PROMISED, false),
]);

/** The names of all event types that subscribers may have, sorted. */
export const WEBHOOK_TYPES: readonly string[] = [...CATALOGUE.keys()].sort();

/** What the catalogue says of a type; null for one that no subscriber may have. */
export const findWebhookType = (name: string): WebhookType | null => CATALOGUE.get(name) ?? null;

/** Whether subscribers may have events of this type: what `*` stands for. */
export const isWebhookType = (name: string): boolean => CATALOGUE.has(name);

/**
 * The thin members of an event's `data`, in the order of their schema, for a subscriber that is narrowed to
 * a mail domain, or to none. Pure, and of the committed line alone, so that the bytes never change;
 * nothing leaves that the schema does not name. The type must be one of the catalogue.
 */
export function webhookDataOf(
  { type, data }: Pick<RecordedEvent, 'type' | 'data'>,
  mailDomain: string | null,
): Record<string, Json> {
  const readers = READERS.get(type);
  if (readers === undefined) throw new Error(`${type} is not for subscribers`);
  const thin: Record<string, Json> = {};
  for (const [name, read] of readers) {
    const value = read(data, mailDomain);
    if (value !== undefined) thin[name] = value;
  }
  return thin;
}

type Data = RecordedEvent['data'];
/** Reads one member for a subscriber; undefined leaves it out. */
type Reader = (data: Data, mailDomain: string | null) => Json | undefined;

// A payload has at most some 20 kB (Standard Webhooks, "payload size"), a message up to 1,000 recipients.
const RESULTS_MAX = 300;
const SYMBOLS_MAX = 100;

const firstSymbols: Reader = ({ symbols }) =>
  Array.isArray(symbols) ? symbols.slice(0, SYMBOLS_MAX) : symbols;

/** Members that are not simply those of the line. */
const DERIVED: Readonly<Record<string, Readonly<Record<string, Reader>>>> = {
  'quarantine.added': {
    recipients: ({ recipients_of: groups }, mailDomain) => countRecipients(groups, mailDomain),
    symbols: firstSymbols,
  },
  'quarantine.scanned': { symbols: firstSymbols },
  // The event has an outcome of its own, which stands under that name.
  'quarantine.retrained': { training_outcome: ({ outcome }) => outcome },
  'quarantine.retrain_failed': { training_outcome: ({ outcome }) => outcome },
};

/** Lists over all recipients; whose each of them is cannot be told from the line. */
const OF_ALL_RECIPIENTS: readonly string[] = ['recipients', 'results'];

const READERS: ReadonlyMap<string, readonly (readonly [string, Reader])[]> = new Map(
  [...CATALOGUE.values()].map(({ type, data }) => [
    type,
    Object.entries(data.shape as z.core.$ZodShape).map(
      ([name, schema]) => [name, DERIVED[type]?.[name] ?? readerOf(name, schema)] as const,
    ),
  ]),
);

function readerOf(name: string, schema: z.core.$ZodType): Reader {
  const pick = pickerOf(schema);
  const read = (value: Json | undefined) => (value === undefined ? undefined : pick(value));
  if (!OF_ALL_RECIPIENTS.includes(name)) return (data) => read(data[name]);
  return (data, mailDomain) => {
    const value = data[name];
    const isLong = name === 'results' && Array.isArray(value) && value.length > RESULTS_MAX;
    return mailDomain !== null || isLong ? undefined : read(value);
  };
}

/** Keeps of a value what its schema names, so that a member that is added later changes no old payload. */
function pickerOf(schema: z.core.$ZodType): (value: Json) => Json {
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodNullable) {
    return pickerOf(schema.unwrap());
  }
  if (schema instanceof z.ZodArray) {
    const pick = pickerOf(schema.element);
    return (value) => (Array.isArray(value) ? (value as readonly Json[]).map(pick) : value);
  }
  if (!(schema instanceof z.ZodObject)) return (value) => value;
  const members = Object.entries(schema.shape as z.core.$ZodShape).map(
    ([name, member]) => [name, pickerOf(member)] as const,
  );
  return (value) => {
    if (!isObject(value)) return value;
    const picked: Record<string, Json> = {};
    for (const [name, pick] of members) {
      const given = value[name];
      if (given !== undefined) picked[name] = pick(given);
    }
    return picked;
  };
}

const isObject = (value: Json): value is Readonly<Record<string, Json | undefined>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** `recipients_of` names the mail domains of others, so it is told as a count. */
function countRecipients(groups: Json | undefined, mailDomain: string | null): number {
  if (!Array.isArray(groups)) return 0;
  return (groups as readonly { mail_domain: string | null; count: number }[])
    .filter((group) => mailDomain === null || group.mail_domain === mailDomain)
    .reduce((sum, { count }) => sum + count, 0);
}
