import {
  type Webhook,
  type WebhookCommand,
  type WebhookNote,
  webhook,
  webhookNotesStream,
  webhookTarget,
} from '../domain/webhook.ts';
import type { Position } from '../eventlog/eventlog.ts';
import { type Handled, handleCommand, toAppend } from '../eventlog/handle-command.ts';
import { findWebhook, type WebhookRow } from '../projections/webhooks.ts';
import type { Context } from './context.ts';
import type { Answer, Call } from './route.ts';
import { viewWebhooks, type WebhookView } from './webhook-view.ts';
import type { z } from './zod.ts';

/** An answer that shows a subscription. */
export type WebhookAnswer = Extract<Answer<z.input<typeof WebhookView>>, { data: unknown }>;
type AnyCall = Call<unknown, unknown, unknown>;

/**
 * Appends a command about one subscription, lets whoever delivers it know, and answers with it as it is
 * then: when the answer leaves, nothing is begun any more as it was before.
 */
export async function commandAsCaller(
  context: Context,
  call: Pick<AnyCall, 'meta' | 'commandId' | 'ifMatch'>,
  row: WebhookRow,
  command: WebhookCommand,
): Promise<WebhookAnswer> {
  const { position } = await handleCommand(context.log, webhook, {
    ...webhookTarget(row),
    command,
    meta: call.meta,
    commandId: call.commandId,
    ifRevision: call.ifMatch,
  });
  const isDone = position === null || (await awaitEffect(context, row.id, position));
  const after = (await findWebhook(context.pool, row.id)) ?? row;
  return { ...(await answerWithWebhook(context, after)), ...(isDone ? {} : { status: 202 }) };
}

/** Records, as the caller's act, what was done with a subscription and does not change it. */
export async function noteAsCaller(
  { log }: Context,
  row: WebhookRow,
  { meta, commandId }: Pick<AnyCall, 'meta' | 'commandId'>,
  note: WebhookNote,
): Promise<void> {
  await log.append({
    stream: webhookNotesStream(String(row.id)),
    expected: 'any',
    events: [toAppend(note, { ...webhookTarget(row), meta, commandId })],
  });
}

/** A subscription as the answer to whoever asked for it. */
export async function answerWithWebhook(context: Context, row: WebhookRow): Promise<WebhookAnswer> {
  const [data] = await viewWebhooks(context, [row]);
  if (data === undefined) throw new Error('a webhook without a view');
  return { data, revision: row.revision, subject: `webhook:${row.id}` };
}

type Creation = Extract<WebhookCommand, { type: 'CreateWebhook' }>;

/** A subscription that was just made, where its row is behind: its secret is told now or never. */
export const rowAsMade = (
  { id, mailDomain }: Pick<WebhookRow, 'id' | 'mailDomain'>,
  { data, told }: Creation,
  { state, position, revision, recordedAt }: Handled<Webhook>,
): WebhookRow => ({
  ...{ id, mailDomain, revision, ordering: data.ordering, ...told },
  status: data.enabled ? 'active' : 'paused',
  cause: null,
  epochs: [
    {
      epoch: 1,
      after: BigInt(data.start_after ?? position ?? 0n),
      eventTypes: data.event_types,
      skips: false,
    },
  ],
  secrets: state.secrets,
  failingSince: null,
  createdAt: recordedAt ?? '',
  updatedAt: recordedAt ?? '',
});

/** True when a change is in the read model, and known to whoever delivers. */
export async function awaitEffect(
  context: Context,
  id: number,
  position: Position,
): Promise<boolean> {
  const isVisible = await context.projector.caughtUp(position, ['webhooks']);
  if (isVisible) await context.webhooks.changed(id);
  return isVisible;
}
