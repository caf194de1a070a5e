import { describe, expect, it } from 'vitest';
import { createActionPauses } from '../../src/integrations/action-pauses.ts';

const AWAY = new Error('the helper is away');
const discardOf = (messageId: string) => ({ messageId, kind: 'discard' as const });

function paused() {
  let ms = 0;
  const pauses = createActionPauses({ nowMs: () => ms });
  return {
    ...pauses,
    /** Lets the pause of a message end, and gives its length in seconds. */
    waitFor(messageId: string): number {
      const begun = ms;
      while (pauses.messages().includes(messageId)) ms += 500;
      return (ms - begun) / 1_000;
    },
  };
}

describe('an action that fails again and again', () => {
  it('is left alone for a second, then twice as long each time, for a minute at most', () => {
    const { failed, waitFor } = paused();
    const seconds = Array.from({ length: 9 }, () => {
      failed(discardOf('a'), AWAY);
      return waitFor('a');
    });
    expect(seconds).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60]);
  });

  it('begins with a second anew once it went well', () => {
    const { failed, ended, waitFor } = paused();
    for (let times = 0; times < 5; times += 1) failed(discardOf('a'), AWAY);
    ended(discardOf('a'));
    expect(waitFor('a')).toBe(0);
    failed(discardOf('a'), AWAY);
    expect(waitFor('a')).toBe(1);
  });

  it('is news once, for all of its kind, until one of them goes well', () => {
    const { failed, ended } = paused();
    const isNews = [
      failed(discardOf('a'), AWAY),
      failed(discardOf('a'), AWAY),
      failed(discardOf('b'), AWAY),
      failed({ messageId: 'a', kind: 'release' }, AWAY),
      failed(discardOf('b'), new Error('another trouble')),
    ];
    expect(isNews).toEqual([true, false, false, true, true]);
    ended(discardOf('a'));
    expect(failed(discardOf('b'), AWAY)).toBe(true);
  });
});
