import { DomainError } from '../domain/errors.ts';
import type { ParkCause } from '../domain/webhook.ts';
import { type Item, release } from './lane.ts';
import { commandAsSystem, noteAsSystem } from './notes.ts';
import { endReplays } from './replays.ts';
import { isFull } from './retry-set.ts';
import type { DeliveryDeps, Running } from './running.ts';
import { keep, markDirty } from './unsaved.ts';

const HOUR_MS = 3_600_000;
/** Hours without success after which somebody is told. */
const NOTICE_HOURS = [1, 24, 72, 96] as const;
/** Then deliveries end, until somebody enables them. The cursor stays. */
const OUTAGE_HOURS_MAX = 120;

/** What is recorded in the log before it counts, in the order in which it happened. */
export async function chores(s: Running, deps: DeliveryDeps): Promise<void> {
  noticeOutage(s, deps.clock.nowMs());
  for (let next = s.untold.notes[0]; next !== undefined; next = s.untold.notes[0]) {
    await noteAsSystem(deps, s.settings.row, next);
    s.untold.notes.shift();
  }
  for (let next = s.untold.parks[0]; next !== undefined; next = s.untold.parks[0]) {
    await park(s, deps, next);
    s.untold.parks.shift();
  }
  if (s.untold.disable !== null) await disable(s, deps);
  await endReplays(s, deps);
  await noticeBacklog(s, deps);
}

async function disable(s: Running, deps: DeliveryDeps): Promise<void> {
  if (s.untold.disable === null) return;
  const cause = s.untold.disable;
  const { row } = s.settings;
  let revision: bigint | null;
  try {
    const command = { type: 'DisableWebhook', cause } as const;
    revision = await commandAsSystem(deps, { ...row, ifRevision: row.revision }, command);
  } catch (error) {
    // Somebody has changed it, and may have seen to it: that is waited for, and nothing is begun until it is known.
    if (error instanceof DomainError && error.code === 'stale') return;
    throw error;
  }
  s.untold.disable = null;
  // Enabled again, and that is known already.
  if (revision !== null && revision < s.settings.row.revision) return;
  // Until the read model says so, too; an older row is not taken for news.
  s.settings.row = {
    ...s.settings.row,
    status: 'disabled',
    cause,
    revision: revision ?? s.settings.row.revision,
  };
  deps.logger.warn({ webhook: s.id, cause }, 'a webhook was disabled');
}

function noticeOutage(s: Running, nowMs: number): void {
  const { failingSinceMs, lastFailedAtMs, notices, state, failed } = s.endpoint.breaker;
  if (failingSinceMs === null || s.settings.row.status !== 'active') return;
  const triedHours = ((lastFailedAtMs ?? failingSinceMs) - failingSinceMs) / HOUR_MS;
  // In strict order the breaker stays closed as a rule, since one event that fails says nothing of others.
  const isDown = state === 'open' || (s.ordering === 'strict' && failed.length > 0);
  if (isDown && triedHours >= OUTAGE_HOURS_MAX) {
    s.untold.disable ??= 'outage';
    return;
  }
  const hours = Math.min((nowMs - failingSinceMs) / HOUR_MS, triedHours + 24);
  const passed = NOTICE_HOURS.filter((notice) => hours >= notice).length;
  if (passed <= notices) return;
  const since = new Date(failingSinceMs).toISOString();
  const notice = NOTICE_HOURS[passed - 1] ?? 0;
  s.untold.notes.push({
    note: { type: 'webhook.failing', data: { since, hours: notice, cause: causeOf(s) } },
    occasion: `failing/${since}/${notice}`,
    atMs: failingSinceMs,
  });
  s.endpoint.breaker = { ...s.endpoint.breaker, notices: passed };
  markDirty(s.unsaved, nowMs);
}

const causeOf = (s: Running): string =>
  s.live.again[0]?.lastOutcome ?? [...s.retries.byPosition.values()][0]?.lastOutcome ?? 'failing';

/** Given up: the event first, then the row, so that nothing is given up that the log does not tell. */
async function park(
  s: Running,
  deps: DeliveryDeps,
  { item, cause }: Readonly<{ item: Item; cause: ParkCause }>,
): Promise<void> {
  const nowMs = deps.clock.nowMs();
  const { eventId, position, tries } = item;
  item.firstFailedAtMs ??= nowMs;
  await noteAsSystem(deps, s.settings.row, {
    note: {
      type: 'webhook.event_parked',
      data: { event_id: eventId, position: String(position), tries, cause },
    },
    occasion: `parked/${position}`,
    atMs: item.firstFailedAtMs,
  });
  item.dueAtMs = nowMs;
  if (item.lane !== null) {
    const { lane } = item;
    lane.again = lane.again.filter((other) => other !== item);
  }
  item.state = 'over';
  s.retries.byPosition.delete(position);
  keep(s.unsaved, item, { state: 'parked' });
  s.retries.parked += 1;
  markDirty(s.unsaved, nowMs);
  release(s.gate, item);
}

async function noticeBacklog(s: Running, deps: DeliveryDeps): Promise<void> {
  if (!isFull(s.retries)) {
    s.untold.isBacklogTold = false;
    return;
  }
  if (s.untold.isBacklogTold) return;
  const retries = s.retries.byPosition.size;
  const atMs = deps.clock.nowMs();
  const note = { type: 'webhook.backlog', data: { retries } } as const;
  await noteAsSystem(deps, s.settings.row, { note, occasion: `backlog/${atMs}`, atMs });
  s.untold.isBacklogTold = true;
}
