import { z } from 'zod';
import { SCOPES } from '../domain/access.ts';
import type { GatewayEvent } from '../domain/events.ts';
import { DIRECTIONS } from '../domain/mail-domain.ts';
import { BULK_ACTIONS } from '../domain/quarantine-bulk.ts';
import {
  type FailureCause,
  REASONS,
  TRAINING_CLASSES,
  type TrainingOutcome,
  type TransferResult,
  VANISHED_HOW,
} from '../domain/quarantine-language.ts';
import { FILTER_KINDS, FILTER_SCOPES } from '../domain/sender-filter.ts';

/** An instant as the log writes it. */
export const Instant = z
  .string()
  .regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/)
  .meta({
    id: 'WebhookInstant',
    format: 'date-time',
    description: 'RFC 3339 in UTC, with six digits of a second.',
    examples: ['2026-05-01T07:42:13.004211Z'],
  });
/** The id of a resource, whatever its kind. */
export const Id = z
  .string()
  .min(1)
  .meta({ examples: ['43'] });
/** What an event is about, or who did it. */
export const ResourceRef = z
  .strictObject({ type: z.string().meta({ examples: ['api_key'] }), id: Id })
  .meta({ id: 'WebhookReference', description: 'A resource or a caller, by kind and id.' });

const Count = z
  .int()
  .min(0)
  .meta({ examples: [3] });
const Counts = z.record(z.string(), Count);
const MessageId = Id.meta({ examples: ['019683b4-9e40-7c21-9d3a-5b1f0e7a4c66'] });
// The domain has these as types alone; a word that is added there does not compile until it stands here.
type Words<Word extends string> = Readonly<{ [W in Word]: W }>;
const OUTCOMES: Words<TransferResult['outcome']> = {
  accepted: 'accepted',
  deferred: 'deferred',
  refused: 'refused',
  unknown: 'unknown',
};
const CAUSES: Words<FailureCause> = {
  refused: 'refused',
  gave_up: 'gave_up',
  no_route: 'no_route',
  content_gone: 'content_gone',
};
const TRAINED: Words<TrainingOutcome> = {
  learned: 'learned',
  already_known: 'already_known',
  refused: 'refused',
  unavailable: 'unavailable',
};

const Recipients = z.array(Count).meta({
  id: 'WebhookRecipients',
  description:
    'Which recipients, counted from 0 in the order of the message. Absent for a subscription that is ' +
    'narrowed to a mail domain.',
  examples: [[0, 2]],
});
const Result = z
  .strictObject({
    recipient: Count.meta({ description: 'Counted from 0 in the order of the message.' }),
    outcome: z.enum(OUTCOMES).meta({
      description: '`unknown`: the connection was lost after the message, which may have arrived.',
    }),
    code: z
      .int()
      .nullable()
      .meta({ description: 'The SMTP reply code; null without a reply.', examples: [250] }),
  })
  .meta({ id: 'WebhookTransferResult' });
const Results = z.array(Result).meta({
  id: 'WebhookTransferResults',
  description:
    'How each recipient fared; of a rejection one, of its bounce to the sender. Absent for more than ' +
    '300 recipients, and for a subscription that is narrowed to a mail domain.',
});
const FilterWish = z
  .strictObject({
    filter_ids: z.array(Id).meta({ description: 'The filters that will be made.' }),
    scope: z.enum(FILTER_SCOPES),
    expires_at: Instant.nullable(),
  })
  .meta({ id: 'WebhookFilterWish', description: 'Sender filters that come with the action.' });
const Settings = z
  .strictObject({
    direction: z.enum(DIRECTIONS),
    active: z.boolean(),
    quarantine_threshold: z.number().meta({ examples: [12] }),
    reject_threshold: z.number().meta({ examples: [18] }),
    dkim_active: z.boolean(),
    dmarc_reporting: z.boolean(),
    tenant_id: z.string().nullable(),
    quarantine_retention_days: Count.meta({ examples: [30] }),
  })
  .meta({ id: 'WebhookMailDomainSettings', description: 'All settings, as they are from now on.' });

