import type pg from 'pg';
import { findCursor } from '../db/webhook-cursors.ts';
import type { LocatedEvent } from '../domain/webhook-delivery.ts';
import type { EventLog, LogFilter, Position } from '../eventlog/eventlog.ts';
import { readLine } from '../eventlog/upcast.ts';
import { isWebhookType, WEBHOOK_TYPES } from '../projections/webhook-catalogue.ts';
import { prepareEvent } from '../projections/webhook-payload.ts';
import type { Epoch, WebhookRow } from '../projections/webhooks.ts';
import { epochAt, filterOf, matches, type Place } from './feed.ts';

/**
 * Where a position is in a subscription's numbering: the epoch that counts there, and how many of its
 * matches lie at or below. It is counted, since no other event's number says it.
 */
export async function placeAt(
  { log }: Readonly<{ log: EventLog }>,
  row: Pick<WebhookRow, 'epochs' | 'mailDomain'>,
  position: Position,
): Promise<Place> {
  const epoch = epochAt(row.epochs, position + 1n);
  if (epoch === null) return { epoch: 0, position, sequence: 0 };
  const range = { after: epoch.after, until: position, filter: exactFilterOf(row, epoch) };
  return { epoch: epoch.epoch, position, sequence: Number(await log.count(range)) };
}

/** The filter by itself, with nothing left to sift. */
function exactFilterOf(row: Pick<WebhookRow, 'mailDomain'>, epoch: Epoch): LogFilter {
  return { types: WEBHOOK_TYPES, ...filterOf(row, epoch) };
}

/** An event as a subscription has it: where it stands, and its number; null when it is not among its own. */
export async function locate(
  deps: Readonly<{ log: EventLog }>,
  row: WebhookRow,
  eventId: string,
): Promise<LocatedEvent | null> {
  const position = await deps.log.positionOf(eventId);
  if (position === null) return null;
  const range = { after: position - 1n, until: position, filter: {}, limit: 1 };
  const [line] = (await deps.log.readLines(range)).lines;
  const filter = epochAt(row.epochs, position) ?? row.epochs[0];
  if (line === undefined || filter === undefined || !isWebhookType(line.type)) return null;
  const event = prepareEvent(line);
  if (!matches(row, filter, event)) return null;
  // The place behind it: it is the last that was counted.
  const { epoch, sequence } = await placeAt(deps, row, position);
  return { position, key: event.key, epoch, sequence: epoch === 0 ? null : sequence };
}

/** When the next event that a subscription is to have was recorded; null when it has everything. */
export async function oldestWaiting(
  { log, pool }: Readonly<{ log: EventLog; pool: pg.Pool }>,
  row: WebhookRow,
): Promise<string | null> {
  const cursor = await findCursor(pool, row.id);
  const { position: head } = await log.head();
  let after = cursor?.place.position ?? row.epochs[0]?.after ?? 0n;
  for (const [index, epoch] of row.epochs.entries()) {
    const next = row.epochs[index + 1];
    // Over before the cursor, or left out by the one that follows.
    if (next !== undefined && (next.after <= after || next.skips)) continue;
    if (epoch.after > after) after = epoch.after;
    const until = next === undefined || next.after > head ? head : next.after;
    const filter = exactFilterOf(row, epoch);
    const [line] = (await log.readLines({ after, until, filter, limit: 1 })).lines;
    if (line !== undefined) return readLine(line.line).recorded_at;
  }
  return null;
}
