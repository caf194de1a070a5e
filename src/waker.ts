/** Between the rounds of a loop: it goes on when it is woken, or after so many milliseconds. */
export type Waker = Readonly<{
  wake: () => void;
  /**
   * Called before a round looks for work. Whatever wakes from then on is not missed: a wait that begins later ends
   * at once. Only the last one that was asked for is woken.
   */
  listen: () => Readonly<{ within: (ms: number) => Promise<void> }>;
}>;

export function createWaker(): Waker {
  let wakeListener = (): void => undefined;
  return {
    wake: () => wakeListener(),
    listen() {
      let isWoken = false;
      let end = (): void => undefined;
      wakeListener = () => {
        isWoken = true;
        end();
      };
      return {
        within: (ms) =>
          new Promise((resolve) => {
            // Not in this turn: a loop that is woken all the time must let others have theirs.
            if (isWoken) {
              setImmediate(resolve);
              return;
            }
            const timer = setTimeout(resolve, ms);
            end = () => {
              clearTimeout(timer);
              resolve();
            };
          }),
      };
    },
  };
}
