import type pg from 'pg';
import type { Clock } from '../clock.ts';
import {
  type KeyUse,
  loadKeyUse,
  loadOpenWindows,
  removeKeyUse,
  removeOpenWindows,
  saveKeyUse,
  saveOpenWindows,
} from '../db/activity.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { findDeletedKeys } from '../projections/api-keys.ts';
import type { LiveKey } from '../projections/live-keys.ts';
import { networkOf } from './client-address.ts';
import {
  type DenialWindow,
  denialSlot,
  emptyWindow,
  idOf,
  note,
  type Outcome,
  OVERFLOW,
  slotOf,
  toAppendCommand,
  type UseKind,
  type UseWindow,
  useSlot,
  type Window,
} from './use-windows.ts';

/** Use that is counted here and becomes one event per window, never one per request. */
export type Activity = Readonly<{
  /** A key was accepted: its last use is now, whatever the answer will be. */
  seen: (key: LiveKey) => void;
  used: (key: LiveKey, kind: UseKind, outcome: Outcome, address: string) => void;
  denied: (reason: string, key: LiveKey | null, address: string) => void;
  lastUse: (keyId: number) => KeyUse | null;
  /** Windows of a key that are not events yet. */
  openWindows: (keyId: number) => readonly Window[];
  /** Saves what is open, turns into events what is over (or, at the end, everything). */
  flush: (everything?: boolean) => Promise<void>;
  /** Drops the first and last use of deleted keys; their windows become events like any other. */
  forgetDeleted: () => Promise<void>;
}>;

const MINUTE_MS = 60_000;
const WINDOW_MS: Readonly<Record<UseKind, number>> = {
  requests: MINUTE_MS,
  audit_reads: 3_600_000,
};
/** In all, and in one minute; what is beyond is counted in one more window, so it is never lost. */
const DENIALS_PER_MINUTE_MAX = 100;

type Deps = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  clock: Clock;
  nodeId: string;
}>;

/** Opens the counters, with the windows that a killed process had left open. */
export async function openActivity(deps: Deps): Promise<Activity> {
  const windows = openWindows((await loadOpenWindows(deps.pool)).map(({ body }) => body as Window));
  const uses = new Map((await loadKeyUse(deps.pool)).map((use) => [use.keyId, use]));
  const changedUses = new Set<number>();
  const denials = denialBudget();
  let turn: Promise<void> = Promise.resolve();
  // One at a time, in order: two flushes at once would append and remove the same windows.
  const inTurn = (work: () => Promise<void>): Promise<void> => {
    turn = turn.catch(() => undefined).then(work);
    return turn;
  };

  async function flushNow(everything: boolean): Promise<void> {
    windows.closeBefore(everything ? Number.POSITIVE_INFINITY : deps.clock.nowMs());
    const changed = windows.takeChanged();
    const ids = [...changedUses];
    changedUses.clear();
    try {
      await saveOpenWindows(
        deps.pool,
        changed.map((window) => ({ id: idOf(window), body: window })),
      );
      await saveKeyUse(
        deps.pool,
        ids.flatMap((id) => uses.get(id) ?? []),
      );
    } catch (error) {
      // Still unsaved: the next flush must find them.
      windows.putBack(changed);
      for (const id of ids) changedUses.add(id);
      throw error;
    }
    await appendClosed(deps, windows.closed);
  }

  async function forgetNow(): Promise<void> {
    const deleted = await findDeletedKeys(deps.pool, [...uses.keys()]);
    for (const id of deleted) {
      uses.delete(id);
      changedUses.delete(id);
    }
    await removeKeyUse(deps.pool, deleted);
  }

  await forgetNow();
  return {
    seen({ id }) {
      const at = new Date(deps.clock.nowMs());
      uses.set(id, { keyId: id, firstUsedAt: uses.get(id)?.firstUsedAt ?? at, lastUsedAt: at });
      changedUses.add(id);
    },
    used(key, kind, outcome, address) {
      const now = deps.clock.nowMs();
      const window = windows.at(useSlot(key.id, kind), now, () => ({
        ...emptyWindow(now, WINDOW_MS[kind], key.principal.mailDomain),
        type: 'used',
        keyId: key.id,
        kind,
        requests: 0,
        byOutcome: {},
      })) as UseWindow;
      window.requests += 1;
      window.byOutcome[outcome] = (window.byOutcome[outcome] ?? 0) + 1;
      note(window, now, address);
    },
    denied(reason, key, address) {
      const now = deps.clock.nowMs();
      const network = networkOf(address);
      const slot = denialSlot(reason, key?.id ?? null, network);
      const isOverflow = !windows.has(slot, now) && !denials.take(now);
      const window = windows.at(isOverflow ? denialSlot(OVERFLOW, null, '') : slot, now, () => ({
        ...emptyWindow(now, MINUTE_MS, isOverflow ? null : (key?.principal.mailDomain ?? null)),
        type: 'denied',
        keyId: isOverflow ? null : (key?.id ?? null),
        reason: isOverflow ? OVERFLOW : reason,
        count: 0,
      })) as DenialWindow;
      window.count += 1;
      note(window, now, network);
    },
    lastUse: (keyId) => uses.get(keyId) ?? null,
    openWindows: (keyId) => windows.all().filter((window) => window.keyId === keyId),
    flush: (everything = false) => inTurn(() => flushNow(everything)),
    forgetDeleted: () => inTurn(forgetNow),
  };
}

/** The window that is open in each slot, and those that are over but not yet events. */
function openWindows(restored: readonly Window[]) {
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

/** How many windows of refusals a minute may begin; one is kept back for the surplus. */
function denialBudget() {
  let minute = 0;
  let begun = 0;
  return {
    take(now: number): boolean {
      const current = Math.floor(now / MINUTE_MS);
      begun = current === minute ? begun + 1 : 1;
      minute = current;
      return begun < DENIALS_PER_MINUTE_MAX;
    },
  };
}

async function appendClosed(deps: Deps, closed: Window[]): Promise<void> {
  const batch = closed.slice();
  // A window that fails stays for the next flush, where those that did not are found as duplicates.
  await Promise.all(batch.map((window) => deps.log.append(toAppendCommand(window, deps.nodeId))));
  closed.splice(0, batch.length);
  await removeOpenWindows(deps.pool, batch.map(idOf));
}
