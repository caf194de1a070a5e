import { toTimestamp } from '../../clock.ts';
import { summarizeAttempts } from '../../db/webhook-attempts.ts';
import { findCursor } from '../../db/webhook-cursors.ts';
import { countRetries } from '../../db/webhook-retries.ts';
import type { WebhookCommand } from '../../domain/webhook.ts';
import type { Context } from '../context.ts';
import { route } from '../route.ts';
import { Instant } from '../schemas.ts';
import {
  commandWebhook,
  findVisibleWebhook,
  keepSecret,
  requireSecret,
} from '../webhook-access.ts';
import { recordNote } from '../webhook-notes.ts';
import { maySeeResponses, NewWebhookView, WebhookView } from '../webhook-view.ts';
import { z } from '../zod.ts';
import { read, tag, WebhookParams, withSecret, write } from './webhooks.ts';

const GRACE_SECONDS_MAX = 604_800;
const GRACE_SECONDS = 86_400;
const DAY_MS = 86_400_000;

type Change = Readonly<{
  id: string;
  path: string;
  summary: string;
  description: string;
  message: string;
  command: WebhookCommand;
}>;

/** A change that needs no more than to be asked for. */
const change = ({ command, path, ...told }: Change) =>
  route({
    ...told,
    path: `/webhooks/{id}/${path}`,
    method: 'post',
    tag,
    permission: write,
    params: WebhookParams,
    body: z.strictObject({}),
    bodyOptional: true,
    conditional: true,
    reply: WebhookView,
    errors: ['not_found', 'stale', 'state_conflict'],
    async handle(context, call) {
      const row = await findVisibleWebhook(context, call.principal, call.params.id);
      return commandWebhook(context, call, row, command);
    },
  });

const pause = change({
  id: 'pauseWebhook',
  path: 'pause',
  summary: 'Hold deliveries; nothing is lost.',
  description: 'The cursor stays where it is. When the answer is here, nothing more is begun.',
  message: 'Paused',
  command: { type: 'PauseWebhook' },
});

const resume = change({
  id: 'resumeWebhook',
  path: 'resume',
  summary: 'Go on with everything that was held.',
  description: 'From where the cursor stands.',
  message: 'Resumed',
  command: { type: 'ResumeWebhook' },
});

const enable = route({
  id: 'enableWebhook',
  method: 'post',
  path: '/webhooks/{id}/enable',
  tag,
  summary: 'Deliver again after a webhook was disabled.',
  description:
    'Its cursor has stayed where it was. `resume: now` leaves out what came until here, and begins a new ' +
    'epoch; a replay can still fetch it.',
  permission: write,
  params: WebhookParams,
  body: z.strictObject({ resume: z.enum(['cursor', 'now']).default('cursor') }),
  bodyOptional: true,
  conditional: true,
  reply: WebhookView,
  message: 'Enabled',
  errors: ['not_found', 'stale', 'state_conflict'],
  example: { body: { resume: 'cursor' } },
  async handle(context, call) {
    const row = await findVisibleWebhook(context, call.principal, call.params.id);
    const { resume: from } = call.body;
    return commandWebhook(context, call, row, { type: 'EnableWebhook', resume: from });
  },
});

const rotateSecret = route({
  id: 'rotateWebhookSecret',
  method: 'post',
  path: '/webhooks/{id}/secret/rotate',
  tag,
  summary: 'Sign with a new secret; the answer is the only place where it is shown.',
  description:
    'The new one signs first, the old one beside it until `grace_seconds` are over (at most seven days), so ' +
    'that a receiver can change at any time between. Retries and replays are signed anew, too.',
  permission: write,
  params: WebhookParams,
  body: z.strictObject({
    grace_seconds: z.number().int().min(0).max(GRACE_SECONDS_MAX).default(GRACE_SECONDS),
    secret: z.string().max(256).nullish().openapi({
      description: '`whsec_` and 24 to 64 random bytes in base64; one is made when it is left out.',
    }),
  }),
  bodyOptional: true,
  conditional: true,
  reply: NewWebhookView,
  status: 201,
  message: 'Rotated',
  errors: ['not_found', 'stale'],
  example: { body: { grace_seconds: 3_600 } },
  async handle(context, call) {
    const { body, params, principal } = call;
    requireSecret(body.secret ?? null);
    const row = await findVisibleWebhook(context, principal, params.id);
    const { secret, fingerprint } = await keepSecret(context, row.id, body.secret ?? null);
    const now = context.clock.now();
    const grace = new Date(now.getTime() + body.grace_seconds * 1_000);
    const answer = await commandWebhook(context, call, row, {
      type: 'RotateSecret',
      fingerprint,
      graceUntil: body.grace_seconds === 0 ? null : toTimestamp(grace),
      now: toTimestamp(now),
    });
    // Of a request that is run again, the first run's secret signs, and nobody was told it.
    const isOwn = answer.data.secrets.some((one) => one.fingerprint === fingerprint);
    return withSecret(answer, { secret: isOwn ? secret : null, status: answer.status ?? 201 });
  },
});

