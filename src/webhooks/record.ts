import { hash } from 'node:crypto';
import type { Attempt, AttemptKind } from '../db/webhook-attempts.ts';
import { afterFailure, afterSuccess } from './breaker.ts';
import { type Item, release, unmark } from './lane.ts';
import { moveToRetries } from './retry-set.ts';
import { type DeliveryDeps, lanesOf, type Running, SLOTS } from './running.ts';
import { eventFailingSince, nextTryAt, nextTryInOrderAt } from './schedule.ts';
import type { Sent } from './send.ts';
import { keep, markDirty } from './unsaved.ts';
import { judge, type Verdict } from './verdict.ts';

/** Tries of one event by one replay. */
const REPLAY_TRIES_MAX = 3;

/** One try as it was begun. */
export type Begun = Readonly<{
  kind: AttemptKind;
  startedAt: Date;
  /** Where it went, as the subscription was set then. */
  url: string;
  body: string;
  /** Fingerprints of the secrets that signed. */
  signedBy: readonly string[];
}>;

/** Takes in what came of one try; nothing of it counts before it is put down with the cursor. */
export function record(
  s: Running,
  deps: DeliveryDeps,
  item: Item,
  { begun, sent, isCut }: Readonly<{ begun: Begun; sent: Sent; isCut: boolean }>,
): void {
  const nowMs = deps.clock.nowMs();
  // Ended by ourselves in the middle: nobody knows whether it arrived.
  const isUnknown = isCut && sent.reply.failure === 'no_answer';
  const judged: Verdict = isUnknown
    ? { outcome: 'unknown', event: 'hold', health: 'unsaid', disable: null, quietMs: null }
    : judge(sent.reply, nowMs);
  const verdict = begun.url === s.settings.row.url ? judged : fromFormerUrl(judged);
  s.unsaved.attempts.push(toAttempt(item, { begun, sent, outcome: verdict.outcome }));
  deps.onAttempt(verdict.outcome, sent.ms);
  item.lastOutcome = verdict.outcome;
  markDirty(s.unsaved, nowMs);
  const wasClosed = s.endpoint.breaker.state === 'closed';
  judgeHealth(s, deps, item, { verdict, nowMs });
  if (verdict.disable !== null) s.untold.disable ??= verdict.disable;
  if (verdict.quietMs !== null) {
    s.endpoint.quietUntilMs = Math.max(s.endpoint.quietUntilMs, nowMs + verdict.quietMs);
    // Whoever only ever asks for quiet gets nothing, which somebody should know.
    const since = s.endpoint.breaker.failingSinceMs ?? nowMs;
    s.endpoint.breaker = { ...s.endpoint.breaker, failingSinceMs: since, lastFailedAtMs: nowMs };
  }
  settleItem(s, deps, item, { verdict, nowMs });
  if (verdict.health === 'well') keepPending(s, nowMs);
  if (wasClosed && s.endpoint.breaker.state === 'open') onOpened(s);
}

/** A URL that was left meanwhile may have taken the event; of the one that came after it says nothing. */
const fromFormerUrl = ({ outcome, event }: Verdict): Verdict => ({
  outcome,
  event: event === 'delivered' ? event : 'hold',
  ...{ health: 'unsaid', disable: null, quietMs: null },
});

function judgeHealth(
  s: Running,
  deps: DeliveryDeps,
  item: Item,
  { verdict, nowMs }: Readonly<{ verdict: Verdict; nowMs: number }>,
): void {
  const { breaker } = s.endpoint;
  if (verdict.health === 'well') {
    if (breaker.notices > 0 && breaker.failingSinceMs !== null) {
      const since = new Date(breaker.failingSinceMs).toISOString();
      s.untold.notes.push({
        note: { type: 'webhook.recovered', data: { since } },
        occasion: `recovered/${since}`,
        atMs: breaker.failingSinceMs,
      });
    }
    s.endpoint.breaker = afterSuccess(breaker, SLOTS, nowMs);
  } else if (verdict.health !== 'unsaid') {
    const { position } = item;
    const isCertain = verdict.health === 'gone_bad';
    // One that has failed by itself before says nothing new of its endpoint, unless nobody else can.
    const isOld = item.lane === null && s.ordering !== 'strict';
    if (isOld && !isCertain && breaker.state === 'closed') return;
    s.endpoint.breaker = afterFailure(breaker, { position, isCertain, nowMs, random: deps.random });
    if (isCertain && s.endpoint.breaker.notices === 0) {
      const since = new Date(s.endpoint.breaker.failingSinceMs ?? nowMs).toISOString();
      const data = { since, hours: 0, cause: verdict.outcome };
      const note = { type: 'webhook.failing', data } as const;
      s.untold.notes.push({ note, occasion: `failing/${since}/0`, atMs: Date.parse(since) });
      s.endpoint.breaker = { ...s.endpoint.breaker, notices: 1 };
    }
  }
}

