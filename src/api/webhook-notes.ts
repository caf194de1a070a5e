import { type WebhookNote, webhookNotesStream } from '../domain/webhook.ts';
import { toAppend } from '../eventlog/handle-command.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import type { Context } from './context.ts';
import type { Call } from './route.ts';
import { targetOf } from './webhook-access.ts';

/** Records what a caller has done with a subscription that does not change it. */
export async function recordNote(
  { log }: Context,
  row: WebhookRow,
  { meta, commandId }: Pick<Call<unknown, unknown, unknown>, 'meta' | 'commandId'>,
  note: WebhookNote,
): Promise<void> {
  const { resource, mailDomains } = targetOf(row);
  await log.append({
    stream: webhookNotesStream(String(row.id)),
    expected: 'any',
    events: [toAppend(note, { resource, mailDomains, meta, commandId })],
  });
}