const Ping = z
  .object({
    delivered: z.boolean(),
    outcome: z.string(),
    status: z.number().int().nullable(),
    ms: z.number().int(),
    addresses: z.array(z.string()).openapi({ description: 'What the name resolves to now.' }),
    connected_to: z.string().nullable(),
    tls: z
      .object({ protocol: z.string(), cipher: z.string(), valid_to: Instant.nullable() })
      .nullable(),
    error: z.string().nullable(),
    response: z.string().nullable(),
  })
  .openapi('WebhookPing');

const pingWebhook = route({
  id: 'pingWebhook',
  method: 'post',
  path: '/webhooks/{id}/ping',
  tag,
  summary: 'Post a signed test message now, and tell how it fared.',
  description:
    'Its type is `webhook.ping`; it is none of the events and has no `sequence`. Works for a paused or ' +
    'disabled webhook, too. Addresses and the response are told to unnarrowed `full-admin` keys alone.',
  permission: write,
  params: WebhookParams,
  body: z.strictObject({}),
  bodyOptional: true,
  reply: Ping,
  errors: ['not_found'],
  async handle(context, { params, principal, meta, commandId }) {
    const row = await findVisibleWebhook(context, principal, params.id);
    const found = await context.webhooks.ping(row);
    const { outcome, status } = found;
    await recordNote(
      context,
      row,
      { meta, commandId },
      {
        type: 'webhook.pinged',
        data: { outcome, status },
      },
    );
    const isTrusted = maySeeResponses(principal);
    return {
      subject: `webhook:${row.id}`,
      data: {
        delivered: found.delivered,
        ...{ outcome, status, ms: found.ms },
        addresses: isTrusted ? [...found.addresses] : [],
        connected_to: isTrusted ? found.connectedTo : null,
        tls:
          found.tls === null
            ? null
            : {
                protocol: found.tls.protocol,
                cipher: found.tls.cipher,
                valid_to: found.tls.validTo,
              },
        error: found.error,
        response: isTrusted ? found.excerpt : null,
      },
    };
  },
});

const Stats = z
  .object({
    position: z.string().openapi({
      description: 'Every event at or below it is delivered, or is tried again by itself.',
    }),
    head: z.string().openapi({ description: 'The last position of the log.' }),
    epoch: z.number().int(),
    sequence: z
      .number()
      .int()
      .openapi({ description: 'The number of the last event at or below.' }),
    oldest_waiting_at: Instant.nullable().openapi({
      description: 'When what comes next was recorded; null when everything was delivered.',
    }),
    retrying: z.number().int(),
    parked: z.number().int(),
    in_flight: z.number().int(),
    breaker: z.enum(['closed', 'open', 'half_open']).openapi({
      description: 'Open: the endpoint is down, and looked at now and then.',
    }),
    quiet_until: Instant.nullable().openapi({ description: 'The receiver has asked for it.' }),
    last_day: z.array(
      z.object({
        outcome: z.string(),
        attempts: z.number().int(),
        p50_ms: z.number().int(),
        p99_ms: z.number().int(),
      }),
    ),
  })
  .openapi('WebhookStats');

const stats = route({
  id: 'getWebhookStats',
  method: 'get',
  path: '/webhooks/{id}/stats',
  tag,
  summary: 'Where a webhook stands, how far behind it is, and how its endpoint has answered.',
  permission: read,
  params: WebhookParams,
  reply: Stats,
  errors: ['not_found'],
  async handle(context, { params, principal }) {
    const row = await findVisibleWebhook(context, principal, params.id);
    return { data: await statsOf(context, row) };
  },
});

async function statsOf(
  context: Context,
  row: Awaited<ReturnType<typeof findVisibleWebhook>>,
): Promise<z.input<typeof Stats>> {
  const { pool, log, clock, webhooks } = context;
  const now = clock.nowMs();
  const [cursor, retries, head, oldest, lastDay] = await Promise.all([
    findCursor(pool, row.id),
    countRetries(pool, row.id),
    log.head(),
    webhooks.oldestWaiting(row),
    summarizeAttempts(pool, row.id, new Date(now - DAY_MS)),
  ]);
  const running = webhooks
    .subscriptions()
    .find(({ id }) => id === row.id)
    ?.status();
  const quietUntil = cursor?.quietUntil ?? null;
  const breaker = running?.breaker ?? cursor?.breaker['state'];
  return {
    position: String(running?.position ?? cursor?.place.position ?? row.epochs[0]?.after ?? 0n),
    head: String(head.position),
    epoch: cursor?.place.epoch ?? 1,
    sequence: cursor?.place.sequence ?? 0,
    oldest_waiting_at: oldest,
    ...retries,
    in_flight: running?.inFlight ?? 0,
    breaker: breaker === 'open' || breaker === 'half_open' ? breaker : 'closed',
    quiet_until: quietUntil !== null && quietUntil.getTime() > now ? toTimestamp(quietUntil) : null,
    last_day: lastDay.map(({ outcome, attempts, p50, p99 }) => ({
      ...{ outcome, attempts, p50_ms: p50, p99_ms: p99 },
    })),
  };
}

export const webhookActionRoutes = [pause, resume, enable, rotateSecret, pingWebhook, stats];
