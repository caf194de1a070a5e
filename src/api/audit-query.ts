import { isNarrowed, type Principal } from '../domain/access.ts';
import { DomainError } from '../domain/errors.ts';
import type { Head, LogFilter, Order, Position } from '../eventlog/eventlog.ts';
import type { Viewer } from '../projections/audit-lines.ts';
import { type LineSearch, lineSearch } from '../projections/audit-search.ts';
import { mailDomainStream, normaliseMailDomainName } from '../projections/mail-domains.ts';
import type { Context } from './context.ts';
import type { Bound } from './cursor.ts';
import { invalid } from './input.ts';
import { requireOneStart, startAsked } from './log-place.ts';
import { inOrder, LogCursor, PositionText, SearchText, Timestamp } from './schemas.ts';
import { z } from './zod.ts';

const LIST_MAX = 50;
const PAGE_LINES_MAX = 10_000;

const listOf = (pattern: RegExp, what: string) =>
  z
    .string()
    .transform((text) => text.split(','))
    .refine((list) => list.length <= LIST_MAX, `takes at most ${LIST_MAX} values`)
    .refine((list) => list.every((value) => pattern.test(value)), `must be ${what}`)
    .openapi({ type: 'string' });

const reference = listOf(/^[a-z_]{1,64}:[^,]{1,200}$/, 'type:id, or several with commas');
const typeName = listOf(/^[a-z_]{1,64}$/, 'a type, or several with commas');

const Parameters = z.strictObject({
  from: Timestamp.optional().openapi({ description: 'Recorded at or after.' }),
  to: Timestamp.optional().openapi({ description: 'Recorded before.' }),
  occurred_from: Timestamp.optional().openapi({
    description:
      'Happened at or after, as its recorder says. Not in the order of the log and without an index: narrow by ' +
      '`from`, `action` or `resource` as well.',
  }),
  occurred_to: Timestamp.optional().openapi({ description: 'Happened before.' }),
  actor: reference.optional().openapi({ description: '`type:id`, comma-separated.' }),
  actor_type: typeName.optional(),
  resource: reference.optional().openapi({ description: '`type:id`, comma-separated.' }),
  resource_type: typeName.optional(),
  action: listOf(/^[a-z_]+(\.[a-z_]+)*(\.\*)?$/, 'an event type, or a prefix with a star')
    .optional()
    .openapi({ description: 'Event types, comma-separated; `api_key.*` takes a prefix.' }),
  domain: z.string().min(1).max(253).optional().openapi({
    description:
      'A mail domain by its id, or by a name: then every mail domain that ever had the name.',
  }),
  outcome: listOf(/^(success|failure|denied)$/, 'success, failure or denied').optional(),
  q: SearchText(200)
    .optional()
    .openapi({
      description:
        'Words, in any case, each of which must stand in some value that the line shows you: a name, an address, an ' +
        'id, a reason. Without an index: a page looks for five seconds at most, and `X-Next-Cursor` goes on.',
    }),
  order: z.enum(['asc', 'desc']).default('asc').openapi({
    description:
      'Oldest first, or newest first. A poller reads ascending: descending, nothing new comes up behind a cursor.',
  }),
  cursor: LogCursor.optional().openapi({
    description: 'From `X-Next-Cursor` or a line of the same filter.',
  }),
  after: PositionText.optional().openapi({ description: 'Begin behind a known position.' }),
  limit: z
    .string()
    .regex(/^\d{1,5}$/, `must be 1 to ${PAGE_LINES_MAX}`)
    .transform(Number)
    .refine((n) => n >= 1 && n <= PAGE_LINES_MAX, `must be 1 to ${PAGE_LINES_MAX}`)
    .optional()
    .openapi({
      type: 'integer',
      minimum: 1,
      maximum: PAGE_LINES_MAX,
      description: 'Lines per page (default 100); an export is not limited unless this is given.',
    }),
  form: z
    .enum(['readable', 'evidence'])
    .default('readable')
    .openapi({ description: 'Names and values in place, or the committed bytes.' }),
});

export const AuditQuery = Parameters.superRefine(inOrder('from', 'to')).superRefine(
  inOrder('occurred_from', 'occurred_to'),
);

/** In what form one line is read. */
export const AuditLineQuery = Parameters.pick({ form: true });

export type AuditQueryInput = z.output<typeof AuditQuery>;

/** A query, resolved: what to read, from where to where, and what its cursors are bound to. */
export type AuditReading = Readonly<{
  filter: LogFilter;
  after: Position;
  until: Position;
  order: Order;
  /** What a line must hold besides; null without a search. */
  search: LineSearch | null;
  head: Head;
  bound: Bound;
  viewer: Viewer;
  /** For the audit trail: the filter without cursor and limit. */
  described: string;
}>;

