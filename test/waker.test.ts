import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createWaker } from '../src/waker.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Whether a wait has ended, as far as timers and promises have come. */
function watched(wait: Promise<void>): { isOver: boolean } {
  const seen = { isOver: false };
  void wait.then(() => {
    seen.isOver = true;
  });
  return seen;
}

describe('a wait', () => {
  it('ends after its time when nobody wakes it', async () => {
    const seen = watched(createWaker().listen().within(1_000));
    await vi.advanceTimersByTimeAsync(999);
    expect(seen.isOver).toBe(false);
    await vi.advanceTimersByTimeAsync(1);
    expect(seen.isOver).toBe(true);
  });

  it('ends when it is woken, and leaves no timer', async () => {
    const waker = createWaker();
    const wait = waker.listen().within(1_000);
    waker.wake();
    await wait;
    expect(vi.getTimerCount()).toBe(0);
  });

  it('ends at once when something woke between the listening and the waiting', async () => {
    const waker = createWaker();
    const news = waker.listen();
    waker.wake();
    const seen = watched(news.within(1_000));
    await vi.advanceTimersByTimeAsync(0);
    expect(seen.isOver).toBe(true);
  });

  it('lets others have their turn before it ends at once', async () => {
    const waker = createWaker();
    const news = waker.listen();
    waker.wake();
    const seen = watched(news.within(1_000));
    for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
    expect(seen.isOver).toBe(false);
  });

  it('knows nothing of what woke before the listening', async () => {
    const waker = createWaker();
    waker.wake();
    waker.listen();
    waker.wake();
    const seen = watched(waker.listen().within(1_000));
    await vi.advanceTimersByTimeAsync(999);
    expect(seen.isOver).toBe(false);
  });
});
