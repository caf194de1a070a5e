import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  afterFailure,
  afterSuccess,
  allowance,
  type Breaker,
  CLOSED,
  FAILED_EVENTS_MAX,
  fromKept,
  toKept,
} from '../../src/webhooks/breaker.ts';

const SLOTS = 16;
const fail = (breaker: Breaker, position: bigint, nowMs: number, isCertain = false) =>
  afterFailure(breaker, { position, isCertain, nowMs, random: () => 0 });
const failMany = (count: number, nowMs = 0) =>
  Array.from({ length: count }, (_, n) => BigInt(n + 1)).reduce(
    (breaker, position) => fail(breaker, position, nowMs),
    CLOSED,
  );

describe('the breaker', () => {
  it('opens when five events in a row have failed, and not before', () => {
    expect(failMany(FAILED_EVENTS_MAX - 1).state).toBe('closed');
    expect(failMany(FAILED_EVENTS_MAX).state).toBe('open');
  });

  it('does not open for one event, however often it fails', () => {
    let breaker = CLOSED;
    for (let n = 0; n < 19; n += 1) breaker = fail(breaker, 7n, n * 10_000);
    expect(breaker.state).toBe('closed');
  });

  it('counts anew after a success', () => {
    const breaker = afterSuccess(failMany(4), SLOTS, 0);
    expect(fail(breaker, 9n, 0).state).toBe('closed');
  });

  it('opens when half of twenty tries have failed, in a minute from the first of them on', () => {
    let breaker = CLOSED;
    for (let n = 0; n < 22; n += 1) {
      breaker = n % 2 === 0 ? afterSuccess(breaker, SLOTS, n) : fail(breaker, BigInt(n), n);
    }
    expect(breaker.state).toBe('open');
  });

  it('stays closed when they are spread over more than a minute', () => {
    let breaker = CLOSED;
    for (let n = 0; n < 60; n += 1) {
      const at = n * 4_000;
      breaker = n % 2 === 0 ? afterSuccess(breaker, SLOTS, at) : fail(breaker, BigInt(n), at);
    }
    expect(breaker.state).toBe('closed');
  });

  it('opens at once for what is certain', () => {
    expect(fail(CLOSED, 1n, 0, true).state).toBe('open');
  });

  it('allows nothing until its look is due, then one', () => {
    const open = failMany(5);
    expect(allowance(open, SLOTS, 4_999)).toBe(0);
    expect(allowance(open, SLOTS, 5_000)).toBe(1);
  });

  it('waits longer after each look that fails, and ignores what was begun before', () => {
    const open = failMany(5);
    expect(fail(open, 6n, 10)).toEqual(open);
    const again = fail(open, 1n, 5_000);
    expect(again).toMatchObject({ state: 'open', probes: 1, probeAtMs: 20_000 });
  });

  it('lets ever more through while things arrive, and closes when it is as many as there are slots', () => {
    let breaker = afterSuccess(failMany(5), SLOTS, 5_000);
    const limits = [breaker.limit];
    for (let n = 0; breaker.state === 'half_open'; n += 1) {
      breaker = afterSuccess(breaker, SLOTS, 5_000);
      if (breaker.state === 'half_open' && limits.at(-1) !== breaker.limit)
        limits.push(breaker.limit);
      expect(n).toBeLessThan(100);
    }
    expect(limits).toEqual([2, 4, 8]);
    expect(breaker.state).toBe('closed');
  });

  it('opens again at the first failure while half open', () => {
    const half = afterSuccess(failMany(5), SLOTS, 5_000);
    expect(fail(half, 9n, 5_001).state).toBe('open');
  });

  it('remembers since when nothing has arrived, over a restart', () => {
    const open = fail(failMany(5, 1_000), 1n, 6_000);
    const kept = fromKept(JSON.parse(JSON.stringify(toKept(open))));
    expect(kept).toMatchObject({ state: 'open', failingSinceMs: 1_000, probeAtMs: open.probeAtMs });
    expect(afterSuccess(kept, SLOTS, 9_000).failingSinceMs).toBeNull();
  });

  it('never allows more than there are slots, and is never open without a time to look', () =>
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), fc.bigInt({ min: 1n, max: 9n }), fc.nat(60_000)), {
          maxLength: 200,
        }),
        (tries) => {
          let breaker = CLOSED;
          let nowMs = 0;
          for (const [isWell, position, ms] of tries) {
            nowMs += ms;
            breaker = isWell ? afterSuccess(breaker, SLOTS, nowMs) : fail(breaker, position, nowMs);
            const allowed = allowance(breaker, SLOTS, nowMs);
            expect(allowed >= 0 && allowed <= SLOTS).toBe(true);
            expect(allowance(breaker, SLOTS, nowMs + 1_000_000)).toBeGreaterThan(0);
          }
        },
      ),
    ));
});
