import type pg from 'pg';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import type { MessageSpool, MessageStore } from '../domain/message-store.ts';
import type { Announcement } from '../domain/quarantine-language.ts';
import type { WebhookDeliveries } from '../domain/webhook-delivery.ts';
import type { EventLog, EventMeta } from '../eventlog/eventlog.ts';
import type { LiveKeys } from '../projections/live-keys.ts';
import type { MailDomainHistory } from '../projections/mail-domain-history.ts';
import type { Projector } from '../projections/projector.ts';
import type { IntentKind } from '../projections/quarantine.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import type { Secrets } from '../secrets.ts';
import type { Activity } from './activity.ts';
import type { AuditTrail } from './audit-trail.ts';
import type { Cursors } from './cursor.ts';
import type { Metrics } from './metrics.ts';
import type { RateLimiter } from './rate-limiter.ts';

/** What handlers work with; made once by `main.ts`. */
export type Context = Readonly<{
  config: Config;
  clock: Clock;
  logger: Logger;
  pool: pg.Pool;
  log: EventLog;
  projector: Projector;
  liveKeys: LiveKeys;
  limiter: RateLimiter;
  activity: Activity;
  auditTrail: AuditTrail;
  cursors: Cursors;
  mailDomainHistory: MailDomainHistory;
  secrets: Secrets;
  metrics: Metrics;
  quarantine: Readonly<{
    store: MessageStore;
    /** Where mail is handed in to; null where the mail server holds it itself. */
    spool: MessageSpool | null;
    /** Null with a spool. */
    holdQueue: Readonly<{
      /** Notes durably what a filter says of mail that the hold queue will show. */
      announce: (said: Announcement) => Promise<void>;
    }> | null;
    /** Carries out what was asked of a message; resolves when it has an outcome, or after `waitMs`. */
    act: (id: string, kind: IntentKind, waitMs: number) => Promise<void>;
    /** Actions without an outcome, by kind. */
    countOpenActions: () => Promise<readonly Readonly<{ kind: string; actions: number }>[]>;
    /** A job was asked for or cancelled. */
    wakeJobs: () => void;
  }>;
  webhooks: WebhookDeliveries<WebhookRow>;
  /** The rest of a mail domain's deletion, done by a reactor. */
  finishMailDomainDeletion: (mailDomain: number, meta: EventMeta) => Promise<void>;
  /** Checks every reply against its schema: on in tests, off where it would only cost. */
  validateReplies: boolean;
  /** The server takes no further requests on the connections it has. */
  isStopping: () => boolean;
  /** Calls back when the server stops, for answers that could go on for long; returns how to forget it. */
  onStop: (cut: () => void) => () => void;
  /** What an operator should know though it keeps nobody from working. */
  warnings: () => readonly string[];
  /** Reasons why this process should get no traffic; empty when it should. */
  unready: () => Promise<readonly string[]>;
}>;
