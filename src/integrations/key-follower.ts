import { setTimeout as sleep } from 'node:timers/promises';
import { API_KEY_TYPES } from '../domain/api-key.ts';
import type { EventLog, Position } from '../eventlog/eventlog.ts';
import { readLine } from '../eventlog/upcast.ts';
import { createOutage } from '../outage.ts';
import type { LiveKeys } from '../projections/live-keys.ts';

const PAGE_EVENTS = 1_000;
/** A busy log moves all the time; looking this often still lets a revocation bite within a second. */
const LOOK_MS = 250;

export type KeyFollower = Readonly<{ stop: () => Promise<void> }>;

type Deps = Readonly<{
  log: EventLog;
  liveKeys: Pick<LiveKeys, 'find' | 'changed'>;
  logger: Readonly<{ warn: (fields: object, message: string) => void }>;
}>;

/**
 * Tells the memory of keys what other clients of the database did to them (`keys revoke --local`),
 * within about a second. `after` is a position that was in the memory when it was filled; what this
 * process wrote itself is in it already, and costs a comparison.
 */
export function followKeys(deps: Deps, after: Position): KeyFollower {
  const abort = new AbortController();
  const following = follow(deps, after, abort.signal);
  return {
    async stop() {
      abort.abort();
      await following;
    },
  };
}

async function follow(deps: Deps, after: Position, signal: AbortSignal): Promise<void> {
  const outage = createOutage(deps.logger, {
    failing: 'keys cannot be followed',
    again: 'keys can be followed again',
  });
  let position = after;
  for await (const head of deps.log.follow(after, signal)) {
    while (position < head && !signal.aborted) {
      // While the database is away nothing is stepped over: it is tried again.
      try {
        position = await applyPage(deps, position, head);
        outage.works();
      } catch (error) {
        outage.failed(error);
      }
      await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
    }
  }
}

async function applyPage(
  { log, liveKeys, logger }: Deps,
  after: Position,
  until: Position,
): Promise<Position> {
  const filter = { types: API_KEY_TYPES };
  const page = await log.readAll({ after, until, filter, limit: PAGE_EVENTS });
  const revisions = new Map<number, bigint>();
  for (const { line } of page.events) {
    const event = readLine(line);
    revisions.set(Number(event.resource.id), BigInt(event.revision));
  }
  for (const [id, revision] of revisions) {
    const known = liveKeys.find(id);
    if (known !== null && known.revision >= revision) continue;
    // A key that cannot be read is trusted no more, and the memory itself tries it again.
    await liveKeys.changed(id).catch((error: unknown) => {
      logger.warn({ err: error, key_id: id }, 'a key cannot be read');
    });
  }
  return page.scannedTo;
}
