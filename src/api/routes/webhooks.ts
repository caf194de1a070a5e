import { eraseCredentials } from '../../db/credentials.ts';
import { eraseIdempotentAnswers } from '../../db/idempotency.ts';
import { nextId } from '../../db/ids.ts';
import { isNarrowed } from '../../domain/access.ts';
import { DomainError } from '../../domain/errors.ts';
import { webhook, webhookTarget } from '../../domain/webhook.ts';
import { handleCommand, madeBefore } from '../../eventlog/handle-command.ts';
import { countWebhooks, findWebhook, listWebhooks } from '../../projections/webhooks.ts';
import type { Context } from '../context.ts';
import { invalid } from '../input.ts';
import { LogPlace, positionBefore } from '../log-place.ts';
import { BASE_PATH } from '../paths.ts';
import { type Answer, type Call, route } from '../route.ts';
import { Id, LIST_HEADERS, ListQuery, listHeaders, Text } from '../schemas.ts';
import {
  findVisibleWebhook,
  mailDomainFor,
  read,
  requireTarget,
  tag,
  WebhookParams,
  write,
} from '../webhook-access.ts';
import {
  answerWithWebhook,
  awaitEffect,
  commandAsCaller,
  rowAsMade,
  type WebhookAnswer,
} from '../webhook-commands.ts';
import { GivenSecret, keepSecret, requireSecret, showSecret } from '../webhook-secrets.ts';
import {
  Description,
  EventTypes,
  NewWebhookView,
  Ordering,
  viewWebhooks,
  WebhookUrl,
  WebhookView,
} from '../webhook-view.ts';
import { z } from '../zod.ts';

/** Subscriptions of one installation. */
const WEBHOOKS_MAX = 1_000;
const UPDATE_TRIES_MAX = 5;
const PATH = '/webhooks';

const list = route({
  id: 'listWebhooks',
  method: 'get',
  path: PATH,
  tag,
  summary: 'List webhooks, newest first.',
  permission: read,
  query: ListQuery,
  reply: z.array(WebhookView),
  responseHeaders: LIST_HEADERS,
  errors: [],
  async handle(context, { query, principal }) {
    const mailDomain = isNarrowed(principal) ? (principal.mailDomain ?? 0) : null;
    const rows = await listWebhooks(context.pool, mailDomain, {
      before: query.cursor ?? null,
      limit: query.limit + 1,
    });
    const { page, headers } = listHeaders(`${BASE_PATH}${PATH}`, rows, query.limit);
    return { data: await viewWebhooks(context, page), headers };
  },
});

const NewWebhook = z.strictObject({
  url: WebhookUrl,
  event_types: EventTypes,
  mail_domain: z.union([Text(253), Id]).nullish(),
  description: Description.nullish(),
  ordering: Ordering.default('none'),
  secret: GivenSecret,
  start: z
    .union([z.enum(['now', 'earliest']), LogPlace])
    .default('now')
    .openapi({
      description:
        'The first event: whatever comes next, all that the log holds, one at a position, or the first that ' +
        'was recorded at or behind a time.',
    }),
  enabled: z.boolean().default(true),
});

const create = route({
  id: 'createWebhook',
  method: 'post',
  path: PATH,
  tag,
  summary: 'Subscribe a URL to events. The answer is the only place where its secret is shown.',
  description:
    'A subscription is a cursor over the log: what it matches from its start on is posted at least once, ' +
    'signed as Standard Webhooks 1.0.0 says, however long its endpoint was away. Answer with 2xx within 15 ' +
    'seconds. Payloads hold no personal value; read the event by its `id` for more. A key of one mail ' +
    'domain subscribes to that one’s events. ' +
    `There can be ${WEBHOOKS_MAX} subscriptions.`,
  permission: write,
  body: NewWebhook,
  reply: NewWebhookView,
  status: 201,
  message: 'Created',
  errors: ['unknown_mail_domain', 'target_refused', 'state_conflict'],
  example: {
    body: {
      url: 'https://hooks.example.com/mailguard',
      event_types: ['quarantine.added', 'quarantine.released'],
      description: 'ticket system',
    },
  },
  handle: (context, call) => createWebhook(context, call),
});

const get = route({
  id: 'getWebhook',
  method: 'get',
  path: `${PATH}/{id}`,
  tag,
  summary: 'Show one webhook.',
  permission: read,
  params: WebhookParams,
  reply: WebhookView,
  errors: ['not_found'],
  async handle(context, { params, principal }) {
    return answerWithWebhook(context, await findVisibleWebhook(context, principal, params.id));
  },
});

const WebhookChanges = z.strictObject({
  url: WebhookUrl.optional(),
  event_types: EventTypes.optional(),
  ordering: Ordering.optional(),
  description: Description.nullable().optional(),
});

const update = route({
  id: 'updateWebhook',
  method: 'patch',
  path: `${PATH}/{id}`,
  tag,
  summary: 'Change URL, event types, ordering or description (JSON merge patch).',
  description:
    'Other event types count for what is recorded behind this change, and begin a new epoch: `sequence` ' +
    'counts from 1 again. A new URL counts at once, for what is tried again, too.',
  permission: write,
  params: WebhookParams,
  body: WebhookChanges,
  mergePatch: true,
  conditional: true,
  reply: WebhookView,
  message: 'Updated',
  errors: ['not_found', 'stale', 'target_refused'],
  example: { body: { event_types: ['*'] } },
  async handle(context, call) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await updateOnce(context, call);
      } catch (error) {
        // Somebody else was faster; unless it was asked for one state, it is decided anew on theirs.
        const isRace = error instanceof DomainError && error.code === 'stale';
        if (!isRace || call.ifMatch !== null || tries === UPDATE_TRIES_MAX) throw error;
      }
    }
  },
});

