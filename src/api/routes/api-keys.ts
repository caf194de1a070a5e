import { eraseIdempotentAnswers } from '../../db/idempotency.ts';
import {
  type Principal,
  requireMayEnd,
  requireWithinAuthority,
  sees,
} from '../../domain/access.ts';
import { type ApiKeyCommand, apiKey } from '../../domain/api-key.ts';
import { DomainError } from '../../domain/errors.ts';
import { RATE_LIMIT_PER_MINUTE_MAX } from '../../domain/rate-limit.ts';
import { handleCommand } from '../../eventlog/handle-command.ts';
import { type ApiKeyRow, findApiKey, listApiKeys } from '../../projections/api-keys.ts';
import type { Context } from '../context.ts';
import { invalid } from '../input.ts';
import {
  answerWith,
  answerWithNew,
  findVisibleKey,
  requireNotExpired,
  rowAfter,
  selectionOf,
  targetOf,
} from '../key-access.ts';
import { AllowedCidrList, requireOwnAddress } from '../key-addresses.ts';
import { issueKey } from '../key-issuing.ts';
import { KeyView, NewKeyView, viewKeys } from '../key-view.ts';
import { findMailDomainId } from '../mail-domain-name.ts';
import { BASE_PATH } from '../paths.ts';
import { type Answer, type Call, route } from '../route.ts';
import {
  Id,
  IdText,
  LIST_HEADERS,
  ListQuery,
  listHeaders,
  ScopeName,
  Text,
  TimestampOrNull,
} from '../schemas.ts';
import { z } from '../zod.ts';

export const KeyParams = z.strictObject({ id: IdText });
const RateLimit = z.number().int().min(1).max(RATE_LIMIT_PER_MINUTE_MAX);
const Name = Text(200);

const write = { operation: 'write', reach: 'mail_domain' } as const;
const read = { operation: 'keys_read', reach: 'mail_domain' } as const;
const tag = 'API keys';

const listKeys = route({
  id: 'listApiKeys',
  method: 'get',
  path: '/auth/api-keys',
  tag,
  summary: 'List API keys, newest first.',
  description:
    'The keys of your owner; a domain-admin sees those of its mail domain, a full-admin all.',
  permission: read,
  query: ListQuery,
  reply: z.array(KeyView),
  responseHeaders: LIST_HEADERS,
  errors: [],
  async handle(context, { query, principal }) {
    const rows = await listApiKeys(context.pool, selectionOf(principal), {
      before: query.cursor ?? null,
      limit: query.limit + 1,
    });
    const { page, headers } = listHeaders(`${BASE_PATH}/auth/api-keys`, rows, query.limit);
    return { data: await viewKeys(context, page), headers };
  },
});

const createKey = route({
  id: 'createApiKey',
  method: 'post',
  path: '/auth/api-keys',
  tag,
  summary: 'Create an API key. The answer is the only place where it is ever shown.',
  description:
    'A key is `nmg_` and 64 lower-case hex digits, the last 8 a CRC-32 of what stands before them ' +
    'for secret scanners. `mail_domain` (a name, or an id) narrows any scope to that mail domain ' +
    'and is required for `domain-admin`. `rate_limit_per_minute` refills a bucket of ten times ' +
    'that capacity. A key gets no higher scope, no longer life and no wider addresses than the key ' +
    'that makes it has, and of a maker that is narrowed neither another mail domain nor a higher rate limit.',
  permission: write,
  body: z.strictObject({
    name: Name,
    scope: ScopeName,
    mail_domain: z.union([Text(253), Id]).nullish(),
    rate_limit_per_minute: RateLimit.default(100),
    expires_at: TimestampOrNull.optional(),
    allowed_cidrs: AllowedCidrList.nullish(),
  }),
  reply: NewKeyView,
  status: 201,
  message: 'Created',
  errors: ['beyond_own_authority', 'unknown_mail_domain'],
  example: { body: { name: 'SIEM forwarder', scope: 'read-only', rate_limit_per_minute: 100 } },
  async handle(context, { body, principal, meta, commandId }) {
    const mailDomain = await resolveMailDomain(context, body.mail_domain ?? null, principal);
    if (body.scope === 'domain-admin' && mailDomain === null) {
      throw invalid([{ path: 'mail_domain', message: 'is required for domain-admin' }]);
    }
    const expiresAt = requireFuture(context, body.expires_at ?? null);
    const authority = {
      scope: body.scope,
      mailDomain,
      rateLimitPerMinute: body.rate_limit_per_minute,
      expiresAt,
      allowedCidrs: body.allowed_cidrs ?? null,
    };
    requireWithinAuthority(principal, authority);
    const owner = { type: 'api_key', id: String(principal.id) };
    const issued = await issueKey(
      context,
      { ...authority, name: body.name, owner, predecessor: null },
      { meta, commandId },
    );
    await context.liveKeys.changed(issued.id);
    const isVisible = await context.projector.caughtUp(issued.position, ['api_keys']);
    return answerWithNew(context, issued, isVisible);
  },
});

