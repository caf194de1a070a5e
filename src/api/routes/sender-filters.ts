import { nextId } from '../../db/ids.ts';
import { acceptedScopes, isNarrowed, type Principal, sees } from '../../domain/access.ts';
import { DomainError } from '../../domain/errors.ts';
import {
  FILTER_KINDS,
  FILTER_SCOPES,
  senderFilter,
  senderFilterStream,
} from '../../domain/sender-filter.ts';
import { handleCommand } from '../../eventlog/handle-command.ts';
import {
  findSenderFilter,
  listSenderFilters,
  type SenderFilterRow,
} from '../../projections/sender-filters.ts';
import type { Context } from '../context.ts';
import { invalid } from '../input.ts';
import { findMailDomainId } from '../mail-domain-name.ts';
import { BASE_PATH } from '../paths.ts';
import { route } from '../route.ts';
import { IdText, LIST_HEADERS, ListQuery, listHeaders, Text } from '../schemas.ts';
import {
  NewSenderFilter,
  Sender,
  SenderFilterView,
  viewSenderFilter,
  viewSenderFilters,
} from '../sender-filter-view.ts';
import { z } from '../zod.ts';

const PATH = '/sender-filters';
const Params = z.strictObject({ id: IdText });
const read = { operation: 'read', reach: 'mail_domain' } as const;
const write = { operation: 'write', reach: 'mail_domain' } as const;
const tag = 'Sender filters';

const listFilters = route({
  id: 'listSenderFilters',
  method: 'get',
  path: PATH,
  tag,
  summary: 'List sender filters, newest first.',
  permission: read,
  query: ListQuery.extend({
    kind: z.enum(FILTER_KINDS).optional(),
    scope: z.enum(FILTER_SCOPES).optional(),
    domain: Text(253).optional().openapi({ description: 'A mail domain by its name or id.' }),
    sender: Sender.optional(),
  }),
  reply: z.array(SenderFilterView),
  responseHeaders: LIST_HEADERS,
  errors: ['unknown_mail_domain'],
  async handle(context, { query, principal }) {
    const { kind = null, scope = null, sender = null, domain = null } = query;
    const mailDomain = await selectedMailDomain(context, domain, principal);
    const page = { before: query.cursor ?? null, limit: query.limit + 1 };
    const wanted = { kind, scope, mailDomain, sender };
    const rows = await listSenderFilters(context.pool, wanted, page);
    const list = listHeaders(`${BASE_PATH}${PATH}`, rows, query.limit);
    const headers = keepFilters(list.headers, { kind, scope, domain, sender });
    return { data: await viewSenderFilters(context, list.page), headers };
  },
});

const createFilter = route({
  id: 'createSenderFilter',
  method: 'post',
  path: PATH,
  tag,
  summary: 'Let mail of a sender through, or keep it out.',
  description:
    'For everybody (`global`, not for keys narrowed to a mail domain), for one mail domain, or for one ' +
    'recipient, whose mail domain must be protected here. Domains are normalised (IDNA); ' +
    'addresses are compared without regard to case.',
  permission: write,
  body: NewSenderFilter,
  reply: SenderFilterView,
  status: 201,
  message: 'Created',
  errors: ['unknown_mail_domain'],
  example: {
    body: {
      kind: 'block',
      scope: 'mail_domain',
      mail_domain: 'example.com',
      sender: '@spam.example',
      expires_at: '2099-01-01T00:00:00Z',
    },
  },
  async handle(context, { body, principal, meta, commandId }) {
    requireFitting(context, body);
    const mailDomain = await mailDomainOf(context, body, principal);
    const { kind, scope, sender, recipient = null, expires_at: expiresAt = null } = body;
    const id = await nextId(context.pool, 'sender_filter');
    const data = {
      kind,
      scope,
      mail_domain: mailDomain === null ? null : String(mailDomain),
      expires_at: expiresAt,
      made_by: null,
    };
    const handled = await handleCommand(context.log, senderFilter, {
      ...targetOf({ id, mailDomain }),
      command: { type: 'CreateSenderFilter', data, sender, recipient },
      meta,
      commandId,
    });
    const row = {
      id: Number(handled.earlier?.[0]?.resource.id ?? id),
      revision: handled.revision,
      kind,
      scope,
      mailDomain,
      sender,
      recipient,
      expiresAt,
      madeBy: null,
      createdAt: handled.recordedAt ?? '',
    };
    const isVisible = await context.projector.caughtUp(handled.position ?? 0n, ['sender_filters']);
    return {
      data: await viewSenderFilter(context, row),
      status: isVisible ? 201 : 202,
      revision: row.revision,
      headers: { Location: `${BASE_PATH}${PATH}/${row.id}` },
    };
  },
});

