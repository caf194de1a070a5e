import type { DomainEvent, PersonalMember } from './decider.ts';

export const REASONS = [
  'spam',
  'phishing',
  'sandbox',
  'rbl',
  'virus',
  'policy',
  'unscanned',
] as const;
/** Why a message is held; `unscanned` when nobody has looked at it, which is not a score of 0. */
export type Reason = (typeof REASONS)[number];

export const STORES = ['spool', 'postfix'] as const;
/** Where the bytes are: in our own files, or in the hold queue of the mail server. */
export type Store = (typeof STORES)[number];

export const HELD_BY = ['filter', 'filter_down', 'rule', 'hand', 'unknown'] as const;
/**
 * Who put a message into the hold queue: the filter's answer, the mail server since the filter was not there, one
 * of its rules, or somebody at its console; as far as its log tells.
 */
export type HeldBy = (typeof HELD_BY)[number];

/** The file of a held message: what tells a queue id that is used again from the one that was meant. */
export type QueueFile = Readonly<{
  /** In bytes; not the message's, of which the file says more than its text. */
  size: number;
  /** Seconds since 1970 with their fraction, as the file system has it. */
  mtime: string;
}>;

/** What is fixed when a message is taken in. Recipients are counted here and named in personal members. */
export type AddedData = Readonly<{
  node_id: string;
  queue_id: string;
  store: Store;
  /** Both of the hold queue alone. */
  queue_file?: QueueFile;
  held_by?: HeldBy;
  size_bytes: number;
  sha256: string;
  score: number | null;
  symbols: readonly string[];
  reason: Reason;
  arrived_at: string;
  expires_at: string;
  /** In the order of the disclosed recipients; null for those of no known mail domain. */
  recipients_of: readonly Readonly<{ mail_domain: string | null; count: number }>[];
}>;

/** How one recipient fared; `recipient` counts from 0 in the order of `quarantine.added`. */
export type TransferResult = Readonly<{
  recipient: number;
  /** `unknown`: the connection was lost after the whole message was sent, so it may have arrived. */
  outcome: 'accepted' | 'deferred' | 'refused' | 'unknown';
  /** The SMTP reply code; null when there was no reply. */
  code: number | null;
}>;

/**
 * Sender filters that come with an action: one, one per mail domain or one per recipient, as the scope
 * says. Their ids are given out before, so that each is made once.
 */
export type FilterWish = Readonly<{
  filter_ids: readonly string[];
  scope: 'recipient' | 'mail_domain' | 'global';
  expires_at: string | null;
}>;

type Nothing = Readonly<Record<string, never>>;
type Attempt = Readonly<{ attempt: number; recipients: readonly number[] }>;
type Ended = Readonly<{ attempt: number; results: readonly TransferResult[] }>;
/** `has_left`: the mail server has it and goes on by itself; it is looked at again then. */
type Deferred = Ended & Readonly<{ retry_at: string; has_left?: true }>;
type Failed = Ended & Readonly<{ cause: FailureCause }>;

/** Why an action that needed another server ended without it. */
export type FailureCause = 'refused' | 'gave_up' | 'no_route' | 'content_gone';

export const VANISHED_HOW = ['released', 'removed', 'requeued', 'bounced', 'unknown'] as const;
/** What became of a message that left its store and was not asked to: as the mail server's log has it. */
export type VanishedHow = (typeof VANISHED_HOW)[number];

/** What a filter found in a message. */
export type Scan = Readonly<{ score: number | null; symbols: readonly string[]; reason: Reason }>;

/** What a filter says of a message that its mail server holds, or is about to hold. */
export type Announcement = Scan & Readonly<{ queueId: string; clientIp: string | null }>;

export const TRAINING_CLASSES = ['spam', 'ham'] as const;
export type TrainingClass = (typeof TRAINING_CLASSES)[number];
export type TrainingOutcome = 'learned' | 'already_known' | 'refused' | 'unavailable';

