import { toTimestamp } from '../../clock.ts';
import { type WebhookCommand, webhook, webhookTarget } from '../../domain/webhook.ts';
import { readState } from '../../eventlog/handle-command.ts';
import { route } from '../route.ts';
import { Instant } from '../schemas.ts';
import { findVisibleWebhook, tag, WebhookParams, write } from '../webhook-access.ts';
import { commandAsCaller, noteAsCaller } from '../webhook-commands.ts';
import { GivenSecret, keepSecret, requireSecret, showSecret } from '../webhook-secrets.ts';
import { maySeeResponses, NewWebhookView, WebhookView } from '../webhook-view.ts';
import { z } from '../zod.ts';

const GRACE_SECONDS_MAX = 604_800;
const GRACE_SECONDS = 86_400;

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
      return commandAsCaller(context, call, row, command);
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
    return commandAsCaller(context, call, row, { type: 'EnableWebhook', resume: from });
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
    secret: GivenSecret,
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
    const answer = await commandAsCaller(context, call, row, {
      type: 'RotateSecret',
      fingerprint,
      graceUntil: body.grace_seconds === 0 ? null : toTimestamp(grace),
      now: toTimestamp(now),
    });
    // Of a request that is run again, the first run's secret signs, and nobody was told it. The read model may be
    // behind, and a secret is told now or never.
    const { state } = await readState(context.log, webhook, webhookTarget(row).stream);
    const isOwn = state.secrets.some((one) => one.fingerprint === fingerprint);
    return showSecret(answer, { secret: isOwn ? secret : null, status: answer.status ?? 201 });
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
    const note = { type: 'webhook.pinged', data: { outcome, status } } as const;
    await noteAsCaller(context, row, { meta, commandId }, note);
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

export const webhookActionRoutes = [pause, resume, enable, rotateSecret, pingWebhook];
