import type pg from 'pg';
import { endLease, LEASE_SECONDS, renewLease } from '../db/webhook-cursors.ts';

/** A process's word that it lives, and so that what it delivers is its own. */
export type Lease = Readonly<{
  /** False once others may have taken over: then nothing more may be sent. */
  holds: () => boolean;
  /** Renews it when that is due; true when it was. */
  keep: () => Promise<boolean>;
  end: () => Promise<void>;
}>;

const RENEW_MS = 5_000;
/** Before the database lets others take over, so that no two send at once. */
const MARGIN_MS = 3_000;

/** By the database's clock for others, and by this process's own timer for itself: a pause counts. */
export function openLease(pool: pg.Pool, workerId: string, nodeId: string): Lease {
  let validUntilMs = 0;
  let renewedAtMs = Number.NEGATIVE_INFINITY;
  const holds = () => performance.now() < validUntilMs;
  return {
    holds,
    async keep() {
      const askedAt = performance.now();
      if (askedAt - renewedAtMs < RENEW_MS && holds()) return false;
      await renewLease(pool, workerId, nodeId);
      // From before the question: the answer may have been long on its way.
      validUntilMs = askedAt + LEASE_SECONDS * 1_000 - MARGIN_MS;
      renewedAtMs = askedAt;
      return true;
    },
    async end() {
      validUntilMs = 0;
      await endLease(pool, workerId);
    },
  };
}
