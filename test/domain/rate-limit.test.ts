import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Bucket,
  capacityOf,
  fullBucket,
  RATE_LIMIT_PER_MINUTE_MAX,
  remainingTokens,
  settleBucket,
  type Taken,
  takeToken,
} from '../../src/domain/rate-limit.ts';

const T0 = Date.parse('2026-05-01T00:00:00Z');
const UNITS_PER_TOKEN = 60_000;
const RPM = 100;

function takeMany(bucket: Bucket, count: number, at: number): Taken[] {
  return Array.from({ length: count }, () => takeToken(bucket, RPM, at));
}
const allowedOf = (taken: readonly Taken[]) => taken.filter(({ allowed }) => allowed).length;
function emptied(): Bucket {
  const bucket = fullBucket(RPM, T0);
  takeMany(bucket, 1_000, T0);
  return bucket;
}

describe('a bucket of 100 a minute (published vectors)', () => {
  it('lets 1000 through at once and refuses the next with Retry-After 1', () => {
    const bucket = fullBucket(RPM, T0);
    const taken = takeMany(bucket, 1_001, T0);
    expect(allowedOf(taken)).toBe(1_000);
    expect(taken[0]).toEqual({ allowed: true, remaining: 999, retryAfterSeconds: 0 });
    expect(taken[999]).toEqual({ allowed: true, remaining: 0, retryAfterSeconds: 0 });
    expect(taken[1_000]).toEqual({ allowed: false, remaining: 0, retryAfterSeconds: 1 });
  });

  it('still refuses after 599 ms and lets exactly one through after 600 ms', () => {
    const bucket = emptied();
    expect(takeToken(bucket, RPM, T0 + 599).allowed).toBe(false);
    expect(takeMany(bucket, 2, T0 + 600).map(({ allowed }) => allowed)).toEqual([true, false]);
  });

  it.each([
    [60, 100],
    [600, 1_000],
    [700, 1_000],
  ])('has after %i idle seconds %i tokens', (seconds, tokens) => {
    expect(remainingTokens(emptied(), RPM, T0 + seconds * 1_000)).toBe(tokens);
    expect(allowedOf(takeMany(emptied(), 1_100, T0 + seconds * 1_000))).toBe(tokens);
  });

  it.each([
    [60, 1_100],
    [3_600, 7_000],
  ])('lets at most through in %i seconds: %i', (seconds, most) => {
    const bucket = fullBucket(RPM, T0);
    let allowed = 0;
    // A caller that never stops: at every tick until it is refused.
    for (let ms = 0; ms <= seconds * 1_000; ms += 100) {
      while (takeToken(bucket, RPM, T0 + ms).allowed) allowed += 1;
    }
    expect(allowed).toBe(most);
  });

  it('takes nothing for a refused request', () => {
    const bucket = emptied();
    takeMany(bucket, 500, T0 + 300);
    expect(takeToken(bucket, RPM, T0 + 600).allowed).toBe(true);
  });

  it('gives nothing for a clock that steps back', () => {
    const bucket = emptied();
    expect(takeToken(bucket, RPM, T0 - 3_600_000).allowed).toBe(false);
    expect(takeToken(bucket, RPM, T0 + 599).allowed).toBe(false);
  });

  it('is told what it has without losing it', () => {
    const bucket = emptied();
    expect(remainingTokens(bucket, RPM, T0 + 6_000)).toBe(10);
    expect(bucket).toEqual({ level: 0, at: T0 });
  });

  it('is credited by the old rate until the rate changes', () => {
    const bucket = emptied();
    settleBucket(bucket, RPM, T0 + 60_000);
    expect(bucket).toEqual({ level: 100 * UNITS_PER_TOKEN, at: T0 + 60_000 });
    expect(remainingTokens(bucket, 600, T0 + 61_000)).toBe(110);
  });

  it('cuts to the new capacity when the rate is lowered', () => {
    expect(remainingTokens(fullBucket(RPM, T0), 10, T0)).toBe(capacityOf(10));
  });
});