export type QuarantineEvent =
  | DomainEvent<'quarantine.added', AddedData>
  /** `recipients` null: all of them. */
  | DomainEvent<
      'quarantine.release_requested',
      Readonly<{ recipients: readonly number[] | null; allow_sender: FilterWish | null }>
    >
  /** Recorded before the first byte is sent: a start without an end may have been delivered. */
  | DomainEvent<'quarantine.release_started', Attempt>
  | DomainEvent<'quarantine.release_interrupted', Attempt>
  | DomainEvent<'quarantine.release_deferred', Deferred>
  | DomainEvent<'quarantine.release_failed', Failed>
  /** Some recipients were asked for and have it; the message is held for the others. */
  | DomainEvent<'quarantine.partly_released', Ended>
  | DomainEvent<'quarantine.released', Ended>
  /** The mail server has let it go and could not deliver it to all; it has told the sender. */
  | DomainEvent<'quarantine.undelivered', Ended>
  | DomainEvent<'quarantine.discard_requested', Readonly<{ block_sender: FilterWish | null }>>
  | DomainEvent<'quarantine.discarded', Nothing>
  | DomainEvent<'quarantine.reject_requested', Nothing>
  | DomainEvent<'quarantine.reject_started', Attempt>
  | DomainEvent<'quarantine.reject_interrupted', Attempt>
  | DomainEvent<'quarantine.reject_deferred', Deferred>
  | DomainEvent<'quarantine.reject_failed', Failed>
  | DomainEvent<'quarantine.rejected', Ended>
  | DomainEvent<'quarantine.retrain_requested', Readonly<{ class: TrainingClass }>>
  | DomainEvent<
      'quarantine.retrained' | 'quarantine.retrain_failed',
      Readonly<{ class: TrainingClass; outcome: TrainingOutcome; status: number | null }>
    >
  /** The filter's findings came after the message was taken in. */
  | DomainEvent<'quarantine.scanned', Scan>
  | DomainEvent<'quarantine.expired', Nothing>
  /** `how` is there where the mail server was asked; whoever did it, it was not this gateway. */
  | DomainEvent<'quarantine.vanished', Readonly<{ how?: VanishedHow }>>
  | DomainEvent<'quarantine.content_read', Readonly<{ what: 'body' | 'preview' }>>;

/** How one try ended; a rejection has one result, of its bounce to the sender. */
type Transfer = Readonly<{
  attempt: number;
  results: readonly TransferResult[];
  /** Servers' words and addresses, for people. */
  replies: readonly Readonly<{ recipient: string; server: string | null; reply: string }>[];
  now: string;
  /** The mail server has it and goes on by itself: it is not held any more, whatever came of it. */
  hasLeft?: boolean;
  /** Known without asking a server. */
  cause: FailureCause | null;
}>;

export type QuarantineCommand =
  | Readonly<{ type: 'AddMessage'; data: AddedData; personal: readonly PersonalMember[] }>
  | Readonly<{
      type: 'RequestRelease';
      recipients: readonly number[] | null;
      allowSender: FilterWish | null;
      reason: string | null;
    }>
  | Readonly<{ type: 'RequestDiscard'; blockSender: FilterWish | null; reason: string | null }>
  | Readonly<{ type: 'RequestReject'; reason: string | null }>
  | Readonly<{ type: 'RequestRetrain'; class: TrainingClass }>
  | Readonly<{ type: 'StartTransfer' }>
  | Readonly<{ type: 'FinishTransfer' } & Transfer>
  | Readonly<{ type: 'FinishDiscard' }>
  | Readonly<{
      type: 'FinishRetrain';
      class: TrainingClass;
      outcome: TrainingOutcome;
      status: number | null;
    }>
  | Readonly<{ type: 'Expire' }>
  | Readonly<{ type: 'NoteScan'; scan: Scan }>
  | Readonly<{ type: 'Vanish'; how?: VanishedHow }>;
