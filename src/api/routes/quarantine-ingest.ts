import { createHash } from 'node:crypto';
import { toTimestamp } from '../../clock.ts';
import { isNarrowed } from '../../domain/access.ts';
import type { PersonalMember } from '../../domain/decider.ts';
import { DomainError } from '../../domain/errors.ts';
import type { AddedData } from '../../domain/quarantine-language.ts';
import { quarantinedMessage, quarantinedMessageStream } from '../../domain/quarantined-message.ts';
import { commandIdOf, handleCommand, readState } from '../../eventlog/handle-command.ts';
import { findMailDomainsByStreams, type MailDomainRow } from '../../projections/mail-domains.ts';
import { type RecipientGroup, recipientsMember } from '../../projections/quarantine.ts';
import { findMessages, type MessageRow } from '../../projections/quarantine-list.ts';
import type { Context } from '../context.ts';
import { domainOf } from '../ingest-headers.ts';
import { mailDomainStream } from '../mail-domain-name.ts';
import { type IncomingMail, incomingMail, mailIntake } from '../mail-intake.ts';
import { BASE_PATH } from '../paths.ts';
import { QuarantineItem, viewMessage } from '../quarantine-view.ts';
import { type Answer, type Call, route } from '../route.ts';
import type { z } from '../zod.ts';

const DAY_MS = 86_400_000;
/** Days that mail of no known mail domain is held. */
const RETENTION_DAYS = 30;

export const quarantineIngestRoutes = [
  route({
    id: 'quarantineMessage',
    method: 'post',
    path: '/mail/quarantine',
    tag: 'Quarantine',
    summary: 'Hold a message.',
    description:
      'The body is the raw message; headers say what the message cannot be trusted to: envelope, score ' +
      'and reason. Take the headers below, or those that rspamd’s metadata exporter sends ' +
      '(`X-Rspamd-From`, `-Rcpt`, `-Score`, `-Symbols`, `-Qid`, `-Ip`, `-Subject`). The exporter may use HTTP ' +
      'Basic with the user `ingest`, and is then answered 200. Once answered, the message is on the disk ' +
      'and in the log. The same bytes with the same envelope under the same queue id are one message. ' +
      'How long a message is held is fixed when it arrives: the longest retention of its mail domains, 30 ' +
      'days without one.',
    permission: { operation: 'write', reach: 'mail_domain' },
    takesIngestPassword: true,
    intake: mailIntake,
    reply: QuarantineItem,
    status: 201,
    message: 'Created',
    errors: ['not_a_message', 'quarantine_full'],
    example: {
      headers: {
        'X-Mail-From': 'a@example.org',
        'X-Rcpt-To': 'b@example.com',
        'X-Spam-Score': '7.5',
      },
      body: 'From: a@example.org\r\nTo: b@example.com\r\nSubject: test\r\n\r\nHello.\r\n',
    },
    handle: (context, call) => hold(context, call),
  }),
];

async function hold(
  context: Context,
  call: Call<unknown, unknown, unknown>,
): Promise<Answer<z.input<typeof QuarantineItem>>> {
  const mail = incomingMail(call);
  const groups = await groupRecipients(context, mail);
  requireOwn(call, groups);
  const id = idOf(context, mail, { groups, given: call.commandId });
  const stream = quarantinedMessageStream(id);
  const known = await readState(context.log, quarantinedMessage, stream);
  if (known.revision === -1n) await context.quarantine.store.keep(mail.received, id);
  const data = describe(context, mail, { id, groups });
  const mailDomains = groups.flatMap(({ row }) => (row === null ? [] : [String(row.id)]));
  const handled = await handleCommand(context.log, quarantinedMessage, {
    stream,
    resource: { type: 'quarantined_message', id },
    mailDomains,
    command: { type: 'AddMessage', data, personal: personalOf(mail, groups) },
    meta: call.meta,
    commandId: call.commandId,
  });
  // A repetition recorded nothing, and finds the row of the first, which may be on its way.
  const position = handled.position ?? (await context.log.head()).position;
  const isVisible = await context.projector.caughtUp(position, ['quarantine']);
  const row =
    handled.position === null || handled.earlier !== null
      ? ((await findMessages(context.pool, [id]))[0] ?? null)
      : rowOf(mail, { id, data, groups });
  if (row === null) throw new DomainError('unavailable', 'The read models are behind; try again.');
  const viewer = call.isIngest ? null : call.principal;
  return {
    data: await viewMessage(context, viewer, row),
    // rspamd's exporter takes nothing else for success.
    status: call.isIngest ? 200 : isVisible ? 201 : 202,
    headers: { Location: `${BASE_PATH}/mail/quarantine/messages/${id}` },
  };
}

type Group = RecipientGroup & Readonly<{ row: MailDomainRow | null }>;

