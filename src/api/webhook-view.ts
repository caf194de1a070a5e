import type { Attempt } from '../db/webhook-attempts.ts';
import { isNarrowed, type Principal } from '../domain/access.ts';
import { DISABLE_CAUSES, ORDERINGS } from '../domain/webhook.ts';
import { isWebhookType, WEBHOOK_TYPES } from '../projections/webhook-catalogue.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import type { Context } from './context.ts';
import { Id, Instant, Text } from './schemas.ts';
import { z } from './zod.ts';

const URL_CHARACTERS_MAX = 2_048;
const ALL_TYPES = '*';

/** Types of the catalogue without repetition, or the star alone. */
export const EventTypes = z
  .array(z.string())
  .min(1)
  .max(WEBHOOK_TYPES.length)
  .refine((types) => new Set(types).size === types.length, 'must name each type once')
  .refine(
    (types) => !types.includes(ALL_TYPES) || types.length === 1,
    '* takes all types, and stands alone',
  )
  .superRefine((types, context) => {
    for (const [index, type] of types.entries()) {
      if (type === ALL_TYPES || isWebhookType(type)) continue;
      const message = 'is not an event type; see /webhook-event-types';
      context.addIssue({ code: 'custom', message, path: [index] });
    }
  })
  .openapi({ description: 'Types of the catalogue, or `["*"]` for all of them.' });

export const WebhookUrl = Text(URL_CHARACTERS_MAX).openapi({
  description: 'Where events are posted to. `https`, and an address that is public.',
});
export const Description = Text(1_000);
export const Ordering = z.enum(ORDERINGS).openapi({
  description:
    '`none`: as fast as it goes, in order where nothing fails. `key`: events of one stream one after the ' +
    'other; one that fails holds up its own stream alone. `strict`: all of them one after the other, in the ' +
    'order of the log; one that fails holds up all that follow, is tried again at least each quarter of an ' +
    'hour, and is parked after three days, so that it cannot hold them up for ever. A replay goes beside it, with ' +
    'an order of its own; what is resent waits for its turn. After a crash an event may arrive a second time behind ' +
    'later ones: tell by `sequence`.',
});

/** A subscription as callers see it; its secret is in none of these members. */
export const WebhookView = z
  .object({
    id: Id,
    url: z.string(),
    description: z.string().nullable(),
    event_types: z.array(z.string()),
    mail_domain: z.string().nullable().openapi({ description: 'Null: events of all.' }),
    ordering: Ordering,
    enabled: z.boolean().openapi({ description: 'True while events are delivered.' }),
    status: z.enum(['active', 'paused', 'disabled']),
    disabled_cause: z
      .enum(DISABLE_CAUSES)
      .nullable()
      .openapi({
        description:
          '`gone`: it answered 410. `receiver`: it asked for it. `outage`: nothing arrived for five days. ' +
          '`config`: its address is not one that may be called.',
      }),
    epoch: z.number().int().openapi({ description: 'In which `sequence` counts now.' }),
    secrets: z
      .array(z.object({ fingerprint: z.string(), until: Instant.nullable() }))
      .openapi({ description: 'Which secrets sign, the newest first; never the secrets.' }),
    failing_since: Instant.nullable(),
    created_at: Instant,
    updated_at: Instant,
  })
  .openapi('WebhookSubscription');

/** A subscription right after it was made, or its secret was: the only answers that hold it. */
export const NewWebhookView = WebhookView.extend({
  secret: z.string().optional().openapi({ description: 'Told once. A replayed answer omits it.' }),
}).openapi('NewWebhookSubscription');

/** Rows with the names of their mail domains. */
export async function viewWebhooks(
  { log, clock }: Context,
  rows: readonly WebhookRow[],
): Promise<z.input<typeof WebhookView>[]> {
  const ids = new Set(rows.flatMap(({ mailDomain }) => mailDomain ?? []));
  const names = await log.readNames([...ids].map((id) => `mail_domain:${id}`));
  const now = clock.now().toISOString();
  return rows.map((row) => {
    const epoch = row.epochs.at(-1);
    return {
      id: row.id,
      url: row.url,
      description: row.description,
      event_types: [...(epoch?.eventTypes ?? [])],
      mail_domain: names.get(`mail_domain:${row.mailDomain}`)?.name ?? null,
      ordering: row.ordering,
      enabled: row.status === 'active',
      status: row.status,
      disabled_cause: row.cause,
      epoch: epoch?.epoch ?? 1,
      secrets: row.secrets
        .filter(({ until }) => until === null || until > now)
        .map(({ fingerprint, until }) => ({ fingerprint, until })),
      failing_since: row.failingSince,
      created_at: row.createdAt,
      updated_at: row.updatedAt,
    };
  });
}

/** One HTTP try as callers see it. */
export const AttemptView = z
  .object({
    started_at: Instant,
    kind: z.enum(['live', 'retry', 'probe', 'replay', 'ping']),
    attempt: z.number().int(),
    outcome: z.string().openapi({
      description:
        '`delivered`, `http_error`, `redirect`, `rate_limited`, `busy`, `gone`, `aborted_by_receiver`, ' +
        '`timeout`, `dns`, `connect`, `tls`, `certificate`, `blocked`, `no_answer`; or `unknown`: the ' +
        'sender ended in the middle, so it may have arrived.',
    }),
    status: z.number().int().nullable(),
    ms: z.number().int(),
    body_sha256: z.string().nullable().openapi({ description: 'Of the exact bytes, in hex.' }),
    signed_by: z.array(z.string()).openapi({ description: 'Fingerprints of the secrets.' }),
    peer: z.string().nullable().openapi({
      description: 'The address that answered, for unnarrowed `full-admin` keys alone.',
    }),
    replay_id: z.string().nullable(),
    error: z.string().nullable().openapi({ description: 'What the system calls it.' }),
    response: z.string().nullable().openapi({
      description: 'The beginning of a refusal, for unnarrowed `full-admin` keys alone.',
    }),
  })
  .openapi('WebhookAttempt');

export const viewAttempt = (
  attempt: Attempt,
  principal: Principal,
): z.input<typeof AttemptView> => ({
  started_at: attempt.startedAt.toISOString(),
  kind: attempt.kind,
  attempt: attempt.tries,
  outcome: attempt.outcome,
  status: attempt.status,
  ms: attempt.ms,
  body_sha256: attempt.bodySha256?.toString('hex') ?? null,
  signed_by: attempt.signedBy?.split(' ').filter((part) => part !== '') ?? [],
  peer: maySeeResponses(principal) ? attempt.peer : null,
  replay_id: attempt.replayId === null ? null : String(attempt.replayId),
  error: attempt.error,
  response: maySeeResponses(principal) ? attempt.excerpt : null,
});

/** What a receiver says is the read half of a forged request: only for those who could call it themselves. */
export const maySeeResponses = (principal: Principal): boolean =>
  principal.scope === 'full-admin' && !isNarrowed(principal);
