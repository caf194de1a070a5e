import type { QuarantineCommand } from '../domain/quarantine-language.ts';
import { quarantinedMessage } from '../domain/quarantined-message.ts';
import { handleCommand } from '../eventlog/handle-command.ts';
import type { MessageRow } from '../projections/quarantine-list.ts';
import type { Context } from './context.ts';
import {
  findVisibleMessage,
  type MessagePath,
  requireAllRecipients,
  targetOf,
} from './quarantine-view.ts';
import type { Call } from './route.ts';

/** How long an answer waits for an outcome before it says that it is under way. */
export const OUTCOME_WAIT_MS = 10_000;

export type ActionCall<Body> = Call<MessagePath, unknown, Body>;

/** The message that a request means, where its caller may act on it. */
export async function findActionable(
  context: Context,
  { params, principal }: ActionCall<unknown>,
): Promise<MessageRow> {
  const row = await findVisibleMessage(context, principal, params);
  requireAllRecipients(row, principal);
  return row;
}

/** Records what a request asks of a message. */
export function tell(
  context: Context,
  { meta, commandId, ifMatch }: ActionCall<unknown>,
  row: MessageRow,
  command: QuarantineCommand,
) {
  return handleCommand(context.log, quarantinedMessage, {
    ...targetOf(row),
    command,
    meta,
    commandId,
    ifRevision: ifMatch,
  });
}