const Attempt = Count.meta({ description: 'Counted from 1 in this action.', examples: [1] });
const attempt = { attempt: Attempt, recipients: Recipients.optional() };
const ended = { attempt: Attempt, results: Results.optional() };
const deferred = { ...ended, retry_at: Instant };
const failed = { ...ended, cause: z.enum(CAUSES) };
const training = { class: z.enum(TRAINING_CLASSES) };
const trained = {
  ...training,
  training_outcome: z.enum(TRAINED),
  status: z
    .int()
    .nullable()
    .meta({ description: 'The HTTP status of rspamd.', examples: [200] }),
};
const limits = {
  rate_limit_per_minute: Count.meta({ examples: [100] }),
  expires_at: Instant.nullable(),
};
const span = {
  from: Instant.meta({ description: 'Where the summed span begins.' }),
  to: Instant.meta({ description: 'Where it ends; not part of it.' }),
  first: Instant,
  last: Instant,
};
const scan = {
  score: z
    .number()
    .nullable()
    .meta({ description: 'Null: nobody scored it.', examples: [17.35] }),
  symbols: z.array(z.string()).meta({ description: 'The first 100.', examples: [['BAYES_SPAM']] }),
  reason: z.enum(REASONS),
};
const added = {
  node_id: Id.meta({ examples: ['node-1'] }),
  queue_id: Id.meta({ examples: ['4F2A8C0D'] }),
  size_bytes: Count.meta({ examples: [48_213] }),
  sha256: z.string().meta({
    description: 'Of the message, in hex.',
    examples: ['9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'],
  }),
  ...scan,
  arrived_at: Instant,
  expires_at: Instant,
  recipients: Count.meta({
    description: 'How many; for a subscription that is narrowed to a mail domain, of that one.',
  }),
};

/** What a subscriber is told of one event type, and in which members of `data`. */
export type Described = Readonly<{ description: string; data: z.ZodObject }>;

/** What a subscriber is told of a type in these members. */
export const event = (description: string, shape: z.core.$ZodShape = {}): Described => ({
  description,
  data: z.strictObject(shape),
});

/** Told to nobody: what is known of the subscriptions, of reading, and of sessions. */
type Withheld = `${'webhook' | 'audit' | 'checkpoint' | 'session'}.${string}`;

