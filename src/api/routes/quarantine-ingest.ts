import { createHash } from 'node:crypto';
import { toTimestamp } from '../../clock.ts';
import { isNarrowed } from '../../domain/access.ts';
import { DomainError } from '../../domain/errors.ts';
import type { AddedData, Announcement } from '../../domain/quarantine-language.ts';
import {
  type QuarantineState,
  quarantinedMessage,
  quarantinedMessageStream,
} from '../../domain/quarantined-message.ts';
import { commandIdOf, handleCommand, readState } from '../../eventlog/handle-command.ts';
import { findMessages, type MessageRow } from '../../projections/quarantine-list.ts';
import {
  type AddressedGroup,
  countsOf,
  groupRecipients,
  personalOf,
  retentionMsOf,
} from '../../projections/recipient-groups.ts';
import type { Context } from '../context.ts';
import { type IncomingMail, incoming, mailIntake } from '../mail-intake.ts';
import { BASE_PATH } from '../paths.ts';
import { QuarantineItem, viewMessage } from '../quarantine-view.ts';
import { type Answer, type Call, route } from '../route.ts';
import { z } from '../zod.ts';

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
      'days without one. Where the mail server holds the mail itself (`MAILGUARD_QUARANTINE_STORE=postfix`), ' +
      'the call only announces what the hold queue is about to show, by its queue id; `data` is null then. ' +
      'rspamd’s exporter sends it as JSON (`formatter = "json"`), which is taken there alone; a message ' +
      'that comes along is not kept, and the time of its retention begins as it is found in the queue. Announcing takes a key that is not narrowed.',
    permission: { operation: 'write', reach: 'mail_domain' },
    takesIngestPassword: true,
    intake: mailIntake,
    // `nullable()` of a named schema is printed as an `allOf` that null does not meet.
    reply: z.union([QuarantineItem, z.null()]),
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
    async handle(context, call) {
      const taken = incoming(call);
      return 'received' in taken ? hold(context, call, taken) : announce(context, call, taken);
    },
  }),
];

type Handed = Call<unknown, unknown, unknown>;

/** States in which the bytes of a message are removed, or are being removed. */
const BYTES_GONE: readonly QuarantineState[] = [
  'discard_requested',
  'discarded',
  'rejected',
  'expired',
  'vanished',
];

async function announce(
  { quarantine }: Context,
  call: Handed,
  said: Announcement,
): Promise<Answer<null>> {
  if (!call.isIngest && isNarrowed(call.principal)) {
    throw new DomainError('scope_forbidden', 'A queue id is not of one mail domain alone.');
  }
  await quarantine.holdQueue?.announce(said);
  return { data: null, status: call.isIngest ? 200 : 202, message: 'Announced' };
}

async function hold(
  context: Context,
  call: Handed,
  mail: IncomingMail,
): Promise<Answer<z.input<typeof QuarantineItem>>> {
  const groups = await groupRecipients(context, mail.envelope.recipients);
  requireOwn(call, groups);
  const id = idOf(context, mail, { groups, given: call.commandId });
  const stream = quarantinedMessageStream(id);
  const known = await readState(context.log, quarantinedMessage, stream);
  const isNew = known.revision === -1n;
  if (isNew) await context.quarantine.spool?.keep(mail.received, id);
  const data = describe(context, mail, { id, groups });
  const mailDomains = groups.flatMap(({ row }) => (row === null ? [] : [String(row.id)]));
  const handled = await handleCommand(context.log, quarantinedMessage, {
    stream,
    resource: { type: 'quarantined_message', id },
    mailDomains,
    command: { type: 'AddMessage', data, personal: personalOf(toldOf(mail), groups) },
    meta: call.meta,
    commandId: call.commandId,
  });
  // Another made it meanwhile, and it has come to its end: that is not to be undone.
  const isOver = BYTES_GONE.some((gone) => gone === handled.state.state);
  if (isNew && isOver) await context.quarantine.spool?.remove(id);
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

function requireOwn(call: Handed, groups: readonly AddressedGroup[]): void {
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
  { groups, given }: Readonly<{ groups: readonly AddressedGroup[]; given: string }>,
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
  { id, groups }: Readonly<{ id: string; groups: readonly AddressedGroup[] }>,
): AddedData {
  const arrivedAt = envelope.arrivedAt ?? clock.now();
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
    expires_at: toTimestamp(new Date(arrivedAt.getTime() + retentionMsOf(groups))),
    recipients_of: countsOf(groups),
  };
}

/** A queue id for what came without one, of the form that mail servers use. */
const queueIdOf = (id: string): string =>
  createHash('sha256').update(id).digest('hex').slice(0, 12).toUpperCase();

const toldOf = ({ envelope, head }: IncomingMail) => ({
  sender: envelope.sender,
  clientIp: envelope.clientIp,
  ...shown(envelope, head),
});

const shown = (envelope: IncomingMail['envelope'], head: IncomingMail['head']) => ({
  subject: head.subject === '' ? (envelope.subject ?? '') : head.subject,
  messageId: head.messageId,
});

function rowOf(
  { envelope, head }: IncomingMail,
  {
    id,
    data,
    groups,
  }: Readonly<{ id: string; data: AddedData; groups: readonly AddressedGroup[] }>,
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
    store: 'spool',
    heldBy: null,
    arrivedAt: data.arrived_at,
    expiresAt: data.expires_at,
    mailDomains: groups.flatMap(({ mail_domain: mailDomain }) => mailDomain ?? []),
    results: {},
  };
}
