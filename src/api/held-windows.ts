import { slotOf, type Window } from './use-windows.ts';

/**
 * Windows that are over and wait for the log, at most: tens of MB. That is fifty minutes of a thousand
 * busy keys while the log is away; what is beyond is dropped, the oldest first.
 */
export const CLOSED_WINDOWS_MAX = 50_000;

export type HeldWindows = ReturnType<typeof heldWindows>;

/** The window that is open in each slot, and those that are over but not yet events. */
export function heldWindows(restored: readonly Window[]) {
  const open = new Map<string, Window>();
  const changed = new Set<Window>();
  const closed: Window[] = [];
  for (const window of restored) {
    if (open.has(slotOf(window))) closed.push(window);
    else open.set(slotOf(window), window);
  }
  const close = (slot: string, window: Window) => {
    open.delete(slot);
    changed.delete(window);
    closed.push(window);
  };
  return {
    closed,
    has: (slot: string, now: number) => now < (open.get(slot)?.to ?? 0),
    at(slot: string, now: number, make: () => Window): Window {
      const known = open.get(slot);
      if (known !== undefined && now >= known.to) close(slot, known);
      const window = open.get(slot) ?? make();
      open.set(slot, window);
      changed.add(window);
      return window;
    },
    closeBefore(now: number): void {
      for (const [slot, window] of [...open]) if (now >= window.to) close(slot, window);
    },
    /** Lets go of those that are over and too many, the oldest. */
    dropSurplus: (): readonly Window[] =>
      closed.splice(0, Math.max(0, closed.length - CLOSED_WINDOWS_MAX)),
    takeChanged(): readonly Window[] {
      const taken = [...changed];
      changed.clear();
      return taken;
    },
    putBack(windows: readonly Window[]): void {
      for (const window of windows) if (open.get(slotOf(window)) === window) changed.add(window);
    },
    all: (): readonly Window[] => [...open.values(), ...closed],
  };
}
