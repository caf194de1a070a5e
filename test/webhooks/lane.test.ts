import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { PreparedDelivery } from '../../src/projections/webhook-payload.ts';
import type { Feed } from '../../src/webhooks/feed.ts';
import {
  areMarked,
  areNotMarked,
  createGate,
  createLane,
  dropTo,
  type Item,
  type Lane,
  lowWatermark,
  release,
  sentToWith,
  takeFresh,
  toItem,
  unmark,
} from '../../src/webhooks/lane.ts';

const anEvent = (position: bigint, key = 'k'): PreparedDelivery => ({
  ...{ position, key, eventId: `e${position}`, type: 't', mailDomains: [] },
  partsFor: () => ({ head: '', tail: '' }),
});

/** A lane over events at these positions, all read and none marked. */
function laneOf(positions: readonly number[]): Lane {
  const last = BigInt(positions.at(-1) ?? 0);
  const place = { epoch: 1, position: last + 3n, sequence: positions.length };
  const feed: Feed = {
    next: async () => [],
    place: () => place,
    isAtEnd: () => true,
  };
  const lane = createLane(feed, { sentTo: 0n });
  for (const [index, position] of positions.entries()) {
    const event = anEvent(BigInt(position));
    const item = toItem(lane, { event, epoch: 1, sequence: index + 1 });
    lane.items.push(item);
    lane.fresh.push(item);
  }
  return lane;
}

const Positions = fc.uniqueArray(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 60 });

describe('the low watermark', () => {
  it('passes nothing that is not over, and everything that is, whatever the order of ends', () =>
    fc.assert(
      fc.property(Positions, fc.array(fc.nat(), { maxLength: 80 }), (chosen, ends) => {
        const positions = [...chosen].sort((a, b) => a - b);
        const lane = laneOf(positions);
        const open = new Set(positions);
        let before = -1n;
        for (const end of ends) {
          const item = lane.items[end % Math.max(1, lane.items.length)];
          if (item !== undefined) {
            item.state = 'over';
            open.delete(Number(item.position));
          }
          const { position, sequence } = lowWatermark(lane);
          const first = Math.min(...open);
          if (open.size > 0) expect(position).toBe(BigInt(first) - 1n);
          else expect(position).toBe(BigInt(positions.at(-1) ?? 0) + 3n);
          // The number of matches at or below it.
          expect(sequence).toBe(positions.filter((p) => BigInt(p) <= position).length);
          expect(position >= before).toBe(true);
          before = position;
        }
      }),
    ));
});

