import { type KeyObject, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CursorRow, claimCursors } from '../db/webhook-cursors.ts';
import { countSurplus, forgetOtherWorkers } from '../db/webhook-workers.ts';
import type { Position } from '../eventlog/eventlog.ts';
import { createOutage } from '../outage.ts';
import { findWebhook } from '../projections/webhooks.ts';
import { LEASE_MS, openLease } from './lease.ts';
import type { DeliveryDeps } from './running.ts';
import { runSubscription, type Subscription } from './subscription.ts';
import { startTail } from './tail.ts';

/** All that this process delivers. */
export type Worker = Readonly<{
  /** A subscription was changed: when it resolves, nothing is begun any more as it was before. */
  changed: (id: number) => Promise<void>;
  subscriptions: () => readonly Subscription[];
  stop: () => Promise<void>;
}>;

export type WorkerDeps = Omit<DeliveryDeps, 'tail' | 'holdsLease' | 'lapses'> &
  Readonly<{
    /** Waits until the read model of subscriptions is at a position; false when it took too long. */
    caughtUp: (position: Position) => Promise<boolean>;
    /** No other process can be delivering: what the last one had is free at once. */
    isAlone: boolean;
    leaseMs?: number;
  }>;

const TICK_MS = 1_000;
const CLAIMS_AT_ONCE = 8;
const RETRY_MS = 200;

/** Delivers every subscription that no other living process has, until stopped. */
export async function startWorker(deps: WorkerDeps): Promise<Worker> {
  const workerId = randomUUID();
  const owned = new Map<number, Subscription>();
  const { nodeId, leaseMs = LEASE_MS } = deps;
  const lease = openLease(deps.pool, { workerId, nodeId, leaseMs });
  let isStopped = false;
  const known = async (position: Position) => {
    while (!isStopped && !(await deps.caughtUp(position))) await sleep(RETRY_MS);
  };
  const { position: head } = await deps.log.head();
  // From here on the tail knows of every change; what was before is in the read model by then.
  await known(head);
  const tail = startTail(
    {
      log: deps.log,
      logger: deps.logger,
      isIdle: () => owned.size === 0,
      onMove: () => {
        for (const one of owned.values()) one.wake();
      },
      async onChanges(position) {
        await known(position);
        await claims.changedAll();
      },
    },
    head,
  );
  const { holds: holdsLease, lapses } = lease;
  const delivery: DeliveryDeps = { ...deps, tail, holdsLease, lapses };
  const claims = openClaims(delivery, { workerId, owned, isOver: () => isStopped });
  if (deps.isAlone) await forgetOtherWorkers(deps.pool, workerId);
  await lease.keep();
  const ticker = startTicker(deps, async () => {
    if (await lease.keep()) await giveUpSurplus(deps, owned);
    await claims.claim();
  });
  return {
    changed: claims.changed,
    subscriptions: () => [...owned.values()],
    async stop() {
      isStopped = true;
      await ticker.stop();
      await claims.idle();
      await Promise.all([...owned.values()].map((one) => one.stop()));
      await tail.stop();
      // What is given back is free; a worker that says nothing more is found out by its lease.
      await lease.end().catch(() => undefined);
    },
  };
}

type Claims = Readonly<{
  claim: () => Promise<void>;
  changed: (id: number) => Promise<void>;
  /** Any of them may have been changed, or others have come. */
  changedAll: () => Promise<void>;
  /** Resolves when nothing is being claimed. */
  idle: () => Promise<void>;
}>;

function openClaims(
  deps: DeliveryDeps,
  process: Readonly<{
    workerId: string;
    owned: Map<number, Subscription>;
    isOver: () => boolean;
  }>,
): Claims {
  const { workerId, owned, isOver } = process;
  let claiming: Promise<void> = Promise.resolve();

  async function claimFree(): Promise<void> {
    if (isOver() || !deps.holdsLease()) return;
    const claimed = await claimCursors(deps.pool, workerId, [...owned.keys()]);
    const ends: PromiseSettledResult<void>[] = [];
    for (let first = 0; first < claimed.length; first += CLAIMS_AT_ONCE) {
      const some = claimed.slice(first, first + CLAIMS_AT_ONCE);
      ends.push(...(await Promise.allSettled(some.map(begin))));
    }
    // Only now: what has failed is claimed again, and with it would be what is still being begun.
    const failed = ends.find((end) => end.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async function begin(cursor: CursorRow): Promise<void> {
    const row = await findWebhook(deps.pool, cursor.webhookId);
    if (row === null) return;
    // One that was lost to somebody and comes back is another one; the old one may not have noticed yet.
    await owned.get(row.id)?.stop();
    const one = await runSubscription(deps, cursor, row);
    owned.set(row.id, one);
    void one.ended.then(() => {
      if (owned.get(row.id) === one) owned.delete(row.id);
    });
    // Changed while it was being read. One that may not know of it does not go on, and is claimed again.
    await reload(one).catch((error: unknown) => {
      void one.stop();
      throw error;
    });
  }

  /**
   * Lets it know how it is set. Another ordering ends it, to be begun anew: what is under way may take its time, for
   * which only who has asked waits, since all others wait for the tail.
   */
  async function reload(one: Subscription): Promise<Readonly<{ ending: Promise<void> | null }>> {
    const row = await findWebhook(deps.pool, one.id);
    one.reload(row, row === null ? NO_SECRETS : await deps.secretsOf(one.id));
    if (row === null || row.ordering === one.ordering) return { ending: null };
    const ending = one.stop().then(claim);
    // Where nobody waits for it: what could not be claimed is claimed with the next turn.
    ending.catch(() => undefined);
    return { ending };
  }

  /** One after the other: two at once would count each other's as free. */
  const claim = (): Promise<void> => {
    claiming = claiming.catch(() => undefined).then(claimFree);
    return claiming;
  };
  return {
    claim,
    async changed(id) {
      const one = owned.get(id);
      if (one === undefined) await claim();
      else await (await reload(one)).ending;
    },
    async changedAll() {
      for (const one of [...owned.values()]) await reload(one);
      await claim();
    },
    idle: () => claiming.catch(() => undefined),
  };
}

/** Makes room for workers that have joined. */
async function giveUpSurplus(
  { pool }: WorkerDeps,
  owned: ReadonlyMap<number, Subscription>,
): Promise<void> {
  const surplus = await countSurplus(pool, owned.size);
  for (const one of [...owned.values()].slice(0, surplus)) await one.stop();
}

/** Runs at once and then each second, until stopped; what fails is tried with the next turn. */
function startTicker({ logger }: WorkerDeps, run: () => Promise<void>) {
  const stopping = new AbortController();
  const { signal } = stopping;
  const outage = createOutage(logger, {
    failing: 'webhooks wait for the database',
    again: 'webhooks have the database again',
  });
  const ticking = (async () => {
    while (!signal.aborted) {
      await run().then(outage.works, outage.failed);
      await sleep(TICK_MS, undefined, { signal }).catch(() => undefined);
    }
  })();
  return {
    async stop() {
      stopping.abort();
      await ticking;
    },
  };
}

const NO_SECRETS: ReadonlyMap<string, KeyObject> = new Map();
