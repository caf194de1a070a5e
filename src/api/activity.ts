import type pg from 'pg';
import type { Clock } from '../clock.ts';
import { type KeyUse, loadKeyUses, removeKeyUses, saveKeyUses } from '../db/key-uses.ts';
import { loadOpenWindows, removeOpenWindows, saveOpenWindows } from '../db/open-windows.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { findDeletedKeys } from '../projections/api-keys.ts';
import type { LiveKey } from '../projections/live-keys.ts';
import { type HeldUses, heldUses } from './held-uses.ts';
import { type HeldWindows, heldWindows } from './held-windows.ts';
import type { Metrics } from './metrics.ts';
import { idOf, toAppendCommand, type Window } from './use-windows.ts';
import { type WindowCounter, windowCounter } from './window-counter.ts';

/** Use that is counted here and becomes one event per window, never one per request. */
export type Activity = WindowCounter &
  Readonly<{
    /** A key was accepted: its last use is now, whatever the answer will be. */
    seen: (key: LiveKey) => void;
    lastUse: (keyId: number) => KeyUse | null;
    /** Windows of a key that are not events yet. */
    openWindows: (keyId: number) => readonly Window[];
    /** Saves what is open, turns into events what is over (or, at the end, everything). */
    flush: (everything?: boolean) => Promise<void>;
    /** Drops the first and last use of deleted keys; their windows become events like any other. */
    forgetDeleted: () => Promise<void>;
  }>;

const APPENDS_AT_ONCE = 1_000;

type Deps = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  clock: Clock;
  nodeId: string;
  metrics: Metrics;
  logger: Readonly<{ warn: (fields: object, message: string) => void }>;
}>;

/** What is counted, and in memory alone until it is saved. */
type Held = Readonly<{ windows: HeldWindows; uses: HeldUses }>;

/** Opens the counters, with the windows that a killed process had left open. */
export async function openActivity(deps: Deps): Promise<Activity> {
  const windows = heldWindows((await loadOpenWindows(deps.pool)).map(({ body }) => body as Window));
  const uses = heldUses(await loadKeyUses(deps.pool));
  let turn: Promise<void> = Promise.resolve();
  // One at a time, in order: two flushes at once would append and remove the same windows.
  const inTurn = (work: () => Promise<void>): Promise<void> => {
    turn = turn.catch(() => undefined).then(work);
    return turn;
  };
  const forget = async () => {
    const deleted = await findDeletedKeys(deps.pool, uses.keyIds());
    uses.forget(deleted);
    await removeKeyUses(deps.pool, deleted);
  };

  await forget();
  return {
    ...windowCounter(windows, deps.clock),
    seen: ({ id }) => uses.seen(id, new Date(deps.clock.nowMs())),
    lastUse: uses.of,
    openWindows: (keyId) => windows.all().filter((window) => window.keyId === keyId),
    flush: (everything = false) =>
      inTurn(async () => {
        windows.closeBefore(everything ? Number.POSITIVE_INFINITY : deps.clock.nowMs());
        await flush(deps, { windows, uses });
      }),
    forgetDeleted: () => inTurn(forget),
  };
}

async function flush(deps: Deps, { windows, uses }: Held): Promise<void> {
  const dropped = windows.dropSurplus();
  reportDropped(deps, dropped.length);
  const [changed, used] = [windows.takeChanged(), uses.takeChanged()];
  try {
    await saveOpenWindows(
      deps.pool,
      changed.map((window) => ({ id: idOf(window), body: window })),
    );
    await saveKeyUses(deps.pool, used);
  } catch (error) {
    // Still unsaved: the next flush must find them.
    windows.putBack(changed);
    uses.putBack(used);
    throw error;
  }
  await removeOpenWindows(deps.pool, dropped.map(idOf));
  await appendClosed(deps, windows.closed);
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
