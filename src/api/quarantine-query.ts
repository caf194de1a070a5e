import { isNarrowed, type Principal } from '../domain/access.ts';
import { DomainError } from '../domain/errors.ts';
import { REASONS } from '../domain/quarantine-language.ts';
import { OPEN_STATES, STATES } from '../domain/quarantined-message.ts';
import { normaliseMailDomainName } from '../projections/mail-domains.ts';
import {
  type ListPlace,
  type MessageSearch,
  SCAN_BUDGET_MS,
  SCAN_MESSAGES_MAX,
} from '../projections/quarantine-list.ts';
import { term } from '../projections/quarantine-terms.ts';
import type { Context } from './context.ts';
import { invalid } from './input.ts';
import { findMailDomainId } from './mail-domain-name.ts';
import { inOrder, ListQuery, Text, Timestamp } from './schemas.ts';
import { z } from './zod.ts';

const OFFSET_MAX = 10_000;
const PLACE =
  /^m(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;

const listOf = (values: readonly string[]) =>
  z
    .string()
    .transform((text) => text.split(','))
    .refine(
      (list) => list.every((value) => values.includes(value)),
      `must be of ${values.join(', ')}`,
    )
    .openapi({ type: 'string' });
const score = z
  .string()
  .regex(/^-?\d{1,7}(?:\.\d{1,6})?$/, 'must be a number')
  .transform(Number)
  .openapi({ type: 'number' });

const filters = {
  domain: z.string().min(1).max(253).optional().openapi({
    description: 'A recipient’s mail domain: its name or its id.',
  }),
  sender: Text(320).optional().openapi({ description: 'An address, or a domain.' }),
  recipient: Text(320).optional().openapi({ description: 'An address.' }),
  symbol: z
    .string()
    .regex(/^[A-Za-z0-9_.:-]{1,128}$/, 'is no name of a rule')
    .optional(),
  reason: listOf(REASONS)
    .optional()
    .openapi({ description: `${REASONS.join(', ')}; several with commas.` }),
  state: listOf([...STATES, 'any'])
    .optional()
    .openapi({
      description: `${STATES.join(', ')}, or any; several with commas. Without it: what is still in the quarantine.`,
    }),
  node_id: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,128}$/, 'is no id of a node')
    .optional(),
  since: Timestamp.optional().openapi({ description: 'Arrived at or after.' }),
  until: Timestamp.optional().openapi({ description: 'Arrived before.' }),
  expires_before: Timestamp.optional(),
  min_score: score.optional(),
  max_score: score.optional(),
  subject: Text(200).optional().openapi({ description: 'Part of the subject, in any case.' }),
  q: Text(200).optional().openapi({
    description: 'Part of the subject, the sender or the Message-ID, in any case.',
  }),
} as const;

/** What bulk actions take too; names and meanings are those of the list. */
export const QuarantineFilter = inRanges(z.strictObject(filters));

const listQuery = z.strictObject({
  ...filters,
  limit: ListQuery.shape.limit,
  cursor: z
    .string()
    .refine((text) => readPlace(text) !== null, 'is not a cursor of this list')
    .optional()
    .openapi({ type: 'string', description: 'From `X-Next-Cursor`, with the same filters.' }),
  offset: z
    .string()
    .regex(/^\d{1,5}$/, `must be 0 to ${OFFSET_MAX}`)
    .transform(Number)
    .refine((n) => n <= OFFSET_MAX, `must be 0 to ${OFFSET_MAX}`)
    .optional()
    .openapi({
      type: 'integer',
      minimum: 0,
      maximum: OFFSET_MAX,
      description:
        'Matches to leave out, unless the search runs out of its budget before. A cursor is faster, and stable while ' +
        'mail comes and goes.',
    }),
});

export const QuarantineQuery = inRanges(listQuery);

/** How much a search looks at before it answers with what it has. */
export const SCAN_BUDGET =
  `Domain, sender, recipient, symbol, reason, node and state are indexed. What else narrows the search is ` +
  `checked per message: after ${SCAN_MESSAGES_MAX} messages or ${SCAN_BUDGET_MS / 1_000} s the answer is ` +
  'what was found, `X-Has-More: true` and a cursor that goes on behind what was looked at.';

function inRanges<Schema extends z.ZodObject>(schema: Schema): Schema {
  return schema
    .superRefine(inOrder('since', 'until'))
    .superRefine(inOrder('min_score', 'max_score'));
}