/** Resolves names and times to ids and positions, and refuses what this caller may not ask. */
export async function resolveReading(
  context: Context,
  query: AuditQueryInput,
  principal: Principal,
): Promise<AuditReading> {
  requireCombinable(query);
  if (query.form === 'evidence') requireEvidence(principal);
  const { log, cursors } = context;
  // The head first: what a name meant until then is all that can stand below it.
  const head = await log.head();
  const mailDomain =
    query.domain === undefined ? null : await resolveDomain(context, query.domain, principal);
  const rest = toFilter(query, principal);
  const filter = mailDomain === null ? rest : { ...rest, mailDomains: mailDomain.ids };
  const window = {
    ...(query.from === undefined ? {} : { from: query.from }),
    ...(query.to === undefined ? {} : { to: query.to }),
    ...(query.q === undefined ? {} : { q: query.q }),
    ...(query.order === 'asc' ? {} : { order: query.order }),
  };
  const meant = mailDomain === null ? rest : { ...rest, mailDomain: mailDomain.meant };
  const bound = cursors.bind({ ...meant, ...window }, principal);
  const started = startAsked(context, query, { bound, head: head.position })?.position;
  const from = query.from === undefined ? 0n : await log.positionBefore(query.from);
  const to = query.to === undefined ? head.position : await log.positionBefore(query.to);
  const isUp = query.order === 'asc';
  return {
    filter,
    after: isUp ? max(started ?? 0n, from) : from,
    until: min(isUp ? to : min(started ?? to, to), head.position),
    order: query.order,
    search: query.q === undefined ? null : lineSearch(query.q),
    head,
    bound,
    viewer: viewerOf(context, principal),
    described: JSON.stringify({ ...filter, ...window }),
  };
}

const min = (a: Position, b: Position): Position => (a < b ? a : b);
const max = (a: Position, b: Position): Position => (a > b ? a : b);

function requireCombinable({ cursor, after, order }: AuditQueryInput): void {
  requireOneStart({ cursor, after });
  if (after === undefined || order !== 'desc') return;
  throw invalid([{ path: 'after', message: 'cannot be combined with order=desc' }]);
}

/** The committed bytes hold every tenant's ids, so only readers of everything get them. */
export function requireEvidence(principal: Principal): void {
  const isReader = principal.scope === 'full-admin' || principal.scope === 'read-only';
  if (isReader && !isNarrowed(principal)) return;
  throw new DomainError('scope_forbidden', 'Evidence is for unnarrowed full-admin and read-only.', {
    accepted_scopes: ['read-only', 'full-admin'],
  });
}

/** What a narrowed reader may know of actors: those whose key belongs to its mail domain. */
export function viewerOf({ liveKeys }: Context, principal: Principal): Viewer {
  if (!isNarrowed(principal)) return null;
  return {
    mailDomain: String(principal.mailDomain ?? 0),
    knowsActor: ({ type, id }) =>
      type === 'api_key' && liveKeys.mailDomainOf(Number(id)) === principal.mailDomain,
  };
}

function toFilter(query: AuditQueryInput, principal: Principal): LogFilter {
  const types = query.action?.filter((action) => !action.endsWith('*'));
  const prefixes = query.action?.filter((action) => action.endsWith('*'));
  return {
    ...(types === undefined ? {} : { types }),
    ...(prefixes === undefined || prefixes.length === 0
      ? {}
      : { typePrefixes: prefixes.map((prefix) => prefix.slice(0, -1)) }),
    ...(query.actor === undefined ? {} : { actors: query.actor }),
    ...(query.actor_type === undefined ? {} : { actorTypes: query.actor_type }),
    ...(query.resource === undefined ? {} : { resources: query.resource }),
    ...(query.resource_type === undefined ? {} : { resourceTypes: query.resource_type }),
    ...(query.outcome === undefined ? {} : { outcomes: query.outcome }),
    ...(query.occurred_from === undefined ? {} : { occurredFrom: query.occurred_from }),
    ...(query.occurred_to === undefined ? {} : { occurredTo: query.occurred_to }),
    ...(isNarrowed(principal) ? { visibleTo: String(principal.mailDomain ?? 0) } : {}),
  };
}

/** The mail domains to read, and what a cursor is bound to instead of them: it outlives them. */
async function resolveDomain(
  { secrets, mailDomainHistory }: Context,
  given: string,
  principal: Principal,
): Promise<Readonly<{ ids: readonly string[]; meant: string }>> {
  const unknown = new DomainError('unknown_mail_domain', 'There is no such mail domain.');
  const isId = /^[1-9]\d{0,15}$/.test(given);
  if (isId && !Number.isSafeInteger(Number(given))) throw unknown;
  const name = isId ? null : normaliseMailDomainName(given);
  if (!isId && name === null) throw unknown;
  const meant = name === null ? given : mailDomainStream(secrets, name);
  const known = name === null ? [given] : await mailDomainHistory(meant);
  // For a narrowed reader every other mail domain is as unknown as one that never was.
  const own = String(principal.mailDomain ?? 0);
  const ids = isNarrowed(principal) ? known.filter((id) => id === own) : known;
  if (ids.length === 0) throw unknown;
  return { ids, meant };
}
