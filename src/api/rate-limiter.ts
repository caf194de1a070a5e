import type pg from 'pg';
import type { Clock } from '../clock.ts';
import { loadBuckets, removeBuckets, saveBuckets } from '../db/rate-buckets.ts';
import {
  BURST_FACTOR,
  type Bucket,
  fullBucket,
  remainingTokens,
  settleBucket,
  type Taken,
  takeToken,
} from '../domain/rate-limit.ts';
import { findForsakenBuckets } from '../projections/api-keys.ts';
import type { LiveKey } from '../projections/live-keys.ts';

export type RateLimiter = Readonly<{
  take: (key: LiveKey) => Taken;
  /** Tokens left, without taking one. */
  remaining: (bucketId: number, ratePerMinute: number) => number;
  /** Credits what was refilled until now at the rate that is about to change. */
  settle: (bucketId: number, ratePerMinute: number) => void;
  /** Writes the levels that changed since the last call. */
  flush: () => Promise<void>;
  /** Drops the buckets whose keys are all deleted. */
  forgetDeleted: () => Promise<void>;
}>;

/**
 * One token bucket per key (a rotated key and its successor share one), in memory. Levels are flushed
 * now and then and resumed, with the time that passed, so that a restart gives nobody a new burst.
 */
export async function openRateLimiter(pool: pg.Pool, clock: Clock): Promise<RateLimiter> {
  const buckets = new Map<number, Bucket>();
  for (const { id, level, atMs } of await loadBuckets(pool)) buckets.set(id, { level, at: atMs });
  const dirty = new Set<number>();

  function bucketOf(id: number, rate: number, now: number): Bucket {
    const known = buckets.get(id);
    if (known !== undefined) return known;
    const fresh = fullBucket(rate, now);
    buckets.set(id, fresh);
    return fresh;
  }

  async function forgetDeleted(): Promise<void> {
    const forsaken = await findForsakenBuckets(pool, [...buckets.keys()]);
    for (const id of forsaken) {
      buckets.delete(id);
      dirty.delete(id);
    }
    await removeBuckets(pool, forsaken);
  }

  await forgetDeleted();
  return {
    forgetDeleted,
    take(key) {
      const now = clock.nowMs();
      const rate = key.principal.rateLimitPerMinute;
      dirty.add(key.bucket);
      return takeToken(bucketOf(key.bucket, rate, now), rate, now);
    },
    remaining(bucketId, rate) {
      const now = clock.nowMs();
      return remainingTokens(bucketOf(bucketId, rate, now), rate, now);
    },
    settle(bucketId, rate) {
      const now = clock.nowMs();
      settleBucket(bucketOf(bucketId, rate, now), rate, now);
      dirty.add(bucketId);
    },
    async flush() {
      const ids = [...dirty];
      dirty.clear();
      const rows = ids.flatMap((id) => {
        const bucket = buckets.get(id);
        return bucket === undefined ? [] : [{ id, level: bucket.level, atMs: bucket.at }];
      });
      await saveBuckets(pool, rows).catch((error: unknown) => {
        for (const id of ids) dirty.add(id);
        throw error;
      });
    },
  };
}

/**
 * `RateLimit` and `RateLimit-Policy` as in draft-ietf-httpapi-ratelimit-headers-11: `t` is the time in
 * which `r` may be used up without outrunning the rate, the burst a parameter of our own.
 */
export function rateLimitHeaders(ratePerMinute: number, taken: Taken): readonly [string, string] {
  const window = taken.allowed
    ? Math.max(1, Math.ceil((taken.remaining * 60) / ratePerMinute))
    : taken.retryAfterSeconds;
  return [
    `"default";q=${ratePerMinute};w=60;nmg-burst=${ratePerMinute * BURST_FACTOR}`,
    `"default";r=${taken.remaining};t=${window}`,
  ];
}
