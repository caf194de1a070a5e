import type { BreakerState } from '../domain/webhook-delivery.ts';
import { failingSince, nextProbeAt } from './schedule.ts';

/**
 * Whether an endpoint is worth a try. Closed: as many at once as there are slots. Open: nothing but a look
 * now and then. Half open: a few, and more with each that arrives, so that one that recovers is not flooded.
 */
export type Breaker = Readonly<{
  state: BreakerState;
  /** Deliveries at once while half open. */
  limit: number;
  /** Successes since the limit was last raised. */
  credit: number;
  /** Looks since it opened that failed. */
  probes: number;
  probeAtMs: number;
  /** Since when nothing has arrived; null while things do. */
  failingSinceMs: number | null;
  /** When something last failed: time in which nothing was tried is no outage. */
  lastFailedAtMs: number | null;
  /** Notices that were given of it. */
  notices: number;
  /** Distinct events that failed since the last success; not kept over a restart. */
  failed: readonly bigint[];
  /** Tries of the last minute, for an endpoint that fails every other time; not kept either. */
  recent: Readonly<{ sinceMs: number; tries: number; failures: number }>;
}>;

/** Nothing is failing, as far as is known. */
export const UNTOLD = { failingSinceMs: null, lastFailedAtMs: null, notices: 0 } as const;

export const CLOSED: Breaker = {
  state: 'closed',
  limit: 1,
  credit: 0,
  probes: 0,
  probeAtMs: 0,
  ...UNTOLD,
  failed: [],
  recent: { sinceMs: 0, tries: 0, failures: 0 },
};

/** So many events in a row that failed say that it is not the event. */
export const FAILED_EVENTS_MAX = 5;
const RECENT_MS = 60_000;
const RECENT_TRIES_MIN = 20;
const RECENT_FAILURES_SHARE = 0.5;

export function afterSuccess(breaker: Breaker, slots: number, nowMs: number): Breaker {
  // The minute begins with its first failure: where all is well there is nothing to count.
  if (
    breaker.state === 'closed' &&
    breaker.failingSinceMs === null &&
    breaker.recent.failures === 0
  ) {
    return breaker;
  }
  const recent = count(breaker, nowMs, 0);
  const well = { ...breaker, recent, failed: [], probes: 0, ...UNTOLD };
  if (breaker.state === 'closed') return well;
  if (breaker.state === 'open') return { ...well, state: 'half_open', limit: 2, credit: 0 };
  if (breaker.credit + 1 < breaker.limit) return { ...well, credit: breaker.credit + 1 };
  const limit = breaker.limit * 2;
  if (limit < slots) return { ...well, limit, credit: 0 };
  return { ...well, state: 'closed', recent: { sinceMs: nowMs, tries: 0, failures: 0 } };
}

type Failure = Readonly<{
  position: bigint;
  /** It is known not to be the event's fault. */
  isCertain: boolean;
  nowMs: number;
  random: () => number;
}>;

export function afterFailure(breaker: Breaker, failure: Failure): Breaker {
  const { position, nowMs, random } = failure;
  const failingSinceMs = failingSince(breaker.failingSinceMs, breaker.lastFailedAtMs, nowMs);
  const failing = { failingSinceMs, lastFailedAtMs: nowMs };
  const recent = count(breaker, nowMs, 1);
  if (breaker.state === 'open' && nowMs < breaker.probeAtMs) {
    // Begun before it opened: this says nothing new.
    return breaker;
  }
  if (breaker.state !== 'closed') {
    const probes = breaker.probes + 1;
    const probeAtMs = nextProbeAt(probes, nowMs, random);
    return { ...breaker, ...failing, state: 'open', probes, probeAtMs, recent };
  }
  const failed = breaker.failed.includes(position) ? breaker.failed : [...breaker.failed, position];
  const opens = failure.isCertain || failed.length >= FAILED_EVENTS_MAX || isMostlyFailing(recent);
  if (!opens) return { ...breaker, ...failing, failed, recent };
  const probeAtMs = nextProbeAt(0, nowMs, random);
  return { ...breaker, ...failing, state: 'open', probes: 0, probeAtMs, failed: [], recent };
}

function count({ recent }: Breaker, nowMs: number, failures: number): Breaker['recent'] {
  const isOver = nowMs - recent.sinceMs > RECENT_MS;
  const {
    sinceMs,
    tries,
    failures: before,
  } = isOver ? { sinceMs: nowMs, tries: 0, failures: 0 } : recent;
  return { sinceMs, tries: tries + 1, failures: before + failures };
}

const isMostlyFailing = ({ tries, failures }: Breaker['recent']): boolean =>
  tries >= RECENT_TRIES_MIN && failures >= tries * RECENT_FAILURES_SHARE;

/** How many deliveries may be under way now. */
export function allowance({ state, limit, probeAtMs }: Breaker, slots: number, nowMs: number) {
  if (state === 'closed') return slots;
  if (state === 'half_open') return Math.min(limit, slots);
  return nowMs >= probeAtMs ? 1 : 0;
}

const KEPT = [
  'state',
  'limit',
  'credit',
  'probes',
  'probeAtMs',
  'failingSinceMs',
  'lastFailedAtMs',
  'notices',
] as const;

/** What outlives the process: a restart forgives nothing. */
export const toKept = (breaker: Breaker): object =>
  Object.fromEntries(KEPT.map((member) => [member, breaker[member]]));

export const fromKept = (kept: Readonly<Record<string, unknown>>): Breaker => ({
  ...CLOSED,
  ...(kept as Partial<Breaker>),
});