const getKey = route({
  id: 'getApiKey',
  method: 'get',
  path: '/auth/api-keys/{id}',
  tag,
  summary: 'Show one API key.',
  permission: read,
  params: KeyParams,
  reply: KeyView,
  errors: ['not_found'],
  async handle(context, { params, principal }) {
    const row = await findVisibleKey(context, principal, params.id);
    return answerWith(context, row);
  },
});

const updateKey = route({
  id: 'updateApiKey',
  method: 'patch',
  path: '/auth/api-keys/{id}',
  tag,
  summary: 'Change name, rate limit, expiry or addresses of an active key (JSON merge patch).',
  description:
    'A list that replaces `allowed_cidrs` counts from the next request on, and running exports from ' +
    'addresses that it does not hold are cut. One for your own key must hold the address you call from.',
  permission: write,
  params: KeyParams,
  body: z.strictObject({
    name: Name.optional(),
    rate_limit_per_minute: RateLimit.optional(),
    expires_at: TimestampOrNull.optional(),
    allowed_cidrs: AllowedCidrList.nullable().optional(),
  }),
  mergePatch: true,
  conditional: true,
  reply: KeyView,
  message: 'Updated',
  errors: ['not_found', 'state_conflict', 'stale', 'beyond_own_authority'],
  example: { params: { id: 2 }, body: { rate_limit_per_minute: 600 } },
  async handle(context, call) {
    const { params, body, principal } = call;
    const { expires_at: expiresAt, allowed_cidrs: cidrs } = body;
    const row = await findVisibleKey(context, principal, params.id);
    requireNotExpired(context, row);
    if (expiresAt !== undefined) requireFuture(context, expiresAt);
    if (cidrs !== undefined && row.id === principal.id) {
      requireOwnAddress(cidrs, call.meta.source.ip);
    }
    requireWithinAuthority(principal, {
      ...row,
      rateLimitPerMinute: body.rate_limit_per_minute ?? row.rateLimitPerMinute,
      expiresAt: expiresAt === undefined ? row.expiresAt : expiresAt,
      allowedCidrs: cidrs === undefined ? row.allowedCidrs : cidrs,
    });
    // What was refilled until now was refilled at the old rate.
    context.limiter.settle(row.bucket, row.rateLimitPerMinute);
    return command(context, call, row, {
      type: 'UpdateApiKey',
      name: body.name,
      rateLimitPerMinute: body.rate_limit_per_minute,
      expiresAt,
      allowedCidrs: cidrs === null ? null : cidrs?.map(({ text }) => text),
    });
  },
});

