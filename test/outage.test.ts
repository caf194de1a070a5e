import { describe, expect, it } from 'vitest';
import { createOutage } from '../src/outage.ts';

const AWAY = new Error('away');

/** What is said of an outage whose turns are a second apart: `-` for one that fails, `+` for one that works. */
function said(turns: string): (readonly [second: number, message: string, failures: number])[] {
  const lines: (readonly [number, string, number])[] = [];
  let second = 0;
  const warn = (fields: object, message: string) => {
    const { failures, err = AWAY } = fields as { failures: number; err?: unknown };
    expect(err).toBe(AWAY);
    lines.push([second, message, failures]);
  };
  const words = { failing: 'waits', again: 'goes on' };
  const outage = createOutage({ warn }, words, () => second * 1_000);
  for (const turn of turns) {
    if (turn === '-') outage.failed(AWAY);
    else outage.works();
    second += 1;
  }
  return lines;
}

describe('an outage', () => {
  it('is not spoken of where there is none', () => expect(said('+++')).toEqual([]));

  it('is told at once, and its end', () => {
    expect(said('+---++')).toEqual([
      [1, 'waits', 1],
      [4, 'goes on', 3],
    ]);
  });

  it('is told again once a minute, with how often it failed', () => {
    expect(said(`${'-'.repeat(150)}+`)).toEqual([
      [0, 'waits', 1],
      [60, 'waits', 61],
      [120, 'waits', 121],
      [150, 'goes on', 150],
    ]);
  });

  it('is a new one once it was over, however short that was', () => {
    expect(said('-+-')).toEqual([
      [0, 'waits', 1],
      [1, 'goes on', 1],
      [2, 'waits', 1],
    ]);
  });
});