function settleItem(
  s: Running,
  deps: DeliveryDeps,
  item: Item,
  { verdict, nowMs }: Readonly<{ verdict: Verdict; nowMs: number }>,
): void {
  switch (verdict.event) {
    case 'delivered':
      if (item.lane === null) {
        if (s.retries.byPosition.get(item.position) === item)
          s.retries.byPosition.delete(item.position);
        s.unsaved.kept.delete(item.position);
        s.unsaved.done.set(item.position, item.askedAt);
      } else {
        item.lane.delivered += 1n;
        leaveLane(item);
        if (item.replayId !== null) unpark(s, item);
      }
      item.state = 'over';
      // Until the watermark passes it, its place is all that is needed.
      item.event = null;
      release(s.gate, item);
      return;
    case 'park':
      if (item.replayId !== null) {
        failReplayed(item);
        return;
      }
      stayPut(s, item);
      item.tries += 1;
      s.untold.parks.push({ item, cause: 'aborted_by_receiver' });
      // Not to be picked again before it is parked.
      item.dueAtMs = Number.POSITIVE_INFINITY;
      return;
    case 'hold':
      stayPut(s, item);
      if (item.lane === null) keep(s.unsaved, item);
      return;
    case 'retry':
      retryLater(s, deps, item, nowMs);
  }
}

function retryLater(s: Running, deps: DeliveryDeps, item: Item, nowMs: number): void {
  stayPut(s, item);
  const isStrict = s.ordering === 'strict';
  // In strict order no other event will ever tell whose fault it is.
  if (s.endpoint.breaker.state !== 'closed' && !isStrict) {
    // The endpoint's fault, for all that is known: this event's tries are not spent on it.
    if (item.lane === null) keep(s.unsaved, item);
    return;
  }
  item.firstFailedAtMs = eventFailingSince(item, nowMs);
  item.tries += 1;
  if (item.replayId !== null && item.tries >= REPLAY_TRIES_MAX) {
    failReplayed(item);
    return;
  }
  const { tries, firstFailedAtMs: sinceMs } = item;
  const next = isStrict && item.replayId === null ? nextTryInOrderAt : nextTryAt;
  const dueAtMs = next({ tries, sinceMs }, nowMs, deps.random);
  if (dueAtMs === null) {
    s.untold.parks.push({ item, cause: 'gave_up' });
    item.dueAtMs = Number.POSITIVE_INFINITY;
    return;
  }
  item.dueAtMs = dueAtMs;
  if (item.lane === null) keep(s.unsaved, item);
  // Failed alone for the second time, with nobody to say whose fault it is: others need not wait for it. Where
  // they do, its tries are kept from the first on.
  else if (item.replayId === null && (isStrict || tries > 1)) moveToRetries(s, item, nowMs);
}

/** Given up before, and delivered now. */
function unpark(s: Running, item: Item): void {
  if (s.retries.parked === 0 || s.retries.byPosition.has(item.position)) return;
  s.unsaved.done.set(item.position, item.askedAt);
  s.loop.isStale = true;
}

/** A replay has an end: what it could not deliver is counted, and told by its attempts. */
function failReplayed(item: Item): void {
  if (item.lane !== null) item.lane.failed += 1n;
  leaveLane(item);
  item.state = 'over';
  item.event = null;
}

/** Something arrived: what failed before it failed by itself. */
function keepPending(s: Running, nowMs: number): void {
  for (const item of [...s.live.again]) {
    if (item.state === 'waiting' && item.tries > 0 && Number.isFinite(item.dueAtMs)) {
      moveToRetries(s, item, nowMs);
    }
  }
}

/** It is the endpoint: what failed has used up no tries, and nothing more is marked as if it were sent. */
function onOpened(s: Running): void {
  for (const lane of lanesOf(s)) {
    for (const item of lane.again) {
      if (!Number.isFinite(item.dueAtMs)) continue;
      item.tries = 0;
      item.dueAtMs = 0;
    }
    unmark(lane);
  }
  for (const item of s.retries.marked.splice(0)) {
    item.state = 'waiting';
    keep(s.unsaved, item);
  }
}

function stayPut(s: Running, item: Item): void {
  item.state = 'waiting';
  const { lane } = item;
  if (lane !== null && !lane.again.includes(item)) lane.again.push(item);
  if (lane === null) s.retries.byPosition.set(item.position, item);
}

function leaveLane(item: Item): void {
  const { lane } = item;
  if (lane === null) return;
  const index = lane.again.indexOf(item);
  if (index !== -1) lane.again.splice(index, 1);
}

function toAttempt(
  item: Item,
  { begun, sent, outcome }: Readonly<{ begun: Begun; sent: Sent; outcome: string }>,
): Attempt {
  return {
    position: item.position,
    startedAt: begun.startedAt,
    eventId: item.eventId,
    type: item.event?.type ?? '',
    kind: begun.kind,
    tries: item.posts,
    outcome,
    status: sent.reply.status,
    ms: sent.ms,
    bodySha256: hash('sha256', begun.body, 'buffer'),
    signedBy: begun.signedBy.join(' '),
    peer: sent.peer,
    replayId: item.replayId,
    error: sent.error,
    excerpt: sent.excerpt,
  };
}

/** The mark that a crash has left: something may have been sent, and nothing was put down. */
export const unknownAttempt = (item: Item, startedAt: Date): Attempt => ({
  position: item.position,
  startedAt,
  eventId: item.eventId,
  type: item.event?.type ?? '',
  kind: item.replayId !== null ? 'replay' : item.lane === null ? 'retry' : 'live',
  tries: item.posts + 1,
  outcome: 'unknown',
  status: null,
  ms: 0,
  bodySha256: null,
  signedBy: null,
  peer: null,
  replayId: item.replayId,
  error: 'its sender ended before it had an answer',
  excerpt: null,
});
