import type { ApiKeyEvent } from './api-key.ts';
import type { DomainEvent, PersonalClass } from './decider.ts';
import type { MailDomainEvent } from './mail-domain.ts';
import type { QuarantineBulkEvent } from './quarantine-bulk.ts';
import type { QuarantineEvent } from './quarantine-language.ts';
import type { SenderFilterEvent } from './sender-filter.ts';
import type { WebhookEvent } from './webhook.ts';

/** Use of one key in one minute (or, for requests under `/audit`, one hour): `[from, to)`. */
export type ApiKeyUsed = DomainEvent<
  'api_key.used',
  Readonly<{
    kind: 'requests' | 'audit_reads';
    from: string;
    to: string;
    first: string;
    last: string;
    requests: number;
    by_outcome: Readonly<Record<string, number>>;
  }>
>;

/** Refused requests of one reason in one minute, from one key or, without one, one network. */
export type ApiKeyDenied = DomainEvent<
  'api_key.denied',
  Readonly<{ reason: string; from: string; to: string; first: string; last: string; count: number }>
>;

/** The first read of the audit log by one reader in one hour. */
type AuditRead = DomainEvent<'audit.read', Readonly<{ hour: string }>>;

/** The end of one export, whole or cut; its filter is the reader's own text, so it is personal. */
export type AuditExported = DomainEvent<
  'audit.exported',
  Readonly<{
    form: string;
    count: number;
    first_position: string | null;
    last_position: string | null;
    ended: 'complete' | 'cut';
  }>
>;

/** Every event that this release writes. */
export type GatewayEvent =
  | ApiKeyEvent
  | MailDomainEvent
  | QuarantineEvent
  | QuarantineBulkEvent
  | SenderFilterEvent
  | WebhookEvent
  | ApiKeyUsed
  | ApiKeyDenied
  | AuditRead
  | AuditExported;

type Described = Readonly<{
  schemaVersion: number;
  /** Of a type that is a failure whoever was asked; otherwise it is the command's. */
  outcome?: 'failure';
  /** Personal members of `data`; an event commits all of them or none. */
  personal: Readonly<Record<string, PersonalClass>>;
}>;

const plain: Described = { schemaVersion: 1, personal: {} };
const withReason: Described = { schemaVersion: 1, personal: { reason: 'content' } };
const withReplies: Described = { schemaVersion: 1, personal: { replies: 'content' } };
const withAddresses: Described = { schemaVersion: 1, personal: { allowed_cidrs: 'identity' } };
const webhookTold: Described = {
  schemaVersion: 1,
  personal: { url: 'identity', description: 'identity' },
};
const failure = { outcome: 'failure' } as const;

/** The catalogue: what a reader may know of a type without seeing one of its events. */
export const EVENT_TYPES: Readonly<Record<GatewayEvent['type'], Described>> = {
  'api_key.created': withAddresses,
  'api_key.updated': withAddresses,
  'api_key.rotated': plain,
  'api_key.revoked': withReason,
  'api_key.expired': plain,
  'api_key.deleted': plain,
  'api_key.used': { schemaVersion: 1, personal: { addresses: 'network' } },
  'api_key.denied': { schemaVersion: 1, personal: { addresses: 'network' } },
  'mail_domain.created': { schemaVersion: 1, personal: { backend_servers: 'identity' } },
  'mail_domain.updated': { schemaVersion: 1, personal: { backend_servers: 'identity' } },
  'mail_domain.deleted': plain,
  'quarantine.added': {
    schemaVersion: 1,
    // Recipients are sealed once per mail domain, as `recipients.7`; readers get them as one member.
    personal: {
      sender: 'content',
      subject: 'content',
      message_id: 'content',
      client_ip: 'network',
      recipients: 'content',
    },
  },
  'quarantine.release_requested': withReason,
  'quarantine.release_started': plain,
  'quarantine.release_interrupted': plain,
  'quarantine.release_deferred': withReplies,
  'quarantine.release_failed': { ...withReplies, ...failure },
  'quarantine.partly_released': withReplies,
  'quarantine.released': withReplies,
  'quarantine.undelivered': { ...withReplies, ...failure },
  'quarantine.discard_requested': withReason,
  'quarantine.discarded': plain,
  'quarantine.reject_requested': withReason,
  'quarantine.reject_started': plain,
  'quarantine.reject_interrupted': plain,
  'quarantine.reject_deferred': withReplies,
  'quarantine.reject_failed': { ...withReplies, ...failure },
  'quarantine.rejected': withReplies,
  'quarantine.retrain_requested': plain,
  'quarantine.retrained': plain,
  'quarantine.retrain_failed': { ...plain, ...failure },
  'quarantine.scanned': plain,
  'quarantine.expired': plain,
  'quarantine.vanished': plain,
  'quarantine.content_read': plain,
  'quarantine.bulk_requested': {
    schemaVersion: 1,
    personal: { reason: 'content', filter: 'content' },
  },
  'quarantine.bulk_cancelled': plain,
  'quarantine.bulk_ended': plain,
  'sender_filter.created': {
    schemaVersion: 1,
    personal: { sender: 'identity', recipient: 'identity' },
  },
  'sender_filter.deleted': plain,
  'sender_filter.expired': plain,
  'webhook.created': webhookTold,
  'webhook.updated': webhookTold,
  'webhook.secret_rotated': plain,
  'webhook.paused': plain,
  'webhook.resumed': plain,
  'webhook.disabled': { ...plain, ...failure },
  'webhook.enabled': plain,
  'webhook.failing': { ...plain, ...failure },
  'webhook.recovered': plain,
  'webhook.backlog': { ...plain, ...failure },
  'webhook.pinged': plain,
  'webhook.event_parked': { ...plain, ...failure },
  'webhook.resend_requested': plain,
  'webhook.replay_requested': withReason,
  'webhook.replay_cancelled': plain,
  'webhook.replay_ended': plain,
  'webhook.deleted': plain,
  'audit.read': plain,
  'audit.exported': { schemaVersion: 1, personal: { filter: 'content' } },
};

/** The types whose events may set a subject's names, and so have disclosures in its row. */
export const NAMING_TYPES: readonly GatewayEvent['type'][] = [
  'api_key.created',
  'api_key.updated',
  'mail_domain.created',
];

/** After these, everything of class identity about the event's resource is erased. */
export const ERASING_TYPES: readonly GatewayEvent['type'][] = [
  'api_key.deleted',
  'webhook.deleted',
];
