import type { PulledEvents, PullRange } from '../domain/webhook-delivery.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { prepareEvent, renderPayload } from '../projections/webhook-payload.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import { createFeed, type Matched, type Place } from './feed.ts';
import { placeAt } from './locate.ts';

/** A filter that finds little answers with what it has after this, and how far it looked. */
const SCAN_BUDGET_MS = 5_000;

/**
 * What a subscription is to have, with the very bytes that deliveries have, whether they were made or not.
 * Never empty while more exists, unless the scan budget ran out; then `scannedTo` still moves.
 */
export async function pull(
  { log }: Readonly<{ log: EventLog }>,
  row: WebhookRow,
  { after, numbering, until, limit }: PullRange,
): Promise<PulledEvents> {
  const deadline = performance.now() + SCAN_BUDGET_MS;
  const byItself = { head: () => until, read: () => null, prepare: prepareEvent };
  const place =
    numbering === null ? await placeAt({ log }, row, after) : { ...numbering, position: after };
  const feed = createFeed({ log, tail: byItself }, () => row, place, until);
  const found: Matched[] = [];
  // One more than the page, to know whether another follows.
  while (found.length <= limit && !feed.isAtEnd() && performance.now() < deadline) {
    for (const matched of await feed.next(limit + 1 - found.length)) found.push(matched);
  }
  const page = found.slice(0, limit);
  const last = page.at(-1);
  const isCut = last !== undefined && found.length > limit;
  const { position, epoch, sequence } = isCut ? placeOf(last) : feed.place();
  return {
    texts: page.map((matched) => textOf(row, matched)),
    scannedTo: position,
    numbering: { epoch, sequence },
    hasMore: isCut || !feed.isAtEnd(),
  };
}

const placeOf = ({ event, epoch, sequence }: Matched): Place => ({
  epoch,
  position: event.position,
  sequence: sequence ?? 0,
});

function textOf({ mailDomain: id }: WebhookRow, { event, epoch, sequence }: Matched): string {
  const mailDomain = id === null ? null : String(id);
  return renderPayload(event, { sequence, epoch, mailDomain });
}