export const placeText = ({ arrivedAt, id }: ListPlace): string => `m${arrivedAt}_${id}`;

export function readPlace(cursor: string | undefined): ListPlace | null {
  const [, arrivedAt, id] = PLACE.exec(cursor ?? '') ?? [];
  if (arrivedAt === undefined || id === undefined) return null;
  return Timestamp.safeParse(arrivedAt).success ? { arrivedAt, id } : null;
}

type Filter = z.output<typeof QuarantineFilter>;

/** A filter as a search over what the caller may see. */
export async function toSearch(
  context: Context,
  filter: Filter,
  principal: Principal,
): Promise<MessageSearch> {
  const only = isNarrowed(principal) ? (principal.mailDomain ?? 0) : null;
  const wanted = filter.domain === undefined ? null : await resolve(context, filter.domain, only);
  const states = filter.state?.includes('any') ? [...STATES] : (filter.state ?? null);
  const isOpen = states === null ? true : flagOf(states);
  const [onlyReason] = filter.reason?.length === 1 ? filter.reason : [];
  const closed = states?.length === 1 && isOpen === false ? states[0] : undefined;
  const terms = [
    // The rarest kind first: it leads the search.
    ...(filter.recipient === undefined ? [] : [term.recipient(addressOf(filter.recipient))]),
    ...senderTerms(filter.sender),
    ...(closed === undefined ? [] : [term.state(closed)]),
    ...(filter.symbol === undefined ? [] : [term.symbol(filter.symbol)]),
    ...(onlyReason === undefined ? [] : [term.reason(onlyReason)]),
    ...[...new Set([wanted, only])].flatMap((id) => (id === null ? [] : [term.domain(id)])),
    ...(filter.node_id === undefined ? [] : [term.node(filter.node_id)]),
  ];
  const isEveryState = states === null || closed !== undefined || covers(states, isOpen);
  return {
    isOpen,
    terms,
    since: filter.since ?? null,
    until: filter.until ?? null,
    states: isEveryState ? null : states,
    reasons: onlyReason === undefined ? (filter.reason ?? null) : null,
    minScore: filter.min_score ?? null,
    maxScore: filter.max_score ?? null,
    expiresBefore: filter.expires_before ?? null,
    subject: filter.subject ?? null,
    text: filter.q ?? null,
    recipientOf:
      only === null || filter.recipient === undefined
        ? null
        : { mailDomain: only, address: addressOf(filter.recipient) },
  };
}

const isOpenState = (state: string): boolean => (OPEN_STATES as readonly string[]).includes(state);

/** Open, closed, or (null) both. */
function flagOf(states: readonly string[]): boolean | null {
  const open = states.filter(isOpenState).length;
  return open === 0 ? false : open === states.length ? true : null;
}

/** Whether the states are all there are on their side, so that asking for them narrows nothing. */
function covers(states: readonly string[], isOpen: boolean | null): boolean {
  const side = STATES.filter((state) => isOpen === null || isOpenState(state) === isOpen);
  return side.every((state) => states.includes(state));
}

function senderTerms(sender: string | undefined): string[] {
  if (sender === undefined) return [];
  const name = sender.replace(/^@/, '');
  if (name.includes('@')) return [term.sender(addressOf(name))];
  return [term.senderDomain(normaliseMailDomainName(name) ?? name)];
}

/** The domain part in its one form, as addresses are kept. */
function addressOf(text: string): string {
  const at = text.lastIndexOf('@');
  const domain = normaliseMailDomainName(text.slice(at + 1));
  return domain === null ? text : `${text.slice(0, at + 1)}${domain}`;
}

async function resolve(context: Context, given: string, only: number | null): Promise<number> {
  const unknown = new DomainError('unknown_mail_domain', 'There is no such mail domain.');
  const isId = /^[1-9]\d{0,15}$/.test(given);
  const id = isId ? Number(given) : await findMailDomainId(context, given);
  if (id === null || !Number.isSafeInteger(id)) throw unknown;
  if (only !== null && id !== only) throw unknown;
  return id;
}

/** Refuses what cannot be combined. */
export function requireOnePlace(query: z.output<typeof QuarantineQuery>): void {
  if (query.cursor === undefined || query.offset === undefined) return;
  throw invalid([{ path: 'offset', message: 'cannot be combined with cursor' }]);
}
