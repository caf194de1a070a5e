/** Work that is under way at once, bounded in all and for each key. */
export type Turns = Readonly<{
  /**
   * Resolves to how the turn is given back, where more than once is as once; null when there was none within so long. `waitMs` null: waits for as long
   * as it takes. First come, first served, but for those whose key has no room: they keep nobody else waiting.
   */
  take: (key: string, waitMs: number | null) => Promise<(() => void) | null>;
}>;

type Waiting = Readonly<{ key: string; go: () => void }>;

/**
 * The slots of webhook deliveries look alike and are not: nobody queues for those. A subscription that finds none picks
 * anew once it is woken, since by then something else may be due, and its first delivery needs none.
 */
export function createTurns({
  inAll,
  each = inAll,
}: Readonly<{ inAll: number; each?: number }>): Turns {
  const takenBy = new Map<string, number>();
  let taken = 0;
  let waiting: readonly Waiting[] = [];
  const isFree = (key: string) => taken < inAll && (takenBy.get(key) ?? 0) < each;
  const leave = (waiter: Waiting) => {
    waiting = waiting.filter((other) => other !== waiter);
  };
  function begin(key: string): () => void {
    taken += 1;
    takenBy.set(key, (takenBy.get(key) ?? 0) + 1);
    let isOver = false;
    return () => {
      if (!isOver) giveBack(key);
      isOver = true;
    };
  }
  function giveBack(key: string): void {
    taken -= 1;
    const left = (takenBy.get(key) ?? 1) - 1;
    if (left === 0) takenBy.delete(key);
    else takenBy.set(key, left);
    const next = waiting.find((waiter) => isFree(waiter.key));
    if (next === undefined) return;
    leave(next);
    next.go();
  }
  return {
    async take(key, waitMs) {
      if (isFree(key)) return begin(key);
      return new Promise((resolve) => {
        const waiter: Waiting = {
          key,
          go() {
            clearTimeout(timer);
            resolve(begin(key));
          },
        };
        waiting = [...waiting, waiter];
        const giveUp = () => {
          leave(waiter);
          resolve(null);
        };
        const timer = waitMs === null ? undefined : setTimeout(giveUp, waitMs);
      });
    },
  };
}
