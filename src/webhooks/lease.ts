import type pg from 'pg';
import { endLease, renewLease } from '../db/webhook-workers.ts';

/** A process's word that it lives, and so that what it delivers is its own. */
export type Lease = Readonly<{
  /** False once others may have taken over: then nothing more may be sent. */
  holds: () => boolean;
  /** How often that has been so before it was renewed: what this process had may be another's since. */
  lapses: () => number;
  /** Renews it when that is due; true when it was. */
  keep: () => Promise<boolean>;
  end: () => Promise<void>;
}>;

/** After this time without a word others take over what a worker has. */
export const LEASE_MS = 15_000;

/** By the database's clock for others, and by this process's own timer for itself: a pause counts. */
export function openLease(
  pool: pg.Pool,
  worker: Readonly<{ workerId: string; nodeId: string; leaseMs: number }>,
): Lease {
  const { workerId, leaseMs } = worker;
  const renewMs = leaseMs / 3;
  // It ends for itself before it ends for others, so that no two send at once.
  const ownMs = leaseMs * 0.8;
  let validUntilMs = 0;
  let renewedAtMs = Number.NEGATIVE_INFINITY;
  let lapses = 0;
  const holds = () => performance.now() < validUntilMs;
  return {
    holds,
    lapses: () => lapses,
    async keep() {
      const askedAt = performance.now();
      if (askedAt - renewedAtMs < renewMs && holds()) return false;
      await renewLease(pool, worker);
      if (!holds()) lapses += 1;
      // From before the question: the answer may have been long on its way.
      validUntilMs = askedAt + ownMs;
      renewedAtMs = askedAt;
      return true;
    },
    async end() {
      validUntilMs = 0;
      await endLease(pool, workerId);
    },
  };
}