const remove = route({
  id: 'deleteWebhook',
  method: 'delete',
  path: `${PATH}/{id}`,
  tag,
  summary: 'End a subscription, and erase its URL, description and secrets.',
  description: 'When the answer is here, nothing more is posted; what was under way is recorded.',
  permission: write,
  params: WebhookParams,
  conditional: true,
  reply: z.null(),
  message: 'Deleted',
  errors: ['not_found', 'stale'],
  async handle(context, call) {
    const row = await findVisibleWebhook(context, call.principal, call.params.id);
    const { position } = await handleCommand(context.log, webhook, {
      ...webhookTarget(row),
      command: { type: 'DeleteWebhook' },
      meta: call.meta,
      commandId: call.commandId,
      ifRevision: call.ifMatch,
    });
    const isDone = await awaitEffect(context, row.id, position ?? 0n);
    const isErased = await context.projector.caughtUp(position ?? 0n, ['erasures']);
    // An answer about it that was being kept meanwhile holds its URL, too.
    await eraseIdempotentAnswers(context.pool, `webhook:${row.id}`);
    return { data: null, status: isDone && isErased ? 200 : 202 };
  },
});

export const webhookRoutes = [list, create, get, update, remove];

async function createWebhook(
  context: Context,
  { body, principal, meta, commandId }: Call<unknown, unknown, z.output<typeof NewWebhook>>,
): Promise<Answer<z.input<typeof NewWebhookView>>> {
  requireSecret(body.secret ?? null);
  const mailDomain = await mailDomainFor(context, body.mail_domain ?? null, principal);
  await requireTarget(context, body.url);
  const startAfter = await startOf(context, body.start);
  if ((await countWebhooks(context.pool)) >= WEBHOOKS_MAX) {
    throw new DomainError('state_conflict', `There are ${WEBHOOKS_MAX} webhooks already.`);
  }
  const id = await nextId(context.pool, 'webhook');
  const { secret, fingerprint } = await keepSecret(context, id, body.secret ?? null);
  const command = {
    type: 'CreateWebhook',
    data: {
      event_types: body.event_types,
      ordering: body.ordering,
      mail_domain: mailDomain === null ? null : String(mailDomain),
      start_after: startAfter === null ? null : String(startAfter),
      enabled: body.enabled,
      secret: fingerprint,
    },
    told: { url: body.url, description: body.description ?? null },
  } as const;
  const handled = await handleCommand(context.log, webhook, {
    ...webhookTarget({ id, mailDomain }),
    command,
    meta,
    commandId,
  });
  const before = madeBefore(handled, id);
  // An earlier run of this very request has made it, with a secret that was told to nobody.
  if (before !== null) await eraseCredentials(context.pool, `webhook:${id}`);
  const madeId = before === null ? id : Number(before.resource.id);
  const isDone = await awaitEffect(context, madeId, handled.position ?? 0n);
  const own = before === null ? rowAsMade({ id, mailDomain }, command, handled) : null;
  const row = (await findWebhook(context.pool, madeId)) ?? own;
  if (row === null) throw new DomainError('unavailable', 'It was made; look for it in the list.');
  return showSecret(await answerWithWebhook(context, row), {
    secret: before === null ? secret : null,
    status: isDone ? 201 : 202,
  });
}

async function updateOnce(
  context: Context,
  call: Call<{ id: number }, unknown, z.output<typeof WebhookChanges>>,
): Promise<WebhookAnswer> {
  const { params, body, principal } = call;
  // What is compared with the row must not be compared with an older one.
  await context.projector.caughtUp((await context.log.head()).position, ['webhooks']);
  const row = await findVisibleWebhook(context, principal, params.id);
  const { url = row.url, description = row.description } = body;
  if (url !== row.url) await requireTarget(context, url);
  const isSame = url === row.url && description === row.description;
  // URL and description are told together: what is not changed must be what it is now.
  const ifMatch = call.ifMatch ?? (isSame ? null : row.revision);
  return commandAsCaller(context, { ...call, ifMatch }, row, {
    type: 'UpdateWebhook',
    changes: {
      ...(body.event_types === undefined ? {} : { event_types: body.event_types }),
      ...(body.ordering === undefined ? {} : { ordering: body.ordering }),
    },
    told: isSame ? null : { url, description },
  });
}

/** The position behind which a subscription begins; null for its own event's. */
async function startOf(
  context: Context,
  start: z.output<typeof NewWebhook>['start'],
): Promise<bigint | null> {
  if (start === 'now') return null;
  if (start === 'earliest') return context.log.identity.minimumPosition - 1n;
  if ('at' in start && Date.parse(start.at) > context.clock.nowMs()) {
    throw invalid([{ path: 'start', message: 'lies in the future' }]);
  }
  return positionBefore(context, start, 'start');
}
