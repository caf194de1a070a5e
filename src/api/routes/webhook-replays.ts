import { nextId } from '../../db/ids.ts';
import { findReplay, listReplays, type ReplayRow } from '../../db/webhook-replays.ts';
import { DomainError } from '../../domain/errors.ts';
import { webhook, webhookTarget } from '../../domain/webhook.ts';
import { handleCommand } from '../../eventlog/handle-command.ts';
import type { Context } from '../context.ts';
import { invalid } from '../input.ts';
import { LogPlace, positionBefore } from '../log-place.ts';
import { BASE_PATH } from '../paths.ts';
import { type Call, route } from '../route.ts';
import { IdText, Instant, Text } from '../schemas.ts';
import { findVisibleWebhook, read, tag, WebhookParams, write } from '../webhook-access.ts';
import { awaitEffect, commandAsCaller } from '../webhook-commands.ts';
import { EventTypes } from '../webhook-view.ts';
import { z } from '../zod.ts';

const REPLAYS_SHOWN_MAX = 1_000;
const ReplayParams = z.strictObject({ id: IdText, replay_id: IdText });

const Replay = z
  .object({
    id: z.string(),
    state: z.enum(['running', 'cancelled', 'completed']),
    from: z.string().openapi({ description: 'The first position of the range.' }),
    to: z.string().openapi({ description: 'The position behind its last one.' }),
    position: z.string().openapi({ description: 'Everything at or below it was gone through.' }),
    event_types: z.array(z.string()).nullable(),
    delivered: z.string(),
    failed: z
      .string()
      .openapi({ description: 'Given up after three tries; their attempts tell why.' }),
    created_at: Instant,
    ended_at: Instant.nullable(),
  })
  .openapi('WebhookReplay');

const NewReplay = z.strictObject({
  from: z.union([z.literal('earliest'), LogPlace]),
  to: LogPlace.optional().openapi({ description: 'The end of the log when it is left out.' }),
  event_types: EventTypes.optional().openapi({ description: 'Only these of its types.' }),
  reason: Text(1_000),
});

const create = route({
  id: 'createWebhookReplay',
  method: 'post',
  path: '/webhooks/{id}/replays',
  tag,
  summary: 'Post a range of the log again, whatever became of it the first time.',
  description:
    'From one place up to another, the last left out: a position, or the first event recorded at or behind a ' +
    'time. The same ids, the same bytes and numbers, with the header `webhook-replay`; live events go first. ' +
    'It goes on after a restart. What is posted twice by it is deduplicated by `webhook-id`. Ten can run at ' +
    'a time.',
  permission: write,
  params: WebhookParams,
  body: NewReplay,
  reply: Replay,
  message: 'Under way',
  errors: ['not_found', 'state_conflict'],
  example: {
    body: { from: { at: '2026-11-20T00:00:00Z' }, reason: 'their database was restored' },
  },
  handle: (context, call) => createReplay(context, call),
});

const list = route({
  id: 'listWebhookReplays',
  method: 'get',
  path: '/webhooks/{id}/replays',
  tag,
  summary: 'The replays of a webhook, the first first.',
  permission: read,
  params: WebhookParams,
  reply: z.array(Replay),
  errors: ['not_found'],
  async handle(context, { params, principal }) {
    const row = await findVisibleWebhook(context, principal, params.id);
    const found = await listReplays(context.pool, row.id, {
      running: false,
      limit: REPLAYS_SHOWN_MAX,
    });
    return { data: found.map(viewReplay) };
  },
});

const get = route({
  id: 'getWebhookReplay',
  method: 'get',
  path: '/webhooks/{id}/replays/{replay_id}',
  tag,
  summary: 'How far a replay is.',
  permission: read,
  params: ReplayParams,
  reply: Replay,
  errors: ['not_found'],
  example: { params: { id: 1, replay_id: 1 } },
  async handle(context, { params, principal }) {
    const row = await findVisibleWebhook(context, principal, params.id);
    return { data: viewReplay(await findKnown(context, row.id, params.replay_id)) };
  },
});

const cancel = route({
  id: 'cancelWebhookReplay',
  method: 'delete',
  path: '/webhooks/{id}/replays/{replay_id}',
  tag,
  summary: 'End a replay where it is.',
  permission: write,
  params: ReplayParams,
  reply: Replay,
  message: 'Cancelled',
  errors: ['not_found'],
  example: { params: { id: 1, replay_id: 1 } },
  async handle(context, call) {
    const { params, principal } = call;
    const row = await findVisibleWebhook(context, principal, params.id);
    const replay = await findKnown(context, row.id, params.replay_id);
    const { status } = await commandAsCaller(context, call, row, {
      type: 'CancelReplay',
      replayId: String(replay.id),
    });
    const after = await findKnown(context, row.id, params.replay_id);
    return { data: viewReplay(after), ...(status === undefined ? {} : { status }) };
  },
});

export const webhookReplayRoutes = [create, list, get, cancel];

async function createReplay(
  context: Context,
  call: Call<{ id: number }, unknown, z.output<typeof NewReplay>>,
) {
  const { params, body, principal } = call;
  const row = await findVisibleWebhook(context, principal, params.id);
  const { position: head } = await context.log.head();
  const after =
    body.from === 'earliest'
      ? context.log.identity.minimumPosition - 1n
      : await positionBefore(context, body.from, 'from');
  const end = body.to === undefined ? head : await positionBefore(context, body.to, 'to');
  if (after >= end) throw invalid([{ path: 'to', message: 'leaves no event behind from' }]);
  const types = body.event_types ?? null;
  const wanted = await nextId(context.pool, 'webhook_replay');
  const { earlier, position } = await handleCommand(context.log, webhook, {
    ...webhookTarget(row),
    command: {
      type: 'RequestReplay',
      data: {
        replay_id: String(wanted),
        after: String(after),
        until: String(end),
        event_types: types === null || types.includes('*') ? null : types,
      },
      reason: body.reason,
    },
    meta: call.meta,
    commandId: call.commandId,
  });
  // An earlier run of this very request has begun it under another number.
  const begun = earlier?.[0]?.data['replay_id'];
  const id = BigInt(typeof begun === 'string' ? begun : wanted);
  await awaitEffect(context, row.id, position ?? 0n);
  const made = await findReplay(context.pool, row.id, id);
  if (made === null) throw new DomainError('unavailable', 'It was made; look for it in the list.');
  const location = `${BASE_PATH}/webhooks/${row.id}/replays/${id}`;
  return { data: viewReplay(made), status: 202, headers: { Location: location } };
}

async function findKnown({ pool }: Context, webhookId: number, id: number): Promise<ReplayRow> {
  const found = await findReplay(pool, webhookId, BigInt(id));
  if (found === null) throw new DomainError('not_found', 'No such replay of this webhook.');
  return found;
}

const viewReplay = (replay: ReplayRow): z.input<typeof Replay> => ({
  id: String(replay.id),
  state: replay.state,
  from: String(replay.after + 1n),
  to: String(replay.until + 1n),
  position: String(replay.position),
  event_types: replay.eventTypes === null ? null : [...replay.eventTypes],
  delivered: String(replay.delivered),
  failed: String(replay.failed),
  created_at: replay.createdAt.toISOString(),
  ended_at: replay.endedAt?.toISOString() ?? null,
});
