/** Seconds until the next try after each failed one: the example of Standard Webhooks, 75.6 hours in all. */
export const RETRY_SECONDS: readonly number[] = [
  5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400,
];
/** Seconds between looks at an endpoint that is down. Flat at the end: one that is back must not wait a day. */
const PROBE_SECONDS: readonly number[] = [5, 15, 45, 120, 300, 600, 900];
/** Waits are only made longer, by up to a fifth, so that what failed together does not return together. */
const SPREAD = 0.2;

const QUIET_MS_MIN = 1_000;
const QUIET_MS_MAX = 86_400_000;

/** When an event that has failed `tries` times is due again; null when that was the last time. */
export function nextTryAt(tries: number, nowMs: number, random: () => number): number | null {
  const seconds = RETRY_SECONDS[tries - 1];
  return seconds === undefined ? null : nowMs + spread(seconds, random);
}

/**
 * The same for an event that all others wait for: as often as an endpoint that is down is looked at, and as
 * long as `nextTryAt` would. Nobody can say whether it is the event or the endpoint that fails.
 */
export function nextTryInOrderAt(
  { tries, sinceMs }: Readonly<{ tries: number; sinceMs: number }>,
  nowMs: number,
  random: () => number,
): number | null {
  const wholeMs = RETRY_SECONDS.reduce((sum, seconds) => sum + seconds, 0) * 1_000;
  // Time in which it could not be tried is no reason to give it up.
  const isThrough = nowMs - sinceMs >= wholeMs && tries > RETRY_SECONDS.length;
  return isThrough ? null : nextProbeAt(tries - 1, nowMs, random);
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
