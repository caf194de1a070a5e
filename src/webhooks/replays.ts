import { findDelivered } from '../db/webhook-attempts.ts';
import { listReplays, type ReplayRow } from '../db/webhook-replays.ts';
import { REPLAYS_MAX } from '../domain/webhook.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { isWebhookType } from '../projections/webhook-catalogue.ts';
import { prepareEvent } from '../projections/webhook-payload.ts';
import { createFeed } from './feed.ts';
import { createLane, type Item, type Lane } from './lane.ts';
import { placeAt } from './locate.ts';
import { commandAsSystem } from './notes.ts';
import type { DeliveryDeps, Running } from './running.ts';

/** Reads the events of retries that are to be sent; they are few, and each stands alone. */
export async function loadEvents(
  { log }: Readonly<{ log: EventLog }>,
  items: readonly Item[],
): Promise<void> {
  await Promise.all(
    items.map(async (item) => {
      if (item.event !== null) return;
      const { position } = item;
      const range = { after: position - 1n, until: position, filter: {}, limit: 1 };
      const [line] = (await log.readLines(range)).lines;
      if (line !== undefined && isWebhookType(line.type)) item.event = prepareEvent(line);
    }),
  );
}

/** Takes up the replays that were asked for: where they were, with what their last owner left in doubt. */
export async function openReplays(s: Running, deps: DeliveryDeps): Promise<void> {
  const rows = await listReplays(deps.pool, s.id, { running: true, limit: REPLAYS_MAX });
  const wanted = new Set(rows.map(({ id }) => id));
  // Cancelled ones go; what of them is under way ends by itself.
  s.replays = s.replays.filter(({ replay }) => replay !== null && wanted.has(replay.id));
  for (const row of rows) {
    if (!s.replays.some(({ replay }) => replay?.id === row.id)) await openReplay(s, deps, row);
  }
}

async function openReplay(s: Running, deps: DeliveryDeps, row: ReplayRow): Promise<void> {
  const { id, until, eventTypes, sentTo, delivered, failed, position } = row;
  const place = await placeAt(deps, s.settings.row, position);
  const feed = createFeed(deps, () => s.settings.row, place, until);
  const replay = {
    ...{ id, until, eventTypes },
    doubtUntil: sentTo,
    known: await findDelivered(deps.pool, s.id, { after: position, until: sentTo, replayId: id }),
  };
  s.replays.push(createLane(feed, { sentTo, replay, delivered, failed }));
}

/** True when a replay has come to its end, and all of it is put down. */
export const isThrough = ({ replay, sending, saved }: Lane): boolean =>
  replay !== null && sending === 0 && saved >= replay.until;

/** Ends replays that have come to their end, and are put down as far. */
export async function endReplays(s: Running, deps: DeliveryDeps): Promise<void> {
  for (const lane of s.replays) {
    const { replay } = lane;
    // Only what is put down counts, so that the event tells the last of its results.
    if (replay === null || !isThrough(lane)) continue;
    await commandAsSystem(deps, s.settings.row, {
      type: 'EndReplay',
      replayId: String(replay.id),
      delivered: lane.delivered,
      failed: lane.failed,
    });
    s.replays = s.replays.filter((other) => other !== lane);
  }
}
