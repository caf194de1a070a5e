import { saveAnnouncement } from '../db/quarantine-announcements.ts';
import type { Announcement } from '../domain/quarantine-language.ts';
import { type HoldQueue, openHoldQueue } from './hold-queue.ts';
import { startHoldQueueWatch, type WatchDeps } from './hold-queue-watch.ts';
import { followMailLog } from './mail-log.ts';
import type { Outlet } from './outlet.ts';
import { connectPostfixHelper } from './postfix-helper.ts';
import { createPostfixOutlet } from './postfix-outlet.ts';
import { type PostfixStore, postfixStore } from './postfix-store.ts';

export type PostfixSettings = Readonly<{
  /** Of the privileged helper. */
  socket: string;
  mailLog: string;
  /** Between two looks at the hold queue; null: as it is made. */
  lookMs: number | null;
}>;

/** Everything of a quarantine whose mail is held by Postfix. */
export type HoldQueueSide = Readonly<{
  store: PostfixStore;
  outlet: Outlet;
  announce: (said: Announcement) => Promise<void>;
  warnings: () => readonly string[];
  stop: () => Promise<void>;
}>;

type Deps = Omit<WatchDeps, 'queue' | 'mailLog' | 'lookMs'>;

/** Postfix's own default of five days. */
const LIFETIME_MS = 5 * 86_400_000;
const UNITS_MS: Readonly<Record<string, number>> = {
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

/**
 * Connects to the Postfix on this machine and begins to follow its hold queue and its log. One that is not there yet
 * is no error: what is wrong is a warning until it is right.
 */
export async function openHoldQueueSide(
  deps: Deps,
  { socket, mailLog: path, lookMs }: PostfixSettings,
): Promise<HoldQueueSide> {
  const { pool, clock, logger, nodeId } = deps;
  const queue = openHoldQueue(connectPostfixHelper({ socket }));
  const settings = readSettings(queue);
  const mailLog = await followMailLog({ path, logger });
  const watch = startHoldQueueWatch({ ...deps, queue, mailLog, lookMs });
  // Not waited for: a helper that hangs must not keep the gateway from its other work.
  void settings.read();
  return {
    store: postfixStore({ queue, usage: watch.usage }),
    outlet: createPostfixOutlet({
      queue,
      mailLog,
      clock,
      logger,
      lifetimeMs: () => settings.lifetimeMs(),
    }),
    async announce(said) {
      await saveAnnouncement(pool, nodeId, { ...said, announcedAt: clock.now() });
      watch.expect();
    },
    warnings: () =>
      [watch.trouble(), mailLog.trouble(), settings.warning()].filter((text) => text !== null),
    async stop() {
      await watch.stop();
      await mailLog.stop();
    },
  };
}

/** What of Postfix's own settings matters here; asked for until it was told once. */
function readSettings(queue: HoldQueue) {
  let known: ReadonlyMap<string, string> | null = null;
  const read = async () => {
    known ??= await queue.settings().catch(() => null);
  };
  return {
    read,
    async lifetimeMs(): Promise<number> {
      await read();
      return toMs(known?.get('maximal_queue_lifetime') ?? '') ?? LIFETIME_MS;
    },
    warning: (): string | null =>
      known?.get('enable_long_queue_ids') === 'no'
        ? 'Postfix uses queue ids again: set enable_long_queue_ids = yes'
        : null,
  };
}

/** A time as Postfix writes it (postconf(5)): a number and a unit. */
function toMs(text: string): number | null {
  const [, count, unit = 'd'] = /^(\d+)([smhdw])?$/.exec(text) ?? [];
  return count === undefined ? null : Number(count) * (UNITS_MS[unit] ?? 0);
}