describe('Retry-After', () => {
  it('is a whole number of seconds, enough, and never zero', () => {
    fc.assert(
      fc.property(rates(), fc.nat(UNITS_PER_TOKEN - 1), (rate, level) => {
        const bucket = { level, at: T0 };
        const { allowed, retryAfterSeconds } = takeToken(bucket, rate, T0);
        expect(allowed).toBe(false);
        expect(Number.isInteger(retryAfterSeconds) && retryAfterSeconds >= 1).toBe(true);
        const early = { ...bucket };
        const secondBefore = T0 + (retryAfterSeconds - 1) * 1_000;
        expect(takeToken(early, rate, secondBefore).allowed).toBe(false);
        expect(takeToken(bucket, rate, T0 + retryAfterSeconds * 1_000).allowed).toBe(true);
      }),
    );
  });
});

describe('any bucket', () => {
  it('allows over every interval at most its capacity and its rate, and loses no token', () => {
    fc.assert(
      fc.property(rates(), steps(), fc.double({ min: 0, max: 1, noNaN: true }), holdsItsPromises),
      { numRuns: 100 },
    );
  });

  it('stays in integers below 2^53 at the highest rate', () => {
    const bucket = fullBucket(RATE_LIMIT_PER_MINUTE_MAX, 0);
    takeToken(bucket, RATE_LIMIT_PER_MINUTE_MAX, Number.MAX_SAFE_INTEGER - 1);
    expect(Number.isSafeInteger(bucket.level)).toBe(true);
    expect(bucket.level + 600_000 * RATE_LIMIT_PER_MINUTE_MAX).toBeLessThan(2 ** 53);
  });
});

function rates() {
  return fc.oneof(
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: RATE_LIMIT_PER_MINUTE_MAX }),
  );
}

/** Moments in any order (a clock may step), with some requests at each. */
function steps() {
  const moment = fc.oneof(fc.nat(2_000), fc.nat(120_000), fc.nat(2_000_000));
  return fc.array(fc.tuple(moment, fc.integer({ min: 1, max: 60 })), {
    minLength: 1,
    maxLength: 40,
  });
}

function holdsItsPromises(
  rate: number,
  moments: readonly (readonly [number, number])[],
  fill: number,
): void {
  const capacity = BigInt(capacityOf(rate)) * BigInt(UNITS_PER_TOKEN);
  // From anywhere between empty and full, or the brim of a high rate would never be met.
  const level = Math.floor(Number(capacity) * (rate > 5 ? fill * 1e-5 : fill));
  const bucket: Bucket = { level, at: T0 };
  let exact = BigInt(level);
  let latest = T0;
  const used: { at: number; allowed: number; before: bigint }[] = [];
  for (const [offset, requests] of moments) {
    const at = Math.max(latest, T0 + offset);
    const grown = exact + BigInt(at - latest) * BigInt(rate);
    exact = grown < capacity ? grown : capacity;
    latest = at;
    const before = exact;
    let allowed = 0;
    for (let n = 0; n < requests; n += 1) {
      const expected = exact >= BigInt(UNITS_PER_TOKEN);
      const taken = takeToken(bucket, rate, T0 + offset);
      expect(taken.allowed).toBe(expected);
      if (expected) exact -= BigInt(UNITS_PER_TOKEN);
      if (taken.allowed) allowed += 1;
      expect(Number.isSafeInteger(bucket.level)).toBe(true);
      expect(BigInt(bucket.level)).toBe(exact);
      expect(taken.remaining).toBe(Number(exact / BigInt(UNITS_PER_TOKEN)));
    }
    used.push({ at, allowed, before });
  }
  for (const [first, from] of used.entries()) {
    let sum = 0n;
    for (const to of used.slice(first)) {
      sum += BigInt(to.allowed) * BigInt(UNITS_PER_TOKEN);
      expect(sum <= capacity + BigInt(rate) * BigInt(to.at - from.at)).toBe(true);
      expect(sum <= from.before + BigInt(rate) * BigInt(to.at - from.at)).toBe(true);
    }
  }
}
