import { setTimeout as sleep } from 'node:timers/promises';
import {
  dropAnnouncements,
  findAnnouncements,
  purgeAnnouncements,
} from '../db/quarantine-announcements.ts';
import { DomainError } from '../domain/errors.ts';
import type { QuarantineCommand } from '../domain/quarantine-language.ts';
import { quarantinedMessage, quarantinedMessageStream } from '../domain/quarantined-message.ts';
import { commandIdOf, handleCommand } from '../eventlog/handle-command.ts';
import { systemMeta } from '../eventlog/system-meta.ts';
import { findInHoldQueue, type QueuedMessage } from '../projections/hold-queue.ts';
import { createWaker } from '../waker.ts';
import { lineOf } from './hold-queue.ts';
import { isOf, LOG_BEHIND_MS, scanOf } from './hold-queue-adding.ts';
import { type IntakeDeps, lineOfMessage, type Strangers, takeIn } from './hold-queue-intake.ts';
import { vanishedHow } from './postfix-outlet.ts';
import type { HoldUsage } from './postfix-store.ts';

export type WatchDeps = IntakeDeps &
  Readonly<{
    /** Resolves when the read model of the quarantine has everything that the log has now. */
    caughtUp: () => Promise<boolean>;
    /** Between two looks; null: 5 seconds. */
    lookMs: number | null;
  }>;

export type HoldQueueWatch = Readonly<{
  /** Something was announced that the hold queue should show within moments. */
  expect: () => void;
  usage: () => HoldUsage;
  /** Why the last look failed; null when it did not. */
  trouble: () => string | null;
  stop: () => Promise<void>;
}>;

const LOOK_MS = 5_000;
/** While something is announced and not there yet, so often and no more often than that. */
const EXPECT_MS = 300;
const EXPECT_LOOKS = 10;
/** What is not there is gone once it was missed so often: a file that moves is nowhere for a moment. */
const MISSES = 2;
const STOP_MS = 5_000;
/** Of those that have gone, told in one look; the others are told by the next. */
const GONE_MAX = 100;

/** What is remembered from look to look. */
type Watch = {
  readonly misses: Map<string, number>;
  readonly strangers: Strangers;
  usage: HoldUsage;
  trouble: string | null;
  expected: number;
};

/**
 * Compares the hold queue with what the log says is in it, every few seconds, and turns the differences into events:
 * mail that is held, mail that has gone, and what the filter found that came late.
 */
export function startHoldQueueWatch(deps: WatchDeps): HoldQueueWatch {
  const watch: Watch = {
    misses: new Map(),
    strangers: { sightings: new Map(), refused: new Map() },
    usage: { messages: 0, bytes: 0 },
    trouble: null,
    expected: 0,
  };
  const waker = createWaker();
  const stopping = new AbortController();
  const looking = (async () => {
    while (!stopping.signal.aborted) {
      const news = waker.listen();
      const isMore = await lookSafely(deps, watch);
      if (isMore) continue;
      watch.expected = Math.max(0, watch.expected - 1);
      await news.within(watch.expected > 0 ? EXPECT_MS : (deps.lookMs ?? LOOK_MS));
    }
  })();
  return {
    expect() {
      const isWaiting = watch.expected === 0;
      watch.expected = EXPECT_LOOKS;
      if (isWaiting) waker.wake();
    },
    usage: () => watch.usage,
    trouble: () => watch.trouble,
    async stop() {
      stopping.abort();
      waker.wake();
      // One that waits for a helper that hangs is not waited for.
      await Promise.race([looking, sleep(STOP_MS, undefined, { ref: false })]);
    },
  };
}

async function lookSafely(deps: WatchDeps, watch: Watch): Promise<boolean> {
  try {
    const isMore = await look(deps, watch);
    watch.trouble = null;
    return isMore;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    // Said once, not at every look.
    if (watch.trouble !== why)
      deps.logger.warn({ err: error }, 'the hold queue cannot be looked at');
    watch.trouble = why;
    return false;
  }
}

/** One comparison. True when there is more to take in than one look may. */
async function look(deps: WatchDeps, watch: Watch): Promise<boolean> {
  const files = await deps.queue.held();
  // What is compared is at least as new as the queue: else what just left would be taken for new.
  if (!(await deps.caughtUp())) return false;
  const messages = await findInHoldQueue(deps.pool, deps.nodeId);
  watch.usage = {
    messages: files.length,
    bytes: files.reduce((sum, { file }) => sum + file.size, 0),
  };
  const known = new Set(messages.map(lineOfMessage));
  const present = new Set(files.map(lineOf));
  const unknown = files.filter((file) => !known.has(lineOf(file)));
  const missing = messages.filter((message) => !present.has(lineOfMessage(message)));
  await noteScans(deps, messages);
  await noteGone(deps, watch, missing);
  const isMore = await takeIn(deps, watch.strangers, unknown);
  await purgeAnnouncements(deps.pool, deps.nodeId, deps.clock.now());
  return isMore;
}

/** What was announced after its message was taken in as unscanned. */
async function noteScans(deps: WatchDeps, messages: readonly QueuedMessage[]): Promise<void> {
  const unscanned = messages.filter(({ isScanned }) => !isScanned);
  if (unscanned.length === 0) return;
  const ids = unscanned.map(({ queueId }) => queueId);
  const announced = await findAnnouncements(deps.pool, deps.nodeId, ids);
  for (const message of unscanned) {
    const found = announced.get(message.queueId);
    if (found === undefined || found.reason === 'unscanned' || !isOf(found, message.fileMtime)) {
      continue;
    }
    const isNoted = await tell(deps, message, { type: 'NoteScan', scan: scanOf(found) });
    // Otherwise it is still to be noted, at the next look.
    if (isNoted) await dropAnnouncements(deps.pool, deps.nodeId, [message.queueId]);
  }
}

/** Messages that are not held any more, though nobody here has asked for it. */
async function noteGone(
  deps: WatchDeps,
  watch: Watch,
  missing: readonly QueuedMessage[],
): Promise<void> {
  const idle = missing.filter(({ state }) => state === 'held' || state === 'release_failed');
  const ids = new Set(idle.map(({ id }) => id));
  for (const id of watch.misses.keys()) if (!ids.has(id)) watch.misses.delete(id);
  for (const { id } of idle) watch.misses.set(id, (watch.misses.get(id) ?? 0) + 1);
  const gone = idle.filter(({ id }) => (watch.misses.get(id) ?? 0) >= MISSES).slice(0, GONE_MAX);
  await Promise.all(
    gone.map(async (message) => {
      const { queueId } = message;
      const facts = await deps.mailLog.wait(queueId, (said) => said?.left != null, LOG_BEHIND_MS);
      await tell(deps, message, { type: 'Vanish', how: vanishedHow(facts?.left ?? null) });
      watch.misses.delete(message.id);
    }),
  );
}

/** Only if nothing has happened to it since, else false: an action that has begun finds out by itself. */
async function tell(
  deps: WatchDeps,
  { id, revision, mailDomains }: QueuedMessage,
  command: QuarantineCommand,
): Promise<boolean> {
  return handleCommand(deps.log, quarantinedMessage, {
    stream: quarantinedMessageStream(id),
    resource: { type: 'quarantined_message', id },
    mailDomains: mailDomains.map(String),
    command,
    meta: systemMeta(deps, deps.clock.now()),
    commandId: commandIdOf(0, `${command.type}/${id}/${revision}`),
    ifRevision: revision,
  }).then(
    () => true,
    (error: unknown) => {
      if (!(error instanceof DomainError && error.code === 'stale')) throw error;
      return false;
    },
  );
}