const getFilter = route({
  id: 'getSenderFilter',
  method: 'get',
  path: `${PATH}/{id}`,
  tag,
  summary: 'Show one sender filter.',
  permission: read,
  params: Params,
  reply: SenderFilterView,
  changesWithRevision: true,
  errors: ['not_found'],
  async handle(context, { params, principal }) {
    const row = await findVisible(context, principal, params.id);
    return { data: await viewSenderFilter(context, row), revision: row.revision };
  },
});

const deleteFilter = route({
  id: 'deleteSenderFilter',
  method: 'delete',
  path: `${PATH}/{id}`,
  tag,
  summary: 'End a sender filter.',
  permission: write,
  params: Params,
  reply: z.null(),
  message: 'Deleted',
  errors: ['not_found'],
  async handle(context, { params, principal, meta, commandId }) {
    const row = await findVisible(context, principal, params.id);
    const { position } = await handleCommand(context.log, senderFilter, {
      ...targetOf(row),
      command: { type: 'DeleteSenderFilter' },
      meta,
      commandId,
    });
    const isDone = await context.projector.caughtUp(position ?? 0n, ['sender_filters']);
    return { data: null, status: isDone ? 200 : 202 };
  },
});

export const senderFilterRoutes = [listFilters, createFilter, getFilter, deleteFilter];

type NewFilter = z.output<typeof NewSenderFilter>;

/** Refuses members that the scope lacks, or needs and has not, and a time that is over. */
function requireFitting({ clock }: Context, body: NewFilter): void {
  const issues: { path: string; message: string }[] = [];
  for (const member of ['recipient', 'mail_domain'] as const) {
    const isGiven = (body[member] ?? null) !== null;
    if (isGiven === (body.scope === member)) continue;
    const message = isGiven ? 'does not belong to' : 'is required for';
    issues.push({ path: member, message: `${message} scope ${body.scope}` });
  }
  const { expires_at: expiresAt = null } = body;
  if (expiresAt !== null && Date.parse(expiresAt) <= clock.now().getTime()) {
    issues.push({ path: 'expires_at', message: 'must lie in the future' });
  }
  if (issues.length > 0) throw invalid(issues);
}

/** Whose mail a new filter is for; null for everybody's. */
async function mailDomainOf(
  context: Context,
  body: NewFilter,
  principal: Principal,
): Promise<number | null> {
  const recipient = body.recipient ?? '';
  const given =
    body.scope === 'recipient'
      ? recipient.slice(recipient.lastIndexOf('@') + 1)
      : (body.mail_domain ?? null);
  if (given !== null) return findKnown(context, given, principal);
  if (!isNarrowed(principal)) return null;
  throw new DomainError('scope_forbidden', 'A key of one mail domain cannot filter for all.', {
    accepted_scopes: acceptedScopes('write', 'installation'),
  });
}

/** The mail domain to list: for a narrowed caller its own, whether it is named or not. */
async function selectedMailDomain(
  context: Context,
  given: string | null,
  principal: Principal,
): Promise<number | null> {
  if (given === null) return isNarrowed(principal) ? (principal.mailDomain ?? 0) : null;
  return findKnown(context, /^[1-9]\d{0,15}$/.test(given) ? Number(given) : given, principal);
}

async function findKnown(
  context: Context,
  given: string | number,
  principal: Principal,
): Promise<number> {
  const id = await findMailDomainId(context, given);
  // A foreign mail domain is as unknown as one that does not exist.
  if (id !== null && sees(principal, id)) return id;
  throw new DomainError('unknown_mail_domain', 'There is no such mail domain.');
}

/** The next page is one of the same filters. */
function keepFilters(
  headers: Readonly<Record<string, string>>,
  filters: Readonly<Record<string, string | null>>,
): Record<string, string> {
  const given = Object.entries(filters).flatMap(([name, value]) =>
    value === null ? [] : [`&${name}=${encodeURIComponent(value)}`],
  );
  const { Link: link, ...rest } = headers;
  return link === undefined ? rest : { ...rest, Link: link.replace('>', `${given.join('')}>`) };
}

async function findVisible(
  { pool }: Context,
  principal: Principal,
  id: number,
): Promise<SenderFilterRow> {
  const row = await findSenderFilter(pool, id);
  if (row === null || !sees(principal, row.mailDomain)) {
    throw new DomainError('not_found', 'No such sender filter.');
  }
  return row;
}

const targetOf = ({ id, mailDomain }: Pick<SenderFilterRow, 'id' | 'mailDomain'>) => ({
  stream: senderFilterStream(String(id)),
  resource: { type: 'sender_filter', id: String(id) },
  mailDomains: mailDomain === null ? [] : [String(mailDomain)],
});