/** Recipients by living mail domain, in the order of their ids; those of none come last. */
async function groupRecipients(
  { pool, secrets }: Context,
  { envelope }: IncomingMail,
): Promise<Group[]> {
  const streams = new Map(
    envelope.recipients.map((address) => {
      const domain = domainOf(address);
      return [domain, mailDomainStream(secrets, domain)] as const;
    }),
  );
  const living = await findMailDomainsByStreams(pool, [...new Set(streams.values())]);
  const byId = new Map<number, { row: MailDomainRow | null; addresses: string[] }>();
  for (const address of envelope.recipients) {
    const row = living.get(streams.get(domainOf(address)) ?? '') ?? null;
    const key = row?.id ?? Number.MAX_SAFE_INTEGER;
    const group = byId.get(key) ?? { row, addresses: [] };
    group.addresses.push(address);
    byId.set(key, group);
  }
  return [...byId]
    .sort(([a], [b]) => a - b)
    .map(([, { row, addresses }]) => ({ row, mail_domain: row?.id ?? null, addresses }));
}

function requireOwn(call: Call<unknown, unknown, unknown>, groups: readonly Group[]): void {
  if (call.isIngest || !isNarrowed(call.principal)) return;
  if (groups.every(({ mail_domain: id }) => id === call.principal.mailDomain)) return;
  throw new DomainError(
    'scope_forbidden',
    'Recipients are not all in the mail domain of this key.',
  );
}

/**
 * What a mail server knows by a queue id is told twice when an answer was lost; it stays one message. With
 * another envelope, or for other mail domains, it is another: nobody meets the message of another tenant, and
 * no recipient is left out.
 */
function idOf(
  { config }: Context,
  { envelope, received }: IncomingMail,
  { groups, given }: Readonly<{ groups: readonly Group[]; given: string }>,
): string {
  if (envelope.queueId === null) return given;
  const mailDomains = groups.map(({ mail_domain: id }) => id ?? 'none').join('+');
  const told = [envelope.sender, ...groups.flatMap(({ addresses }) => addresses.toSorted())];
  const text = `${config.nodeId}/${envelope.queueId}/${received.sha256}/${mailDomains}`;
  return commandIdOf(0, `${text}/${JSON.stringify(told)}`);
}

function describe(
  { config, clock }: Context,
  { envelope, received }: IncomingMail,
  { id, groups }: Readonly<{ id: string; groups: readonly Group[] }>,
): AddedData {
  const arrivedAt = envelope.arrivedAt ?? clock.now();
  const days = groups.map(({ row }) => row?.settings.quarantine_retention_days ?? 0);
  const retentionMs = (Math.max(...days) || RETENTION_DAYS) * DAY_MS;
  return {
    node_id: config.nodeId,
    queue_id: envelope.queueId ?? queueIdOf(id),
    store: 'spool',
    size_bytes: received.sizeBytes,
    sha256: received.sha256,
    score: envelope.score,
    symbols: envelope.symbols,
    reason: envelope.reason,
    arrived_at: toTimestamp(arrivedAt),
    expires_at: toTimestamp(new Date(arrivedAt.getTime() + retentionMs)),
    recipients_of: groups.map(({ mail_domain: mailDomain, addresses }) => ({
      mail_domain: mailDomain === null ? null : String(mailDomain),
      count: addresses.length,
    })),
  };
}

/** A queue id for what came without one, of the form that mail servers use. */
const queueIdOf = (id: string): string =>
  createHash('sha256').update(id).digest('hex').slice(0, 12).toUpperCase();

function personalOf(
  { envelope, head }: IncomingMail,
  groups: readonly Group[],
): readonly PersonalMember[] {
  const { subject, messageId } = shown(envelope, head);
  return [
    { name: 'sender', value: envelope.sender, class: 'content' },
    { name: 'subject', value: subject, class: 'content' },
    { name: 'message_id', value: messageId, class: 'content' },
    { name: 'client_ip', value: envelope.clientIp, class: 'network' },
    ...groups.map(({ mail_domain: id, addresses }) => ({
      name: recipientsMember(id === null ? null : String(id)),
      value: addresses,
      class: 'content' as const,
    })),
  ];
}

const shown = (envelope: IncomingMail['envelope'], head: IncomingMail['head']) => ({
  subject: head.subject === '' ? (envelope.subject ?? '') : head.subject,
  messageId: head.messageId,
});

function rowOf(
  { envelope, head }: IncomingMail,
  { id, data, groups }: Readonly<{ id: string; data: AddedData; groups: readonly Group[] }>,
): MessageRow {
  return {
    id,
    revision: 0n,
    state: 'held',
    nodeId: data.node_id,
    queueId: data.queue_id,
    sender: envelope.sender,
    recipients: groups,
    ...shown(envelope, head),
    score: data.score,
    symbols: data.symbols,
    reason: data.reason,
    sizeBytes: data.size_bytes,
    arrivedAt: data.arrived_at,
    expiresAt: data.expires_at,
    mailDomains: groups.flatMap(({ mail_domain: mailDomain }) => mailDomain ?? []),
    results: {},
  };
}
