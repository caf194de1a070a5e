import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createTurns, type Turns } from '../../src/integrations/turns.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Asks for turns by name; `begun` has the names of those who got one, in that order. */
function crowd(turns: Turns) {
  const begun: string[] = [];
  const ends = new Map<string, () => void>();
  const ask = async (name: string, key: string, waitMs: number | null = null) => {
    const giveBack = await turns.take(key, waitMs);
    begun.push(giveBack === null ? `${name} gave up` : name);
    if (giveBack !== null) ends.set(name, giveBack);
  };
  return {
    begun,
    ask: (...asked: Parameters<typeof ask>) => void ask(...asked),
    async end(name: string) {
      ends.get(name)?.();
      await settle();
    },
  };
}

const settle = () => vi.advanceTimersByTimeAsync(0);

describe('turns', () => {
  it('are given to so many at once, and then to those who wait, in the order of asking', async () => {
    const { begun, ask, end } = crowd(createTurns({ inAll: 2 }));
    for (const name of ['a', 'b', 'c', 'd']) ask(name, 'same');
    await settle();
    expect(begun).toEqual(['a', 'b']);
    await end('b');
    await end('a');
    expect(begun).toEqual(['a', 'b', 'c', 'd']);
  });

  it('of a full key keep nobody else waiting', async () => {
    const { begun, ask, end } = crowd(createTurns({ inAll: 3, each: 1 }));
    for (const [name, key] of [
      ['a', 'x'],
      ['b', 'x'],
      ['c', 'y'],
    ] as const)
      ask(name, key);
    await settle();
    expect(begun).toEqual(['a', 'c']);
    await end('c');
    expect(begun).toEqual(['a', 'c']);
    await end('a');
    expect(begun).toEqual(['a', 'c', 'b']);
  });

  it('are given up after so long, and go to the next then', async () => {
    const { begun, ask, end } = crowd(createTurns({ inAll: 1 }));
    ask('a', 'x');
    ask('b', 'x', 100);
    ask('c', 'x', 1_000);
    await vi.advanceTimersByTimeAsync(100);
    expect(begun).toEqual(['a', 'b gave up']);
    await end('a');
    expect(begun).toEqual(['a', 'b gave up', 'c']);
    await vi.advanceTimersByTimeAsync(1_000);
    await end('c');
    ask('d', 'x');
    await settle();
    expect(begun.at(-1)).toBe('d');
  });
});
