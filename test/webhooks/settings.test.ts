import { describe, expect, it } from 'vitest';
import type { WebhookRow } from '../../src/projections/webhooks.ts';
import { addressPolicy } from '../../src/webhooks/addresses.ts';
import { CLOSED } from '../../src/webhooks/breaker.ts';
import { createGate, createLane, toItem } from '../../src/webhooks/lane.ts';
import type { Running } from '../../src/webhooks/running.ts';
import { takeOver } from '../../src/webhooks/settings.ts';

const DEPS = {
  policy: { addresses: addressPolicy([]), allowHttp: false },
  clock: { now: () => new Date(0), nowMs: () => 0 },
};
const ROW = { url: 'https://hooks.example.com/', status: 'active', epochs: [] };

/** A subscription in strict order that has read events at 1 to `count`, of which the first was tried and waits. */
function runningWith(count: number): Running {
  const place = { epoch: 1, position: BigInt(count), sequence: count };
  const live = createLane(
    { next: async () => [], place: () => place, isAtEnd: () => true },
    { sentTo: place.position },
  );
  const gate = createGate('strict');
  for (let n = 1; n <= count; n += 1) {
    const event = {
      ...{ position: BigInt(n), eventId: `e${n}`, key: `k${n}`, type: 't', mailDomains: [] },
      partsFor: () => ({ head: '', tail: '' }),
    };
    const item = toItem(live, { event, epoch: 1, sequence: n });
    live.items.push(item);
    item.state = gate.enter(item) ? 'waiting' : 'blocked';
    if (item.state === 'waiting') live.again.push(item);
  }
  const endpoint = { breaker: CLOSED, quietUntilMs: 0 };
  const retries = { byPosition: new Map(), marked: [], parked: 0 };
  return {
    live,
    gate,
    endpoint,
    retries,
    ordering: 'strict',
    settings: { row: ROW },
    untold: { disable: null },
  } as unknown as Running;
}

const skipTo = (after: bigint) =>
  ({
    ...ROW,
    epochs: [{ epoch: 2, after, skips: true, eventTypes: ['*'] }],
  }) as unknown as WebhookRow;

describe('what a new setting says is to be left out', () => {
  it('is left out with what waits for it: none of it is begun', () => {
    const s = runningWith(6);
    takeOver(s, skipTo(6n), DEPS);
    expect([s.live.items, s.live.again, s.live.ready, s.live.fresh]).toEqual([[], [], [], []]);
  });

  it('lets go what waits for it and is not left out', () => {
    const s = runningWith(6);
    takeOver(s, skipTo(4n), DEPS);
    expect(s.live.items.map(({ position }) => position)).toEqual([5n, 6n]);
    expect(s.live.ready.map(({ position }) => position)).toEqual([5n]);
  });
});

describe('what was known of an endpoint', () => {
  it.each([
    ['another URL is set', {}, { url: 'https://other.example.com/' }],
    ['somebody enables it', { status: 'disabled' }, {}],
  ])('disables nothing any more once %s', (_, before, after) => {
    const s = runningWith(1);
    s.settings.row = { ...ROW, ...before } as unknown as WebhookRow;
    s.untold.disable = 'gone';
    takeOver(s, { ...ROW, ...after } as unknown as WebhookRow, DEPS);
    expect(s.untold.disable).toBeNull();
  });

  it('disables it where nobody has seen to it', () => {
    const s = runningWith(1);
    s.untold.disable = 'gone';
    takeOver(s, { ...ROW, description: 'other words' } as unknown as WebhookRow, DEPS);
    expect(s.untold.disable).toBe('gone');
  });

  it('has what was given up not tried again, though others need not wait any more', () => {
    const s = runningWith(2);
    const [givenUp, waiting] = s.live.items;
    if (givenUp === undefined || waiting === undefined) throw new Error('there is none');
    for (const item of [givenUp, waiting]) s.retries.byPosition.set(item.position, item);
    givenUp.dueAtMs = Number.POSITIVE_INFINITY;
    waiting.dueAtMs = 7;
    takeOver(s, { ...ROW, url: 'https://other.example.com/' } as unknown as WebhookRow, DEPS);
    expect([givenUp.dueAtMs, waiting.dueAtMs]).toEqual([Number.POSITIVE_INFINITY, 0]);
  });
});