describe('the marks of what may have been sent', () => {
  const positionsOf = (items: readonly Item[]) => items.map(({ position }) => Number(position));

  it('are given again, in the same order, where they did not get to the database', () => {
    const lane = laneOf([1, 2, 3, 4]);
    takeFresh(lane, 2);
    areNotMarked(lane);
    expect([positionsOf(lane.fresh), positionsOf(lane.ready)]).toEqual([[1, 2, 3, 4], []]);
    expect(positionsOf(takeFresh(lane, 3))).toEqual([1, 2, 3]);
  });

  it('begin nothing that was dropped while they were on their way', () => {
    const lane = laneOf([1, 2, 3, 4]);
    const sentTo = sentToWith(lane, takeFresh(lane, 3));
    dropTo(lane, 2n);
    areMarked(lane, sentTo);
    expect([positionsOf(lane.ready), positionsOf(lane.fresh)]).toEqual([[3], [4]]);
    expect(lane.sentTo).toBe(3n);
  });

  it.each([
    ['got to the database', areMarked],
    ['did not get there', areNotMarked],
  ])(
    'cover what is sent, whatever was taken back while they were on their way and %s',
    (_, end) => {
      const lane = laneOf([1, 2, 3, 4, 5]);
      areMarked(lane, sentToWith(lane, takeFresh(lane, 2)));
      const sentTo = sentToWith(lane, takeFresh(lane, 2));
      unmark(lane);
      end(lane, sentTo);
      unmark(lane);
      expect(positionsOf(lane.fresh)).toEqual([1, 2, 3, 4, 5]);
      areMarked(lane, sentToWith(lane, takeFresh(lane, 3)));
      expect([positionsOf(lane.ready), lane.sentTo]).toEqual([[1, 2, 3], 3n]);
    },
  );

  it.each([
    ['what was marked before', 2, 0],
    ['what is on its way', 0, 2],
    ['both', 1, 1],
  ])(
    'are not there any more once they were taken back while a round was put down: %s',
    (_, before, now) => {
      const lane = laneOf([1, 2, 3, 4]);
      areMarked(lane, sentToWith(lane, takeFresh(lane, before)));
      const sentTo = sentToWith(lane, takeFresh(lane, now));
      unmark(lane);
      areMarked(lane, sentTo);
      expect([positionsOf(lane.fresh), positionsOf(lane.ready)]).toEqual([[1, 2, 3, 4], []]);
      expect(lane.sentTo).toBe(0n);
    },
  );

  it('cover what is sent, also where its turn was long due when they were taken back', () => {
    const lane = laneOf([1, 2, 3, 4]);
    const [, , third, fourth] = lane.items;
    if (third === undefined || fourth === undefined) throw new Error('there is none');
    const gate = createGate('key');
    for (const item of [third, fourth]) if (!gate.enter(item)) item.state = 'blocked';
    lane.fresh.pop();
    areMarked(lane, sentToWith(lane, takeFresh(lane, 3)));
    third.state = 'over';
    lane.ready.pop();
    release(gate, third);
    unmark(lane);
    expect(positionsOf(lane.fresh)).toEqual([1, 2, 4]);
  });

  it('cover everything that was tried, and are taken back from nothing else', () =>
    fc.assert(
      fc.property(Positions, fc.nat(60), fc.nat(60), (chosen, marked, tried) => {
        const lane = laneOf([...chosen].sort((a, b) => a - b));
        areMarked(lane, sentToWith(lane, takeFresh(lane, marked)));
        const sent = lane.ready.splice(0, tried);
        for (const item of sent) {
          item.state = 'waiting';
          lane.again.push(item);
        }
        unmark(lane);
        const highest = sent.at(-1)?.position ?? 0n;
        expect(lane.sentTo >= highest).toBe(true);
        for (const { position } of lane.fresh) expect(position > lane.sentTo).toBe(true);
        // Nothing was forgotten.
        expect(lane.fresh.length + lane.again.length).toBe(chosen.length);
      }),
    ));
});

describe('the gate of a key', () => {
  it('lets one event of a key go at a time, in their order', () =>
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 80 }),
        fc.nat(),
        (keys, seed) => {
          const gate = createGate('key');
          const lane = laneOf([]);
          const going: Item[] = [];
          const gone: Item[] = [];
          for (const [index, key] of keys.entries()) {
            const event = anEvent(BigInt(index + 1), `k${key}`);
            const item = toItem(lane, { event, epoch: 1, sequence: index + 1 });
            if (gate.enter(item)) going.push(item);
            else expect(gate.ahead(item)?.key).toBe(item.key);
          }
          for (let turn = seed; going.length > 0; turn += 1) {
            expect(new Set(going.map(({ key }) => key)).size).toBe(going.length);
            const [item] = going.splice(turn % going.length, 1);
            if (item === undefined) break;
            gone.push(item);
            const next = gate.leave(item);
            if (next !== null) going.push(next);
          }
          expect(gone).toHaveLength(keys.length);
          for (let k = 0; k <= 4; k += 1) {
            const own = gone.filter(({ key }) => key === `k${k}`).map(({ position }) => position);
            expect(own).toEqual([...own].sort((a, b) => (a < b ? -1 : 1)));
          }
        },
      ),
    ));
});