const revokeKey = route({
  id: 'revokeApiKey',
  method: 'post',
  path: '/auth/api-keys/{id}/revoke',
  tag,
  summary: 'Make a key invalid at once, and keep it in the audit log.',
  description:
    'When the answer has left, every request that starts later is 401 and running exports of the ' +
    'key are cut. Revoking a key that has ended already changes nothing.',
  permission: write,
  params: KeyParams,
  body: z.strictObject({ reason: Text(1_000).nullish() }),
  bodyOptional: true,
  conditional: true,
  reply: KeyView,
  message: 'Revoked',
  errors: ['not_found', 'stale', 'beyond_own_authority'],
  example: { params: { id: 4 }, body: { reason: 'leaked in a build log' } },
  async handle(context, call) {
    const row = await findVisibleKey(context, call.principal, call.params.id);
    requireMayEnd(call.principal, row.scope);
    return command(context, call, row, {
      type: 'RevokeApiKey',
      reason: call.body.reason ?? null,
    });
  },
});

const deleteKey = route({
  id: 'deleteApiKey',
  method: 'delete',
  path: '/auth/api-keys/{id}',
  tag,
  summary: 'End a key and erase what it was called; its opaque lifecycle stays.',
  description:
    'Name and prefix are removed from every place. The events of key `{id}` remain, and so does ' +
    'what can be proved of it: when it was active, and what it did.',
  permission: write,
  params: KeyParams,
  conditional: true,
  reply: z.null(),
  message: 'Deleted',
  errors: ['not_found', 'stale', 'beyond_own_authority'],
  example: { params: { id: 5 } },
  async handle(context, { params, principal, meta, commandId, ifMatch }) {
    const row = await findVisibleKey(context, principal, params.id);
    requireMayEnd(principal, row.scope);
    const { position } = await handleCommand(context.log, apiKey, {
      ...targetOf(row),
      command: { type: 'DeleteApiKey' },
      meta,
      commandId,
      ifRevision: ifMatch,
    });
    await context.liveKeys.changed(row.id);
    const isErased = await context.projector.caughtUp(position ?? 0n, ['api_keys', 'erasures']);
    // An answer about this key that was being kept meanwhile holds its name, too.
    await eraseIdempotentAnswers(context.pool, `api_key:${row.id}`);
    return { data: null, status: isErased ? 200 : 202 };
  },
});

export const apiKeyRoutes = [listKeys, createKey, getKey, updateKey, revokeKey, deleteKey];

/** Appends a command about one key, and answers with the key as it is then. */
async function command(
  context: Context,
  call: Call<unknown, unknown, unknown>,
  row: ApiKeyRow,
  apiKeyCommand: ApiKeyCommand,
): Promise<Answer<z.input<typeof KeyView>>> {
  const handled = await handleCommand(context.log, apiKey, {
    ...targetOf(row),
    command: apiKeyCommand,
    meta: call.meta,
    commandId: call.commandId,
    ifRevision: call.ifMatch,
  });
  if (handled.position !== null) {
    // Memory first: from here on the key is what the log says, whatever the read model is at.
    await context.liveKeys.changed(row.id);
    await context.projector.caughtUp(handled.position, ['api_keys']);
  }
  const found = (await findApiKey(context.pool, row.id)) ?? row;
  const isBehind = found.revision < handled.revision;
  return answerWith(context, isBehind ? rowAfter(context, found, handled) : found);
}

async function resolveMailDomain(
  context: Context,
  given: string | number | null,
  principal: Principal,
): Promise<number | null> {
  if (given === null) return null;
  const id = await findMailDomainId(context, given);
  // A foreign mail domain is as unknown as one that does not exist.
  if (id !== null && sees(principal, id)) return id;
  throw new DomainError('unknown_mail_domain', 'There is no such mail domain.');
}

function requireFuture(context: Context, expiresAt: string | null): string | null {
  if (expiresAt === null || Date.parse(expiresAt) > context.clock.now().getTime()) return expiresAt;
  throw invalid([{ path: 'expires_at', message: 'must lie in the future' }]);
}
