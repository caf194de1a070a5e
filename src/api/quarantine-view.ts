import { isNarrowed, type Principal } from '../domain/access.ts';
import { DomainError } from '../domain/errors.ts';
import { HELD_BY, REASONS, STORES } from '../domain/quarantine-language.ts';
import { quarantinedMessageStream, STATES } from '../domain/quarantined-message.ts';
import type { RecipientGroup } from '../projections/quarantine.ts';
import {
  findMessageInQueue,
  findMessages,
  type MessageRow,
} from '../projections/quarantine-list.ts';
import type { Context } from './context.ts';
import { Instant } from './schemas.ts';
import { z } from './zod.ts';

const opaqueId = (ofWhat: string) =>
  z
    .string()
    .regex(/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, `is no id of ${ofWhat}`)
    .openapi({ description: 'Opaque.' });

export const MessageId = opaqueId('a message');
export const JobId = opaqueId('a bulk job');

const Delivery = z.object({
  recipient: z.string(),
  outcome: z.enum(['accepted', 'deferred', 'refused', 'unknown']),
  code: z.number().int().nullable().openapi({ description: 'The SMTP reply code.' }),
  server: z.string().nullable(),
  reply: z.string().nullable(),
  at: Instant,
});

/** A held message as callers see it. */
export const QuarantineItem = z
  .object({
    id: MessageId,
    node_id: z.string(),
    queue_id: z.string(),
    state: z.enum(STATES),
    sender: z.string().nullable().openapi({ description: 'Empty for the null sender.' }),
    recipients: z.array(z.string()),
    recipients_hidden: z
      .number()
      .int()
      .openapi({ description: 'Recipients in mail domains that are not yours.' }),
    subject: z.string().nullable(),
    message_id: z.string().nullable(),
    score: z.number().nullable().openapi({ description: 'Null when nobody has looked.' }),
    symbols: z.array(z.string()),
    reason: z.enum(REASONS),
    size_bytes: z.number().int(),
    store: z.enum(STORES).openapi({ description: 'Where its bytes are.' }),
    held_by: z
      .enum(HELD_BY)
      .nullable()
      .openapi({
        description:
          'Who put it into the hold queue: the filter, the mail server while the filter was not there, one of ' +
          'its rules, or somebody at its console. Null in the spool.',
      }),
    arrived_at: Instant,
    expires_at: Instant,
    mail_domains: z.array(z.string()),
    deliveries: z
      .array(Delivery)
      .openapi({ description: 'How the last release went, per recipient.' }),
  })
  .openapi('QuarantineItem');

export type QuarantineItemView = z.input<typeof QuarantineItem>;

/** Messages as one caller sees them: of recipients, and of mail domains, only its own. */
export async function viewMessages(
  { log }: Pick<Context, 'log'>,
  principal: Principal | null,
  rows: readonly MessageRow[],
): Promise<QuarantineItemView[]> {
  const only = principal !== null && isNarrowed(principal) ? principal.mailDomain : null;
  const ids = [...new Set(rows.flatMap(({ mailDomains }) => mailDomains))];
  const names = await log.readNames(ids.map((id) => `mail_domain:${id}`));
  return rows.map((row) => {
    const shown = numbered(row.recipients).filter(
      ({ mailDomain }) => only === null || mailDomain === only,
    );
    const all = row.recipients.reduce((sum, { addresses }) => sum + addresses.length, 0);
    return {
      id: row.id,
      node_id: row.nodeId,
      queue_id: row.queueId,
      state: row.state,
      sender: row.sender,
      recipients: shown.map(({ address }) => address),
      recipients_hidden: all - shown.length,
      subject: row.subject,
      message_id: row.messageId,
      score: row.score,
      symbols: [...row.symbols],
      reason: row.reason,
      size_bytes: row.sizeBytes,
      store: row.store,
      held_by: row.heldBy,
      arrived_at: row.arrivedAt,
      expires_at: row.expiresAt,
      mail_domains: row.mailDomains
        .filter((id) => only === null || id === only)
        .map((id) => names.get(`mail_domain:${id}`)?.name ?? String(id)),
      deliveries: shown.flatMap(({ address, number }) => {
        const result = row.results[String(number)];
        return result === undefined ? [] : [{ recipient: address, ...result }];
      }),
    };
  });
}

export async function viewMessage(
  context: Pick<Context, 'log'>,
  principal: Principal | null,
  row: MessageRow,
): Promise<QuarantineItemView> {
  const [view] = await viewMessages(context, principal, [row]);
  if (view === undefined) throw new Error('a message without a view');
  return view;
}

export type NumberedRecipient = Readonly<{
  number: number;
  address: string;
  mailDomain: number | null;
}>;

/** Recipients with the numbers by which events mean them. */
export function numbered(groups: readonly RecipientGroup[]): NumberedRecipient[] {
  return groups
    .flatMap(({ mail_domain: mailDomain, addresses }) =>
      addresses.map((address) => ({ address, mailDomain })),
    )
    .map((recipient, number) => ({ number, ...recipient }));
}

/** The two ways to name a message in a path. */
export type MessagePath = Readonly<{ id: string } | { node_id: string; queue_id: string }>;

/** The message that a path names, where it exists for the caller. */
export async function findVisibleMessage(
  { pool }: Pick<Context, 'pool'>,
  principal: Principal,
  path: MessagePath,
): Promise<MessageRow> {
  const row =
    'id' in path
      ? ((await findMessages(pool, [path.id]))[0] ?? null)
      : await findMessageInQueue(pool, {
          nodeId: path.node_id,
          queueId: path.queue_id,
          mailDomain: isNarrowed(principal) ? (principal.mailDomain ?? 0) : null,
        });
  if (row === null || !isVisible(row, principal)) {
    throw new DomainError('not_found', 'There is no such message.');
  }
  return row;
}

const isVisible = (row: MessageRow, principal: Principal): boolean =>
  !isNarrowed(principal) ||
  (principal.mailDomain !== null && row.mailDomains.includes(principal.mailDomain));

/** An action, or a look inside, concerns every recipient, so they must all be the caller's. */
export function requireAllRecipients(row: MessageRow, principal: Principal): void {
  if (!isNarrowed(principal)) return;
  if (row.recipients.every(({ mail_domain: id }) => id === principal.mailDomain)) return;
  throw new DomainError(
    'foreign_recipients',
    'This message also went to recipients in mail domains that are not yours.',
  );
}

/** Where the commands on a message go. */
export const targetOf = (row: MessageRow) => ({
  stream: quarantinedMessageStream(row.id),
  resource: { type: 'quarantined_message', id: row.id },
  mailDomains: row.mailDomains.map(String),
});

const Attachment = z.object({
  filename: z.string().nullable(),
  content_type: z.string(),
  size_bytes: z.number().int(),
  disposition: z.string().nullable(),
  is_truncated: z.boolean().openapi({ description: 'Its end was not looked at.' }),
});

/** A message without its dangers. */
export const MailPreviewView = z
  .object({
    headers: z.array(z.object({ name: z.string(), value: z.string() })),
    text: z.string().nullable(),
    html: z.string().nullable().openapi({ description: 'Sanitised; loads nothing.' }),
    attachments: z.array(Attachment),
    remote_content: z.boolean().openapi({ description: 'The HTML wanted to load something.' }),
    is_truncated: z.boolean(),
    problem: z.enum(['too_deeply_nested', 'unparsable']).nullable(),
  })
  .openapi('MailPreview');
