import type { ApiKeyEvent } from './api-key.ts';
import type { DomainEvent, PersonalClass } from './decider.ts';
import type { MailDomainEvent } from './mail-domain.ts';

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
  | ApiKeyUsed
  | ApiKeyDenied
  | AuditRead
  | AuditExported;

type Described = Readonly<{
  schemaVersion: number;
  /** Personal members of `data`; an event commits all of them or none. */
  personal: Readonly<Record<string, PersonalClass>>;
}>;

const plain: Described = { schemaVersion: 1, personal: {} };

/** The catalogue: what a reader may know of a type without seeing one of its events. */
export const EVENT_TYPES: Readonly<Record<GatewayEvent['type'], Described>> = {
  'api_key.created': plain,
  'api_key.updated': plain,
  'api_key.rotated': plain,
  'api_key.revoked': { schemaVersion: 1, personal: { reason: 'content' } },
  'api_key.expired': plain,
  'api_key.deleted': plain,
  'api_key.used': { schemaVersion: 1, personal: { addresses: 'network' } },
  'api_key.denied': { schemaVersion: 1, personal: { addresses: 'network' } },
  'mail_domain.created': { schemaVersion: 1, personal: { backend_servers: 'identity' } },
  'mail_domain.updated': { schemaVersion: 1, personal: { backend_servers: 'identity' } },
  'mail_domain.deleted': plain,
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
export const ERASING_TYPES: readonly GatewayEvent['type'][] = ['api_key.deleted'];
