/** Seconds until the next try after each failed one: the example of Standard Webhooks, 75.6 hours in all. */
export const RETRY_SECONDS: readonly number[] = [
  5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400,
];
const WHOLE_MS = RETRY_SECONDS.reduce((sum, seconds) => sum + seconds, 0) * 1_000;
/** Seconds between looks at an endpoint that is down. Flat at the end: one that is back must not wait a day. */
const PROBE_SECONDS: readonly number[] = [5, 15, 45, 120, 300, 600, 900];
/** The longest of them, but for its spread. */
export const PROBE_MS_MAX = (PROBE_SECONDS.at(-1) ?? 0) * 1_000;
/** Waits are only made longer, by up to a fifth, so that what failed together does not return together. */
const SPREAD = 0.2;

const QUIET_MS_MIN = 1_000;
const QUIET_MS_MAX = 86_400_000;

/** A stretch in which nothing was tried counts for no more than this. */
const UNTRIED_MS_MAX = 86_400_000;

/** Since when something fails, with time left out in which it was not tried; null before it has failed. */
export function failingSince(
  sinceMs: number | null,
  untriedFromMs: number | null,
  nowMs: number,
): number {
  if (sinceMs === null) return nowMs;
  const untriedMs = nowMs - (untriedFromMs ?? nowMs);
  return sinceMs + Math.max(0, untriedMs - UNTRIED_MS_MAX);
}

/** Since when an event fails: it goes untried from when it was due on. */
export const eventFailingSince = (
  { firstFailedAtMs, dueAtMs }: Readonly<{ firstFailedAtMs: number | null; dueAtMs: number }>,
  nowMs: number,
): number => failingSince(firstFailedAtMs, dueAtMs === 0 ? null : dueAtMs, nowMs);

/** How often an event has failed, and since when. */
type Failed = Readonly<{ tries: number; sinceMs: number }>;

/** When an event that has failed is due again; null when that was the last time. */
export function nextTryAt(failed: Failed, nowMs: number, random: () => number): number | null {
  if (isThrough(failed, nowMs)) return null;
  const last = RETRY_SECONDS.length - 1;
  return nowMs + spread(RETRY_SECONDS[Math.min(failed.tries - 1, last)] ?? 0, random);
}

/** The whole schedule is over, and so are its tries: those of the other schedule are more, in less time. */
const isThrough = ({ tries, sinceMs }: Failed, nowMs: number): boolean =>
  tries > RETRY_SECONDS.length && nowMs - sinceMs >= WHOLE_MS;

/**
 * The same for an event that all others wait for: as often as an endpoint that is down is looked at, and as
 * long as `nextTryAt` would. Nobody can say whether it is the event or the endpoint that fails.
 */
export function nextTryInOrderAt(
  failed: Failed,
  nowMs: number,
  random: () => number,
): number | null {
  return isThrough(failed, nowMs) ? null : nextProbeAt(failed.tries - 1, nowMs, random);
}

/** When an endpoint that has failed `probes` looks is looked at again. */
export function nextProbeAt(probes: number, nowMs: number, random: () => number): number {
  const last = PROBE_SECONDS.length - 1;
  return nowMs + spread(PROBE_SECONDS[Math.min(probes, last)] ?? 0, random);
}

const spread = (seconds: number, random: () => number): number =>
  Math.round(seconds * 1_000 * (1 + SPREAD * random()));

/**
 * `Retry-After` (RFC 9110 section 10.2.3) in milliseconds from now: seconds or an HTTP date, held between a
 * second and a day; null for what is neither.
 */
export function parseRetryAfter(text: string | null, nowMs: number): number | null {
  if (text === null) return null;
  const value = text.trim();
  const clamp = (ms: number) => Math.min(Math.max(ms, QUIET_MS_MIN), QUIET_MS_MAX);
  if (/^\d+$/.test(value)) return clamp(Number(value) * 1_000);
  // Date.parse takes much that is no HTTP date; that begins with the name of a day.
  if (!/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? /.test(value)) return null;
  const at = Date.parse(value);
  return Number.isNaN(at) ? null : clamp(at - nowMs);
}
