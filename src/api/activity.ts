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
import { heldWindows } from './held-windows.ts';
import type { Metrics } from './metrics.ts';
import {
  type DenialWindow,
  denialSlot,
  emptyWindow,
  idOf,
  note,
  type Outcome,
  OVERFLOW,
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
const APPENDS_AT_ONCE = 1_000;

type Deps = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  clock: Clock;
  nodeId: string;
  metrics: Metrics;
  logger: Readonly<{ warn: (fields: object, message: string) => void }>;
}>;

/** Opens the counters, with the windows that a killed process had left open. */
export async function openActivity(deps: Deps): Promise<Activity> {
  const windows = heldWindows((await loadOpenWindows(deps.pool)).map(({ body }) => body as Window));
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
    const dropped = windows.dropSurplus();
    reportDropped(deps, dropped.length);
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
    await removeOpenWindows(deps.pool, dropped.map(idOf));
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

/** What is dropped will be missing from the activity of keys; whoever runs this must know. */
function reportDropped({ metrics, logger }: Deps, dropped: number): void {
  if (dropped === 0) return;
  metrics.droppedWindows.inc(dropped);
  logger.warn({ dropped }, 'windows of use were dropped: the log has been away for too long');
}

async function appendClosed(deps: Deps, closed: Window[]): Promise<void> {
  // Not all at once: the log takes only so many, and a refusal must not undo what went well.
  for (let left = closed.length; left > 0; left -= APPENDS_AT_ONCE) {
    const batch = closed.slice(0, Math.min(left, APPENDS_AT_ONCE));
    // A window that fails stays for the next flush, where those that did not are found as duplicates.
    await Promise.all(batch.map((window) => deps.log.append(toAppendCommand(window, deps.nodeId))));
    closed.splice(0, batch.length);
    await removeOpenWindows(deps.pool, batch.map(idOf));
  }
}
