import type { KeyObject } from 'node:crypto';
import { type CursorRow, releaseCursor } from '../db/webhook-cursors.ts';
import type { Ordering } from '../domain/webhook.ts';
import type { DeliveryStatus } from '../domain/webhook-delivery.ts';
import { isConnectionError } from '../eventlog/unavailable.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import { attempt } from './attempt.ts';
import { chores } from './chores.ts';
import { lowWatermark } from './lane.ts';
import { allowedNow, dueRetries, nextDueAt, pick } from './pick.ts';
import { fill } from './reading.ts';
import { recover, refresh } from './recovery.ts';
import { isThrough, loadEvents } from './replays.ts';
import { type DeliveryDeps, lanesOf, PAGE_EVENTS, type Running, SLOTS } from './running.ts';
import { takeOver } from './settings.ts';
import { FLUSH_MS, isDue, mayMark, PACE_MS, settleRound, takeWanted } from './settling.ts';

/** One subscription as this process delivers it, until it is stopped, deleted or taken over. */
export type Subscription = Readonly<{
  id: number;
  ordering: Ordering;
  wake: () => void;
  /** How it is set from now on; null when it was deleted. Nothing is begun under the old setting after it. */
  reload: (row: WebhookRow | null, secrets: ReadonlyMap<string, KeyObject>) => void;
  /** Lets what is under way end (bounded), puts everything down, and gives the subscription back. */
  stop: () => Promise<void>;
  /** Resolves when nothing of it runs any more. */
  ended: Promise<void>;
  status: () => DeliveryStatus;
}>;

const FAILED_PAUSE_MS = 250;
const FAILED_PAUSE_MS_MAX = 5_000;
/** For what is under way when the process ends; then it is cut, and said to be unknown. */
const STOP_MS = 5_000;

export async function runSubscription(
  deps: DeliveryDeps,
  cursor: CursorRow,
  row: WebhookRow,
): Promise<Subscription> {
  const s = await recover(deps, cursor, row);
  const ended = run(s, deps);
  return {
    id: s.id,
    ordering: s.ordering,
    wake: () => s.loop.waker.wake(),
    reload(next, secrets) {
      s.loop.isStale = true;
      s.loop.changes += 1;
      if (next === null) s.loop.phase = s.loop.phase === 'running' ? 'deleted' : s.loop.phase;
      // What the worker decided itself is newer than a read model that is behind; and of two reloads the one that was
      // read first may come last, with secrets of its time.
      else if (next.revision >= s.settings.row.revision) {
        takeOver(s, next, deps);
        s.settings.secrets = secrets;
      }
      s.loop.waker.wake();
    },
    async stop() {
      if (s.loop.phase === 'running') s.loop.phase = 'stopping';
      s.loop.waker.wake();
      await ended;
    },
    ended,
    status: () => ({
      position: lowWatermark(s.live).position,
      retries: s.retries.byPosition.size,
      parked: s.retries.parked,
      inFlight: s.underWay.all,
      breaker: s.endpoint.breaker.state,
    }),
  };
}

async function run(s: Running, deps: DeliveryDeps): Promise<void> {
  for (let failures = 0; ; ) {
    const news = s.loop.waker.listen();
    let pauseMs = 0;
    const isEnding = s.loop.phase !== 'running';
    try {
      if (!(await work(s, deps))) break;
      failures = 0;
      pauseMs = waitMs(s, deps);
    } catch (error) {
      if (!isConnectionError(error)) {
        deps.logger.error({ err: error, webhook: s.id }, 'deliveries failed on a bug');
      }
      // The end in good order is tried once, also when a round before it has failed.
      if (isEnding) break;
      failures += 1;
      pauseMs = Math.min(FAILED_PAUSE_MS * failures, FAILED_PAUSE_MS_MAX);
    }
    if (pauseMs > 0) await news.within(pauseMs);
  }
  s.loop.phase = s.loop.phase === 'running' ? 'fenced' : s.loop.phase;
  s.loop.cut.abort();
  if (s.loop.phase !== 'fenced')
    await releaseCursor(deps.pool, s.id, s.token).catch(() => undefined);
}

/** One round: read, mark, put down, send. False when there will be no other. */
async function work(s: Running, deps: DeliveryDeps): Promise<boolean> {
  if (s.loop.phase === 'stopping' || s.loop.phase === 'deleted') return finish(s, deps);
  await chores(s, deps);
  if (s.loop.isStale) await refresh(s, deps);
  const nowMs = deps.clock.nowMs();
  const allowed = allowedNow(s, deps, nowMs);
  if (allowed > 0) await fill(s, deps, allowed);
  const marks = mayMark(s) ? allowed : 0;
  const due = marks === 0 ? [] : dueRetries(s, nowMs, Math.min(marks, SLOTS));
  await loadEvents(deps, due);
  const known = due.filter(({ event }) => event !== null);
  const wanted = takeWanted(s, marks, known);
  const mustSettle = isDoubted(s, deps) || isDue(s, wanted, nowMs);
  if (mustSettle && !(await settleRound(s, deps, wanted))) {
    // Another has it: what is under way there is theirs to know of.
    return false;
  }
  dispatch(s, deps);
  return true;
}

/** The lease has lapsed since the database last said that it is ours. */
const isDoubted = (s: Running, { lapses }: DeliveryDeps): boolean => s.saved.lapses !== lapses();

/** Begins whatever may go now. */
function dispatch(s: Running, deps: DeliveryDeps): void {
  if (isDoubted(s, deps)) {
    s.loop.waker.wake();
    return;
  }
  for (;;) {
    const nowMs = deps.clock.nowMs();
    const item = pick(s, deps, nowMs);
    if (item === null) return;
    const isBegun = attempt(s, deps, item, () => {
      dispatch(s, deps);
      // Results wait for company, but not for long: the first has the wait cut to that. And there must be more to send
      // before there is none.
      const isShort = s.live.ready.length < SLOTS * 2;
      const { length: results } = s.unsaved.attempts;
      if (isShort || results === 1 || results >= PAGE_EVENTS || s.untold.disable !== null)
        s.loop.waker.wake();
    });
    if (isBegun) continue;
    if (item.lane === null) s.retries.marked.unshift(item);
    else if (item.lane.again.includes(item)) return;
    else item.lane.ready.unshift(item);
    return;
  }
}

/** The end in good order. True while something is still under way. */
async function finish(s: Running, deps: DeliveryDeps): Promise<boolean> {
  const deadline = performance.now() + STOP_MS;
  while (s.underWay.all > 0) {
    if (performance.now() > deadline) s.loop.cut.abort();
    await s.loop.waker.listen().within(FLUSH_MS);
  }
  if (s.loop.phase === 'stopping') await chores(s, deps);
  await settleRound(s, deps, { lanes: [], retries: [] }, true);
  return false;
}

function waitMs(s: Running, { clock, lookMs }: DeliveryDeps): number {
  const nowMs = clock.nowMs();
  const isMarkable =
    lanesOf(s).some(({ fresh }) => fresh.length > 0) || dueRetries(s, nowMs, 1).length > 0;
  if (isMarkable && s.underWay.all > 0) return PACE_MS;
  if (s.unsaved.sinceMs !== null) return Math.max(1, s.unsaved.sinceMs + FLUSH_MS - nowMs);
  if (s.replays.some(isThrough)) return 1;
  const due = nextDueAt(s, nowMs);
  return due === null ? lookMs : Math.min(Math.max(1, due - nowMs), lookMs);
}
