import { SCOPES } from '../domain/access.ts';
import { holdsApiKey } from '../secret-text.ts';
import { z } from './zod.ts';

/** Text that is asked for and not kept, so that a key's prefix may stand in it: what has it can be found. */
export const SearchText = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .refine((text) => !/\p{Cc}/u.test(text), 'must not hold control characters')
    .refine((text) => text.trim() === text, 'must not begin or end with a space');

/** Text that can be stored, logged and shown: no control characters, no lone surrogates. */
export const Text = (max: number) =>
  SearchText(max).refine((text) => !holdsApiKey(text), 'must not hold an API key');

/** A resource id: a positive integer that JavaScript can hold exactly. */
export const IdText = z
  .string()
  .regex(/^[1-9]\d{0,15}$/, 'must be a positive integer')
  .transform(Number)
  .refine(Number.isSafeInteger, 'must be below 2^53')
  .openapi({ type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER });

export const Id = z.number().int().positive().max(Number.MAX_SAFE_INTEGER);

/** A place in the log as text, since 64 bits do not fit a JSON number. */
export const PositionText = z
  .string()
  .regex(/^\d{1,19}$/, 'must be a position')
  .refine(
    // What is no number has been told so.
    (text) => !/^\d{1,19}$/.test(text) || BigInt(text) <= 9_223_372_036_854_775_807n,
    'must fit 64 bits',
  );

/** A cursor over the log, as `X-Next-Cursor` gave it; `cursor.ts` reads it. */
export const LogCursor = z
  .string()
  .min(1, 'must not be empty; leave it out to begin at the start')
  .max(256);

const TIMESTAMP =
  /^\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$/;
/** Years that every part of the program can hold and add to. */
const EARLIEST_MS = Date.UTC(1970, 0, 1);
const LATEST_MS = Date.UTC(9999, 0, 1);

/** An instant as a caller may write it (RFC 3339); comes out in UTC with six digits. */
export const Timestamp = z
  .string()
  .regex(TIMESTAMP, 'must be an RFC 3339 date and time with an offset')
  .transform((text, context) => {
    const fixed = normaliseTimestamp(text);
    if (fixed === null)
      context.issues.push({ code: 'custom', message: 'is no date from 1970 to 9998', input: text });
    return fixed ?? '';
  })
  .openapi({ type: 'string', format: 'date-time' });

/** The same, or null, which the type that it is printed with would otherwise hide. */
export const TimestampOrNull = Timestamp.nullable().openapi({ type: ['string', 'null'] });

/** An instant as we answer it. */
export const Instant = z.string().openapi({ format: 'date-time' });

function normaliseTimestamp(text: string): string | null {
  const millis = Date.parse(text);
  if (!TIMESTAMP.test(text) || !(millis >= EARLIEST_MS && millis < LATEST_MS)) return null;
  const day = Number(text.slice(8, 10));
  const lastDay = new Date(
    Date.UTC(Number(text.slice(0, 4)), Number(text.slice(5, 7)), 0),
  ).getUTCDate();
  // Date.parse rolls February 30 over into March; a caller who wrote it made a mistake.
  if (day > lastDay) return null;
  const fraction = (/\.(\d+)/.exec(text)?.[1] ?? '').padEnd(6, '0');
  return `${new Date(millis).toISOString().slice(0, 19)}.${fraction}Z`;
}

/**
 * Refuses a range that ends before it begins, which would match nothing for ever and looks like an answer. A range
 * of one point is fine: a poller that has caught up asks for it.
 */
export const inOrder =
  <First extends string, Last extends string>(first: First, last: Last) =>
  <Value extends string | number>(
    given: Readonly<Partial<Record<First | Last, Value | undefined>>>,
    context: z.RefinementCtx,
  ): void => {
    const [from, to] = [given[first], given[last]];
    if (from === undefined || to === undefined || from <= to) return;
    context.addIssue({ code: 'custom', path: [last], message: `must not be before ${first}` });
  };

export const ScopeName = z.enum(SCOPES).openapi('Scope');

export const ListQuery = z.strictObject({
  limit: z
    .string()
    .regex(/^\d{1,4}$/, 'must be 1 to 1000')
    .transform(Number)
    .refine((n) => n >= 1 && n <= 1_000, 'must be 1 to 1000')
    .default(100)
    .openapi({ type: 'integer', minimum: 1, maximum: 1_000, default: 100 }),
  cursor: z
    .string()
    .regex(/^i[1-9]\d{0,15}$/, 'is not a cursor of this list')
    .transform((text) => Number(text.slice(1)))
    .refine(Number.isSafeInteger, 'is not a cursor of this list')
    .optional()
    .openapi({ type: 'string', description: 'From `X-Next-Cursor`.' }),
});

/** What the headers of a list mean, for the contract. */
export const LIST_HEADERS = {
  'X-Next-Cursor': 'Pass as `cursor` to continue.',
  'X-Has-More': '`true` while there is a further page.',
  Link: 'The next page, `rel="next"`.',
} as const;

/** Headers of a list that continues: the id of the last item is where the next page begins. */
export function listHeaders<T extends { id: number }>(
  path: string,
  items: readonly T[],
  limit: number,
): { page: readonly T[]; headers: Record<string, string> } {
  const page = items.slice(0, limit);
  const hasMore = items.length > limit;
  const last = page.at(-1);
  const headers: Record<string, string> = { 'X-Has-More': String(hasMore) };
  if (last !== undefined) headers['X-Next-Cursor'] = `i${last.id}`;
  if (hasMore && last !== undefined) {
    headers['Link'] = `<${path}?cursor=i${last.id}&limit=${limit}>; rel="next"`;
  }
  return { page, headers };
}
