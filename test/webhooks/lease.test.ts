import { describe, expect, it } from 'vitest';
import { openLease } from '../../src/webhooks/lease.ts';
import { handMadePool } from '../support/hand-made-deliveries.ts';

const leaseOf = (leaseMs: number) =>
  openLease(
    handMadePool(() => []),
    { workerId: 'w', nodeId: 'n', leaseMs },
  );

describe('a lease', () => {
  it('has not lapsed while it is held', async () => {
    const lease = leaseOf(600_000);
    await lease.keep();
    const before = lease.lapses();
    await lease.keep();
    expect([lease.holds(), lease.lapses() - before]).toEqual([true, 0]);
  });

  it('has lapsed when it is renewed too late', async () => {
    const lease = leaseOf(0);
    await lease.keep();
    const before = lease.lapses();
    await lease.keep();
    expect([lease.holds(), lease.lapses() - before]).toEqual([false, 1]);
  });
});
