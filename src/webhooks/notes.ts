import type { Clock } from '../clock.ts';
import { DomainError } from '../domain/errors.ts';
import {
  type WebhookCommand,
  type WebhookNote,
  webhook,
  webhookNotesStream,
  webhookTarget,
} from '../domain/webhook.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { commandIdOf, handleCommand, toAppend } from '../eventlog/handle-command.ts';
import { systemMeta } from '../eventlog/system-meta.ts';
import type { WebhookRow } from '../projections/webhooks.ts';

type Deps = Readonly<{ log: EventLog; clock: Clock; nodeId: string }>;

/**
 * Records what has happened to a subscription, once for each `occasion`, however often it is told; `atMs` is
 * the occasion's own time, the same each time.
 */
export async function noteAsSystem(
  { log, clock, nodeId }: Deps,
  row: Pick<WebhookRow, 'id' | 'mailDomain'>,
  { note, occasion, atMs }: Readonly<{ note: WebhookNote; occasion: string; atMs: number }>,
): Promise<void> {
  const meta = systemMeta({ nodeId }, clock.now());
  const commandId = commandIdOf(atMs, `webhook/${row.id}/${occasion}`);
  await log.append({
    stream: webhookNotesStream(String(row.id)),
    expected: 'any',
    events: [toAppend(note, { ...webhookTarget(row), meta, commandId })],
  });
}

/**
 * Carries out what the worker decides by itself; the revision afterwards, null when it is gone. Refused as `stale` when
 * it was changed behind `ifRevision`.
 */
export async function commandAsSystem(
  { log, clock, nodeId }: Deps,
  row: Pick<WebhookRow, 'id' | 'mailDomain'> & Readonly<{ ifRevision?: bigint }>,
  command: WebhookCommand,
): Promise<bigint | null> {
  const handled = await handleCommand(log, webhook, {
    ...webhookTarget(row),
    command,
    meta: systemMeta({ nodeId }, clock.now()),
    commandId: commandIdOf(clock.nowMs(), `webhook/${row.id}/${JSON.stringify(command, asText)}`),
    ifRevision: row.ifRevision ?? null,
  }).catch((error: unknown) => {
    if (error instanceof DomainError && error.code === 'not_found') return null;
    throw error;
  });
  return handled?.revision ?? null;
}

const asText = (_: string, value: unknown) => (typeof value === 'bigint' ? String(value) : value);
