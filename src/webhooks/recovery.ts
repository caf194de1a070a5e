import { findDelivered } from '../db/webhook-attempts.ts';
import type { CursorRow } from '../db/webhook-cursors.ts';
import { countRetries, listRetries, type RetryRow } from '../db/webhook-retries.ts';
import type { Position } from '../eventlog/eventlog.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import { createWaker } from '../waker.ts';
import { fromKept } from './breaker.ts';
import { createFeed } from './feed.ts';
import { createGate, createLane, type Item } from './lane.ts';
import { unknownAttempt } from './record.ts';
import { loadEvents, openReplays } from './replays.ts';
import { RETRIES_MAX } from './retry-set.ts';
import type { DeliveryDeps, Running } from './running.ts';
import { PROBE_MS_MAX } from './schedule.ts';
import { parseTarget } from './target.ts';
import { keep, markDirty, nothingUnsaved } from './unsaved.ts';

/** Everything as the last owner has put it down, and what it has left in doubt. */
export async function recover(
  deps: DeliveryDeps,
  cursor: CursorRow,
  row: WebhookRow,
): Promise<Running> {
  const { pool, clock } = deps;
  const { webhookId: id, place } = cursor;
  const [secrets, delivered, rows, { parked }] = await Promise.all([
    deps.secretsOf(id),
    findDelivered(pool, id, { after: place.position, until: place.sentTo, replayId: null }),
    listRetries(pool, id, { state: 'retrying', after: -1n, limit: RETRIES_MAX * 2 }),
    countRetries(pool, id),
  ]);
  const { epoch, position, sequence, sentTo } = place;
  const feed = createFeed(deps, () => s.settings.row, { epoch, position, sequence });
  const s: Running = {
    id,
    token: cursor.token,
    settings: { row, target: parseTarget(row.url, deps.policy), secrets },
    endpoint: {
      breaker: fromKept(cursor.breaker),
      quietUntilMs: cursor.quietUntil?.getTime() ?? 0,
    },
    live: createLane(feed, { sentTo }),
    replays: [],
    retries: { byPosition: new Map(), marked: [], parked },
    ordering: row.ordering,
    gate: createGate(row.ordering),
    underWay: { all: 0, retries: 0 },
    unsaved: nothingUnsaved(),
    untold: { notes: [], parks: [], disable: null, isBacklogTold: false },
    saved: { atMs: clock.nowMs(), ownMs: 0, lapses: deps.lapses() },
    doubt: { until: sentTo, delivered, isClean: place.isClean },
    loop: {
      phase: 'running',
      ...{ isStale: false, changes: 0, replaysAsOf: 0 },
      waker: createWaker(),
      cut: new AbortController(),
    },
  };
  const doubtful = addRetries(s, rows, clock.nowMs());
  await loadEvents(deps, doubtful);
  for (const item of doubtful) {
    s.unsaved.attempts.push(unknownAttempt(item, clock.now()));
    keep(s.unsaved, item);
    markDirty(s.unsaved, clock.nowMs());
  }
  await openReplays(s, deps);
  return s;
}

/** Takes up what others have put into the retry set, and replays that were asked for or taken back. */
export async function refresh(s: Running, deps: DeliveryDeps): Promise<void> {
  // First, since more may be asked for while it is looked.
  s.loop.isStale = false;
  try {
    await lookAgain(s, deps);
  } catch (error) {
    s.loop.isStale = true;
    throw error;
  }
}

async function lookAgain(s: Running, deps: DeliveryDeps): Promise<void> {
  const selection = { state: 'retrying', after: -1n, limit: RETRIES_MAX * 2 } as const;
  const rows = await listRetries(deps.pool, s.id, selection);
  const { parked } = await countRetries(deps.pool, s.id);
  const isSettling = ({ position }: (typeof rows)[number]) =>
    s.unsaved.done.has(position) || s.unsaved.kept.has(position);
  // Of those the database is not up to date yet: once it is, they are looked at again.
  s.loop.isStale ||= rows.some(isSettling);
  for (const row of rows) if (!isSettling(row)) askAgain(s, row);
  s.retries.parked =
    parked + [...s.unsaved.kept.values()].filter(({ state }) => state === 'parked').length;
  addRetries(
    s,
    rows.filter((row) => !s.retries.byPosition.has(row.position) && !isSettling(row)),
    deps.clock.nowMs(),
  );
  const { changes } = s.loop;
  await openReplays(s, deps);
  s.loop.replaysAsOf = changes;
}

/** One that waits, or was tried in vain, and that somebody wants now. */
function askAgain(s: Running, row: RetryRow): void {
  const item = s.retries.byPosition.get(row.position);
  if (item === undefined || row.askedAt === null) return;
  if (item.askedAt !== null && item.askedAt >= row.askedAt) return;
  item.askedAt = row.askedAt;
  item.tries = 0;
  item.posts = 0;
  item.dueAtMs = row.dueAt.getTime();
  item.firstFailedAtMs = row.firstFailedAt.getTime();
  // Given up while it was asked for, and not recorded yet: it has all its tries again.
  const givenUp = s.untold.parks.findIndex((park) => park.item === item);
  if (givenUp !== -1) s.untold.parks.splice(givenUp, 1);
}

/** The retry set as it is kept; those that were marked as being sent when their owner ended. */
function addRetries(s: Running, rows: readonly RetryRow[], nowMs: number): Item[] {
  const doubtful: Item[] = [];
  const isStrict = s.ordering === 'strict';
  const readTo = readUpTo(s);
  for (const row of rows) {
    const item: Item = {
      ...{ position: row.position, eventId: row.eventId, key: row.key, epoch: row.epoch },
      ...{ sequence: row.sequence, event: null, lane: null, state: 'waiting', tries: row.tries },
      posts: row.tries,
      dueAtMs: row.dueAt.getTime(),
      firstFailedAtMs: row.firstFailedAt.getTime(),
      lastOutcome: row.lastOutcome,
      replayId: null,
      askedAt: row.askedAt,
    };
    // In strict order what was not read yet takes its place when it is.
    const isAhead = isStrict && row.position > readTo;
    if (isAhead || !s.gate.enter(item)) item.state = 'blocked';
    // Another ordering may have given it a longer wait.
    if (isStrict) item.dueAtMs = Math.min(item.dueAtMs, nowMs + PROBE_MS_MAX);
    s.retries.byPosition.set(row.position, item);
    if (row.isSending) doubtful.push(item);
  }
  return doubtful;
}

/** How far the lane has been read; what is left out is not read any more. */
function readUpTo({ live, settings }: Running): Position {
  const { position } = live.feed.place();
  const skipped = settings.row.epochs.findLast(({ skips }) => skips)?.after ?? 0n;
  return position > skipped ? position : skipped;
}
