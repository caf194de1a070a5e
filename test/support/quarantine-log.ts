import { randomUUID } from 'node:crypto';
import type { AddedData, QuarantineCommand } from '../../src/domain/quarantine-language.ts';
import {
  quarantinedMessage,
  quarantinedMessageStream,
} from '../../src/domain/quarantined-message.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { handleCommand } from '../../src/eventlog/handle-command.ts';
import { recipientsMember } from '../../src/projections/quarantine.ts';
import { meta } from './events.ts';
import { addedData, type Fared, NOW, results } from './held-message.ts';

/** A message to hold; what is left out is dull. */
export type Mail = Readonly<{
  id?: string;
  sender?: string;
  subject?: string;
  messageId?: string | null;
  /** By mail domain; `none` for those of no known one. */
  recipients?: Readonly<Record<string, readonly string[]>>;
}> &
  Partial<Omit<AddedData, 'recipients_of'>>;

/** Holds a message in the log; gives its id. */
export async function hold(log: EventLog, mail: Mail = {}): Promise<string> {
  const {
    id = randomUUID(),
    sender = 'bob@spam.example',
    subject = 'Win',
    messageId = null,
    recipients = { 7: ['ann@d7.example'] },
    ...fields
  } = mail;
  const groups = Object.entries(recipients).map(([domain, addresses]) => ({
    id: domain === 'none' ? null : domain,
    addresses,
  }));
  await tell(
    log,
    id,
    {
      type: 'AddMessage',
      data: {
        ...addedData,
        ...fields,
        recipients_of: groups.map((group) => ({
          mail_domain: group.id,
          count: group.addresses.length,
        })),
      },
      personal: [
        { name: 'sender', value: sender, class: 'content' },
        { name: 'subject', value: subject, class: 'content' },
        { name: 'message_id', value: messageId, class: 'content' },
        { name: 'client_ip', value: '203.0.113.9', class: 'network' },
        ...groups.map((group) => ({
          name: recipientsMember(group.id),
          value: group.addresses,
          class: 'content' as const,
        })),
      ],
    },
    groups.flatMap((group) => group.id ?? []),
  );
  return id;
}

/** One command on a held message. */
export async function tell(
  log: EventLog,
  id: string,
  command: QuarantineCommand,
  mailDomains: readonly string[] = ['7'],
): Promise<void> {
  await handleCommand(log, quarantinedMessage, {
    stream: quarantinedMessageStream(id),
    resource: { type: 'quarantined_message', id },
    mailDomains,
    command,
    meta,
    commandId: randomUUID(),
  });
}

export const release = (recipients: readonly number[] | null = null): QuarantineCommand => ({
  type: 'RequestRelease',
  recipients,
  allowSender: null,
  reason: null,
});
export const discard: QuarantineCommand = {
  type: 'RequestDiscard',
  blockSender: null,
  reason: null,
};
export const reject: QuarantineCommand = { type: 'RequestReject', reason: null };
export const start: QuarantineCommand = { type: 'StartTransfer' };
export const finish = (
  attempt: number,
  outcomes: Readonly<Record<number, Fared>>,
  cause: 'no_route' | null = null,
): QuarantineCommand => ({
  type: 'FinishTransfer',
  attempt,
  results: results(outcomes),
  replies: Object.keys(outcomes).map((recipient) => ({
    recipient: `r${recipient}@d7.example`,
    server: '192.0.2.25:25',
    reply: `reply ${attempt}.${recipient}`,
  })),
  now: NOW,
  cause,
});
