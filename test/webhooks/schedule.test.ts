import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  nextProbeAt,
  nextTryAt,
  nextTryInOrderAt,
  parseRetryAfter,
  RETRY_SECONDS,
} from '../../src/webhooks/schedule.ts';

const NOW = Date.UTC(2026, 10, 22, 6, 21, 10);
const DAY = 86_400_000;

describe('the wait before the next try', () => {
  it('follows the schedule of Standard Webhooks, 75.6 hours in all', () => {
    const hours = RETRY_SECONDS.reduce((sum, seconds) => sum + seconds, 0) / 3_600;
    expect(hours).toBeCloseTo(75.6, 1);
  });

  it('is never shorter than the schedule, and at most a fifth longer', () =>
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: RETRY_SECONDS.length }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (tries, chance) => {
          const wait = (nextTryAt({ tries, sinceMs: NOW }, NOW, () => chance) ?? 0) - NOW;
          const base = (RETRY_SECONDS[tries - 1] ?? 0) * 1_000;
          expect(wait).toBeGreaterThanOrEqual(base);
          expect(wait).toBeLessThanOrEqual(base * 1.2);
        },
      ),
    ));

  it('ends after the last, when the whole time is over', () => {
    const sinceMs = NOW - 75.7 * 3_600_000;
    const last = RETRY_SECONDS.length;
    expect(nextTryAt({ tries: last, sinceMs }, NOW, () => 0)).not.toBeNull();
    expect(nextTryAt({ tries: last + 1, sinceMs }, NOW, () => 0)).toBeNull();
    // Many tries in a short time, as another ordering has them: then once a day.
    const early = { tries: last + 1, sinceMs: NOW - 3_600_000 };
    expect(nextTryAt(early, NOW, () => 0)).toBe(NOW + DAY);
  });

  it('stays at a quarter of an hour for an endpoint that is down, however long', () => {
    const waits = [0, 1, 2, 3, 4, 5, 6, 7, 500].map((n) => nextProbeAt(n, NOW, () => 0) - NOW);
    expect(waits.map((ms) => ms / 1_000)).toEqual([5, 15, 45, 120, 300, 600, 900, 900, 900]);
  });
});

describe('the wait before the next try of one that all others wait for', () => {
  const HOUR = 3_600_000;
  const never = () => 0;

  it('is what an endpoint that is down is looked at by', () => {
    const waits = [1, 2, 3, 4, 5, 6, 7, 8, 400].map(
      (tries) => (nextTryInOrderAt({ tries, sinceMs: NOW }, NOW, never) ?? 0) - NOW,
    );
    expect(waits.map((ms) => ms / 1_000)).toEqual([5, 15, 45, 120, 300, 600, 900, 900, 900]);
  });

  it('ends when the whole schedule is over, and not for time in which there were no tries', () => {
    const sinceMs = NOW - 75.7 * HOUR;
    const tries = RETRY_SECONDS.length;
    expect(nextTryInOrderAt({ tries: tries + 1, sinceMs }, NOW, never)).toBeNull();
    expect(nextTryInOrderAt({ tries, sinceMs }, NOW, never)).not.toBeNull();
    const young = { tries: 400, sinceMs: NOW - 75 * HOUR };
    expect(nextTryInOrderAt(young, NOW, never)).not.toBeNull();
  });
});

describe('Retry-After', () => {
  it.each([
    ['120', 120_000],
    [' 5 ', 5_000],
    ['0', 1_000],
    ['99999999999999999999', DAY],
    ['Sun, 22 Nov 2026 06:23:10 GMT', 120_000],
    ['Sunday, 22-Nov-26 06:23:10 GMT', 120_000],
    ['Sun Nov 22 06:23:10 2026 GMT', 120_000],
    ['Sat, 21 Nov 2026 06:21:10 GMT', 1_000],
    ['Fri, 22 Nov 2126 06:21:10 GMT', DAY],
  ])('%s is a wait of %i ms', (text, ms) => expect(parseRetryAfter(text, NOW)).toBe(ms));

  it.each([['-5'], ['1.5'], ['soon'], [''], ['2026-11-22'], ['1e3'], ['Mon'], ['12 13'], ['0x10']])(
    '%j says nothing',
    (text) => expect(parseRetryAfter(text, NOW)).toBeNull(),
  );

  it('is held between a second and a day for whatever it says', () =>
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.nat().map(String),
          fc.date({ noInvalidDate: true }).map((d) => d.toUTCString()),
        ),
        (text) => {
          const ms = parseRetryAfter(text, NOW);
          expect(ms === null || (ms >= 1_000 && ms <= DAY)).toBe(true);
        },
      ),
    ));
});
