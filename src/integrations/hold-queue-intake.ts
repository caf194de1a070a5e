import type { Logger } from 'pino';
import { dropAnnouncements, findAnnouncements } from '../db/quarantine-announcements.ts';
import { findOutOfHoldQueue, type QueuedMessage } from '../projections/hold-queue.ts';
import { type HeldFile, lineOf } from './hold-queue.ts';
import { type AddingDeps, addHeld, type Find, isOf, LOG_BEHIND_MS } from './hold-queue-adding.ts';

export type IntakeDeps = AddingDeps & Readonly<{ logger: Logger }>;

/** What is remembered, from look to look, of files that are not taken in yet. */
export type Strangers = Readonly<{
  /** How often each was seen. */
  sightings: Map<string, number>;
  /** Those that could not be taken in, and when they are tried again. */
  refused: Map<string, number>;
}>;

/** What nobody announced is taken in once it was seen so often: the announcement may be on its way. */
const SIGHTINGS = 2;
/** A file that is held and not listed for so many looks is none of Postfix's. */
const UNLISTED = 5;
const REFUSED_MS = 60_000;
const ADDED_AT_ONCE = 4;
/** In one look; the others come with the next, at once. */
const ADDED_MAX = 200;

/** The line of the file that a message was taken in from. */
export const lineOfMessage = ({ queueId, fileSize, fileMtime }: QueuedMessage): string =>
  lineOf({ queueId, file: { size: fileSize, mtime: fileMtime } });

/** Takes in what is held and not known. True when some are left for the next look. */
export async function takeIn(
  deps: IntakeDeps,
  strangers: Strangers,
  unknown: readonly HeldFile[],
): Promise<boolean> {
  const keys = new Set(unknown.map(lineOf));
  for (const key of strangers.sightings.keys()) if (!keys.has(key)) strangers.sightings.delete(key);
  for (const key of strangers.refused.keys()) if (!keys.has(key)) strangers.refused.delete(key);
  if (unknown.length === 0) return false;
  const ids = unknown.map(({ queueId }) => queueId);
  const announcements = await findAnnouncements(deps.pool, deps.nodeId, ids);
  const ended = groupByFile(await findOutOfHoldQueue(deps.pool, deps.nodeId, ids));
  const ready: Find[] = [];
  // All of one look together, or many of which it says nothing would take for ever.
  const logUntilMs = performance.now() + LOG_BEHIND_MS;
  for (const file of unknown) {
    if ((strangers.refused.get(lineOf(file)) ?? 0) > deps.clock.nowMs()) continue;
    const sightings = (strangers.sightings.get(lineOf(file)) ?? 0) + 1;
    strangers.sightings.set(lineOf(file), sightings);
    const before = ended.get(lineOf(file)) ?? [];
    const announcement = announcements.get(file.queueId);
    const isAnnounced = announcement !== undefined && isOf(announcement, file.file.mtime);
    // One that was here before must be seen again: it may have left while the queue was being read.
    if (sightings < SIGHTINGS && (before.length > 0 || !isAnnounced)) continue;
    if (before.some(({ state }) => state === 'expired' || state === 'discarded')) {
      await removeAgain(deps, file);
      continue;
    }
    const announced = isAnnounced ? announcement : null;
    ready.push({ file, announced, episode: before.length, logUntilMs });
  }
  const now = ready.slice(0, ADDED_MAX);
  const added = now.length > 0 ? await addAll(deps, strangers, now) : 0;
  // Where nothing comes of it there is no hurry.
  return added > 0 && ready.length > now.length;
}

/** A crash came between the end of a message and the removal of its file. */
async function removeAgain({ queue, logger }: IntakeDeps, file: HeldFile): Promise<void> {
  const outcome = await queue.act('discard', file);
  logger.warn({ queue_id: file.queueId, outcome }, 'a message that has ended was still held');
}

async function addAll(
  deps: IntakeDeps,
  strangers: Strangers,
  finds: readonly Find[],
): Promise<number> {
  const entries = await deps.queue.list();
  const added: Find[] = [];
  for (let at = 0; at < finds.length; at += ADDED_AT_ONCE) {
    const some = finds.slice(at, at + ADDED_AT_ONCE);
    await Promise.all(
      some.map(async (find) => {
        const entry = entries.get(find.file.queueId);
        // Not in the list, or elsewhere: it is on its way, and the next look will tell where to.
        if (entry?.queueName !== 'hold') {
          noteUnlisted(deps, strangers, find);
          return;
        }
        const isAdded = await addHeld(deps, find, entry).catch(refusedOf(deps, strangers, find));
        if (isAdded) added.push(find);
      }),
    );
  }
  const used = added.filter(({ announced }) => announced !== null);
  await dropAnnouncements(
    deps.pool,
    deps.nodeId,
    used.map(({ file }) => file.queueId),
  );
  return added.length;
}

/** Nobody would learn of mail that is never listed, were it not said. */
function noteUnlisted({ logger }: IntakeDeps, { sightings }: Strangers, { file }: Find): void {
  if (sightings.get(lineOf(file)) !== UNLISTED) return;
  logger.warn({ queue_id: file.queueId }, 'a file is held that Postfix does not list');
}

/** One that cannot be read keeps no other out, and is tried again later. */
const refusedOf =
  ({ logger, clock }: IntakeDeps, { refused }: Strangers, { file }: Find) =>
  (error: unknown): false => {
    const fields = { err: error, queue_id: file.queueId };
    if (!refused.has(lineOf(file))) logger.warn(fields, 'a held message cannot be taken in');
    refused.set(lineOf(file), clock.nowMs() + REFUSED_MS);
    return false;
  };

function groupByFile(
  messages: readonly QueuedMessage[],
): ReadonlyMap<string, readonly QueuedMessage[]> {
  const groups = new Map<string, QueuedMessage[]>();
  for (const message of messages) {
    const key = lineOfMessage(message);
    groups.set(key, [...(groups.get(key) ?? []), message]);
  }
  return groups;
}
