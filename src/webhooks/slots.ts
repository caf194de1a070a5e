/** Deliveries that a process has under way, in all and to one host. */
export type Slots = Readonly<{
  /** A function that gives the slot back, or null when there is none; `wake` is called when there may be. */
  take: (
    host: string,
    wanted: Readonly<{ isFirst: boolean; wake: () => void }>,
  ) => (() => void) | null;
}>;

const IN_ALL_MAX = 1_024;
const HOST_MAX = 64;

/**
 * Whoever has nothing under way always gets one, so that no number of dead endpoints keeps a living one
 * from its turn; that is bounded by the number of subscriptions.
 */
export function createSlots({ inAll = IN_ALL_MAX, host: hostMax = HOST_MAX } = {}): Slots {
  const hosts = new Map<string, number>();
  const waiting = new Set<() => void>();
  let used = 0;
  return {
    take(host, { isFirst, wake }) {
      const toHost = hosts.get(host) ?? 0;
      if (!isFirst && (used >= inAll || toHost >= hostMax)) {
        waiting.add(wake);
        return null;
      }
      used += 1;
      hosts.set(host, toHost + 1);
      return () => {
        used -= 1;
        const left = (hosts.get(host) ?? 1) - 1;
        if (left === 0) hosts.delete(host);
        else hosts.set(host, left);
        const woken = [...waiting];
        waiting.clear();
        for (const one of woken) one();
      };
    },
  };
}
