/** One token is this many units, so that a rate of n a minute refills n units a millisecond. */
const UNITS_PER_TOKEN = 60_000;
/** An empty bucket is full after ten minutes, whatever its rate: capacity is ten minutes' worth. */
const FILL_MS = 600_000;
export const BURST_FACTOR = 10;
export const RATE_LIMIT_PER_MINUTE_MAX = 1_000_000;

/** A token bucket: `level` in units, true at `at` (milliseconds of a clock that never steps back). */
export type Bucket = { level: number; at: number };

export type Taken = Readonly<{ allowed: boolean; remaining: number; retryAfterSeconds: number }>;

/** A bucket that has never been used is full. */
export function fullBucket(ratePerMinute: number, now: number): Bucket {
  return { level: capacityUnits(ratePerMinute), at: now };
}

/**
 * Takes one token if there is one, changing the bucket in place (this runs on every request). Over
 * any interval at most `capacity + rate x interval` requests are allowed; a refused one costs
 * nothing. All arithmetic is on integers below 2^53, so it is exact for every permitted rate.
 */
export function takeToken(bucket: Bucket, ratePerMinute: number, now: number): Taken {
  refill(bucket, ratePerMinute, now);
  if (bucket.level >= UNITS_PER_TOKEN) {
    bucket.level -= UNITS_PER_TOKEN;
    return { allowed: true, remaining: tokens(bucket), retryAfterSeconds: 0 };
  }
  const retryMs = Math.ceil((UNITS_PER_TOKEN - bucket.level) / ratePerMinute);
  return {
    allowed: false,
    remaining: tokens(bucket),
    retryAfterSeconds: Math.max(1, Math.ceil(retryMs / 1_000)),
  };
}

/** Whole tokens in the bucket at `now`; the bucket stays as it is. */
export function remainingTokens(
  bucket: Readonly<Bucket>,
  ratePerMinute: number,
  now: number,
): number {
  const copy = { ...bucket };
  refill(copy, ratePerMinute, now);
  return tokens(copy);
}

/** Credits what was refilled until `now`: call it with the old rate before the rate changes. */
export const settleBucket = (bucket: Bucket, ratePerMinute: number, now: number): void =>
  refill(bucket, ratePerMinute, now);

/** Requests that can come at once after ten idle minutes. */
export const capacityOf = (ratePerMinute: number): number => ratePerMinute * BURST_FACTOR;

function refill(bucket: Bucket, ratePerMinute: number, now: number): void {
  const elapsed = Math.min(Math.max(now - bucket.at, 0), FILL_MS);
  // Cutting to the capacity here is also what a lowered limit needs: tokens stay, up to the new brim.
  bucket.level = Math.min(capacityUnits(ratePerMinute), bucket.level + elapsed * ratePerMinute);
  bucket.at = Math.max(bucket.at, now);
}

const capacityUnits = (ratePerMinute: number): number =>
  capacityOf(ratePerMinute) * UNITS_PER_TOKEN;
const tokens = (bucket: Bucket): number => Math.floor(bucket.level / UNITS_PER_TOKEN);
