import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createGate, createLane, type Item, toItem } from '../../src/webhooks/lane.ts';
import { moveToRetries } from '../../src/webhooks/retry-set.ts';
import type { Running } from '../../src/webhooks/running.ts';
import { nothingUnsaved, putBack, type Unsaved } from '../../src/webhooks/unsaved.ts';

/** A subscription ordered by key that has read one event for each of these keys, and sent what may go. */
function runningWith(keys: readonly number[]) {
  const place = { epoch: 1, position: BigInt(keys.length), sequence: keys.length };
  const live = createLane(
    { next: async () => [], place: () => place, isAtEnd: () => true },
    { sentTo: place.position },
  );
  const gate = createGate('key');
  for (const [index, key] of keys.entries()) {
    const event = {
      ...{ position: BigInt(index + 1), eventId: `e${index}`, key: `k${key}`, type: 't' },
      ...{ mailDomains: [], partsFor: () => ({ head: '', tail: '' }) },
    };
    const item = toItem(live, { event, epoch: 1, sequence: index + 1 });
    live.items.push(item);
    item.state = gate.enter(item) ? 'waiting' : 'blocked';
    if (item.state === 'waiting') live.again.push(item);
  }
  const retries = { byPosition: new Map(), marked: [], parked: 0 };
  const ordering = 'key';
  return {
    live,
    replays: [],
    ordering,
    gate,
    retries,
    unsaved: nothingUnsaved(),
  } as unknown as Running;
}

const placesOf = (s: Running, position: bigint): number => {
  const { items, fresh, ready, again } = s.live;
  const open = items.filter(({ state }) => state !== 'over');
  const lists: readonly (readonly Item[])[] = [open, fresh, ready, again];
  const isIn = (list: readonly Item[]) => list.some((item) => item.position === position);
  return lists.filter(isIn).length + Number(s.retries.byPosition.has(position));
};

describe('an event that is moved behind the cursor', () => {
  it('takes along all that wait for it, and nothing else; none stands in both places', () =>
    fc.assert(
      fc.property(
        fc.array(fc.nat(3), { minLength: 1, maxLength: 40 }),
        fc.nat(),
        fc.array(fc.nat(39), { maxLength: 5 }),
        (keys, choice, asked) => {
          const s = runningWith(keys);
          const items = [...s.live.items];
          const failed = s.live.again[choice % s.live.again.length];
          if (failed === undefined) throw new Error('nothing was sent');
          // Somebody has asked for some of them already.
          for (const index of new Set(asked)) {
            const item = items[index];
            if (item === undefined) continue;
            const copy: Item = { ...item, lane: null, state: 'waiting' };
            if (!s.gate.enter(copy)) copy.state = 'blocked';
            s.retries.byPosition.set(item.position, copy);
          }
          moveToRetries(s, failed, 7);
          for (const { position, key, lane } of items) {
            if (key !== failed.key) {
              expect(lane).toBe(s.live);
              continue;
            }
            expect(lane).toBeNull();
            expect(s.retries.byPosition.has(position)).toBe(true);
            expect(placesOf(s, position)).toBe(1);
          }
          // One of the key goes, the others wait behind it.
          const own = [...s.retries.byPosition.values()].filter(({ key }) => key === failed.key);
          expect(own.filter(({ state }) => state === 'waiting')).toHaveLength(1);
        },
      ),
    ));
});

describe('what could not be put down', () => {
  const told = (
    kept: Readonly<Record<number, string>>,
    done: Readonly<Record<number, Date | null>>,
  ): Unsaved =>
    ({
      attempts: [...Object.keys(kept), ...Object.keys(done)],
      kept: new Map(Object.entries(kept).map(([at, row]) => [BigInt(at), row])),
      done: new Map(Object.entries(done).map(([at, asked]) => [BigInt(at), asked])),
      sinceMs: 5,
    }) as unknown as Unsaved;

  it('is put down with what came meanwhile, which counts where both speak of one event', () => {
    const earlier = told({ 1: 'old', 2: 'old', 3: 'old' }, { 4: null, 5: null });
    const since = told({ 1: 'new', 4: 'new' }, { 2: null });
    const { attempts, kept, done, sinceMs } = putBack(earlier, since);
    expect(attempts).toEqual(['1', '2', '3', '4', '5', '1', '4', '2']);
    expect([...kept].sort()).toEqual([
      [1n, 'new'],
      [3n, 'old'],
      [4n, 'new'],
    ]);
    expect([...done.keys()].sort()).toEqual([2n, 5n]);
    expect(sinceMs).toBe(0);
  });
});