/** Every event that this release writes and subscribers may have: one that is missing does not compile. */
export const RAISED: Readonly<Record<Exclude<GatewayEvent['type'], Withheld>, Described>> = {
  'api_key.created': event('An API key was created.', {
    scope: z.enum(SCOPES),
    mail_domain: Id.nullable().meta({ description: 'The one it is narrowed to.' }),
    ...limits,
    owner: ResourceRef,
    predecessor: Id.nullable().meta({ description: 'The key that it takes over from.' }),
    restricted: z.boolean().optional().meta({
      description: 'True: it may be used from some addresses alone. Absent: from anywhere.',
    }),
  }),
  'api_key.updated': event(
    'The name, rate limit, expiry or addresses of an API key were changed.',
    {
      ...limits,
      restricted: z.boolean().optional().meta({
        description:
          'True: it may be used from other addresses than before; false: from anywhere. Absent: as before.',
      }),
    },
  ),
  'api_key.rotated': event('An API key got a successor, and works until its grace has passed.', {
    successor: Id.meta({ examples: ['44'] }),
    grace_until: Instant,
  }),
  'api_key.revoked': event('An API key was made invalid.'),
  'api_key.expired': event('An API key reached its expiry.', { expired_at: Instant }),
  'api_key.deleted': event('An API key was deleted, and its name erased.'),
  'api_key.used': event('An API key was used, summed for a minute or an hour.', {
    kind: z.enum(['requests', 'audit_reads']),
    ...span,
    requests: Count,
    by_outcome: Counts.meta({ examples: [{ success: 3 }] }),
  }),
  'api_key.denied': event('Requests were refused for one reason, summed for a minute.', {
    reason: z.string().meta({ examples: ['revoked'] }),
    ...span,
    count: Count,
  }),
  'mail_domain.created': event('A mail domain is protected.', { settings: Settings }),
  'mail_domain.updated': event('Settings of a mail domain were changed.', { settings: Settings }),
  'mail_domain.deleted': event('A mail domain is no longer protected.'),
  'quarantine.added': event('A message was put into the quarantine.', added),
  'quarantine.release_requested': event('The release of a held message was asked for.', {
    recipients: Recipients.nullable()
      .optional()
      .meta({ description: 'Null: all of them. Absent for a subscription that is narrowed.' }),
    allow_sender: FilterWish.nullable(),
  }),
  'quarantine.release_started': event('A held message is about to be sent on.', attempt),
  'quarantine.release_interrupted': event(
    'A try to send a held message on has no known end, so some may have it.',
    attempt,
  ),
  'quarantine.release_deferred': event('A release did not succeed yet and is retried.', deferred),
  'quarantine.release_failed': event('A release failed; the message is still held.', failed),
  'quarantine.partly_released': event(
    'Some recipients have the message; it is held for the others.',
    ended,
  ),
  'quarantine.released': event('Every recipient of a held message has it.', ended),
  'quarantine.undelivered': event(
    'The mail server let a held message go and could not deliver it to all; it told the sender.',
    ended,
  ),
  'quarantine.discard_requested': event('The discard of a held message was asked for.', {
    block_sender: FilterWish.nullable(),
  }),
  'quarantine.discarded': event('A held message was removed without being delivered.'),
  'quarantine.reject_requested': event('The rejection of a held message was asked for.'),
  // Whom the message was for says nothing of its bounce, so `recipients` stays out.
  'quarantine.reject_started': event('A bounce is about to be sent.', { attempt: Attempt }),
  'quarantine.reject_interrupted': event(
    'A try to send a bounce has no known end, so the sender may have it.',
    { attempt: Attempt },
  ),
  'quarantine.reject_deferred': event('A bounce was not taken yet and is retried.', deferred),
  'quarantine.reject_failed': event('A rejection failed; the message is still held.', failed),
  'quarantine.rejected': event('A held message was bounced to its sender and removed.', ended),
  'quarantine.retrain_requested': event('The filter is to learn from a held message.', training),
  'quarantine.retrained': event('The filter has learned from a held message.', trained),
  'quarantine.retrain_failed': event('The filter did not learn from a held message.', trained),
  'quarantine.scanned': event('The findings of the filter came after a message was held.', scan),
  'quarantine.expired': event('A held message reached the end of its retention.'),
  'quarantine.vanished': event(
    'A held message is gone from its store, by no doing of this gateway.',
    {
      how: z
        .enum(VANISHED_HOW)
        .optional()
        .meta({ description: 'What the log of the mail server says; absent where there is none.' }),
    },
  ),
  'quarantine.content_read': event('The content of a held message was looked at.', {
    what: z.enum(['body', 'preview']),
  }),
  'quarantine.bulk_requested': event('One action on many held messages was asked for.', {
    action: z.enum(BULK_ACTIONS),
    class: z.enum(TRAINING_CLASSES).nullable(),
    dry_run: z.boolean(),
    messages: Count,
    by: z.enum(['ids', 'filter']).meta({ description: 'How they were chosen.' }),
  }),
  'quarantine.bulk_cancelled': event('The rest of a bulk action was called off.'),
  'quarantine.bulk_ended': event('A bulk action has ended.', {
    counts: Counts.meta({ description: 'Messages by outcome.', examples: [{ done: 3 }] }),
  }),
  'sender_filter.created': event('A sender is let through, or is not, from now on.', {
    kind: z.enum(FILTER_KINDS),
    scope: z.enum(FILTER_SCOPES),
    mail_domain: Id.nullable().meta({ description: 'Null for a global one.' }),
    expires_at: Instant.nullable(),
    made_by: MessageId.nullable().meta({ description: 'The message whose action made it.' }),
  }),
  'sender_filter.deleted': event('A sender filter was deleted.'),
  'sender_filter.expired': event('A sender filter reached its expiry.'),
};
