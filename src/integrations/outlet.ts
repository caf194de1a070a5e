import type {
  QuarantineCommand,
  TransferResult,
  VanishedHow,
} from '../domain/quarantine-language.ts';
import type { QuarantinedMessage } from '../domain/quarantined-message.ts';
import type { DisclosedMessage } from '../projections/quarantine.ts';
import type { OpenedHistory } from './quarantine-history.ts';

type Finish = Extract<QuarantineCommand, { type: 'FinishTransfer' }>;

/** What came of one try. */
export type Tried = Readonly<{
  results: readonly TransferResult[];
  replies: Finish['replies'];
  cause: Finish['cause'];
  /** It is not held any more, whatever came of it. */
  hasLeft?: boolean;
  /** With `content_gone`: what the mail server's log says of it. */
  how?: VanishedHow;
}>;

/**
 * How a message leaves the quarantine: out of the spool by our own SMTP, or by the mail server that holds it.
 * Each may be called again after a crash, at any point of what an earlier call has done.
 */
export type Outlet = Readonly<{
  /** Sends it to those who are outstanding. */
  release: (
    history: OpenedHistory,
    started: QuarantinedMessage,
    signal: AbortSignal,
  ) => Promise<Tried>;
  /** Sends it back to its sender, who gets a notice of it (RFC 3464). */
  reject: (
    history: OpenedHistory,
    started: QuarantinedMessage,
    signal: AbortSignal,
  ) => Promise<Tried>;
  /** Deletes it. Null when that is done, else what had become of it before. */
  discard: (history: OpenedHistory) => Promise<VanishedHow | null>;
}>;

export const GONE: Tried = { results: [], replies: [], cause: 'content_gone' };

/** A recipient and the number by which events mean it. */
export type Addressed = Readonly<{ recipient: number; address: string }>;

/** Numbered recipients by mail domain, as far as they are wanted; null when addresses were erased. */
export function groupsOf(
  { recipients }: DisclosedMessage,
  wanted: readonly number[],
): { mailDomain: number | null; recipients: Addressed[] }[] | null {
  let number = 0;
  const groups = recipients.map(({ mail_domain: mailDomain, addresses }) => ({
    mailDomain,
    recipients: addresses
      .map((address) => ({ recipient: number++, address }))
      .filter(({ recipient }) => wanted.includes(recipient)),
  }));
  const found = groups.reduce((sum, group) => sum + group.recipients.length, 0);
  return found === wanted.length ? groups.filter((group) => group.recipients.length > 0) : null;
}
