import { describe, expect, it } from 'vitest';
import { afterFailure, CLOSED } from '../../src/webhooks/breaker.ts';
import { areMarked, createGate, createLane, takeFresh, toItem } from '../../src/webhooks/lane.ts';
import { pick } from '../../src/webhooks/pick.ts';
import { AHEAD_MAX } from '../../src/webhooks/room.ts';
import type { DeliveryDeps, Running } from '../../src/webhooks/running.ts';

const DEPS = { holdsLease: () => true } as DeliveryDeps;
const NOW_MS = 1_000;

/**
 * A subscription ordered by key that has read so many events of one key, and knows of more unless it is at its end;
 * the first has failed once and is due.
 */
function runningWith(count: number, { isAtEnd = false } = {}): Running {
  const place = { epoch: 1, position: BigInt(count), sequence: count };
  const feed = { next: async () => [], place: () => place, isAtEnd: () => isAtEnd };
  const live = createLane(feed, { sentTo: place.position });
  const gate = createGate('key');
  for (let n = 1; n <= count; n += 1) {
    const event = {
      ...{ position: BigInt(n), eventId: `e${n}`, key: 'same', type: 't', mailDomains: [] },
      partsFor: () => ({ head: '', tail: '' }),
    };
    const item = toItem(live, { event, epoch: 1, sequence: n });
    live.items.push(item);
    item.state = gate.enter(item) ? 'waiting' : 'blocked';
    if (item.state === 'waiting') live.again.push({ ...item, tries: 1 });
  }
  const failure = { position: 1n, isCertain: false, nowMs: 0, random: () => 0 };
  return {
    ...{ live, gate, ordering: 'key', replays: [], underWay: { all: 0, retries: 0 } },
    ...{ endpoint: { breaker: afterFailure(CLOSED, failure), quietUntilMs: 0 } },
    ...{ retries: { byPosition: new Map(), marked: [], parked: 0 }, untold: { disable: null } },
    ...{ loop: { phase: 'running' }, settings: { row: { status: 'active' } } },
  } as unknown as Running;
}

describe('an event that has failed', () => {
  it('goes again when all that were read wait for it, and no more may be read', () => {
    expect(pick(runningWith(AHEAD_MAX), DEPS, NOW_MS)?.position).toBe(1n);
  });

  it('waits for what may still be read, since that may tell whose fault it is', () => {
    expect(pick(runningWith(AHEAD_MAX - 1), DEPS, NOW_MS)).toBeNull();
  });

  it('waits for what is being marked, for the same reason', () => {
    const s = runningWith(2, { isAtEnd: true });
    const [, other] = s.live.items;
    if (other === undefined) throw new Error('there is no other');
    s.live.fresh.push(other);
    takeFresh(s.live, 1);
    expect(pick(s, DEPS, NOW_MS)).toBeNull();
    areMarked(s.live, other.position);
    expect(pick(s, DEPS, NOW_MS)).toBe(other);
  });
});
