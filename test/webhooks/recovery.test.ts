import type pg from 'pg';
import { describe, expect, it } from 'vitest';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import type { WebhookRow } from '../../src/projections/webhooks.ts';
import { createGate, createLane, type Item } from '../../src/webhooks/lane.ts';
import { refresh } from '../../src/webhooks/recovery.ts';
import type { DeliveryDeps, Running } from '../../src/webhooks/running.ts';
import { nothingUnsaved } from '../../src/webhooks/unsaved.ts';

const PLACE = { epoch: 1, position: 9n, sequence: 9 };
const ROW = { epochs: [], mailDomain: null } as unknown as WebhookRow;

/** A subscription that was told of a resend or a replay, and has looked at nothing yet. */
const staleOne = (): Running =>
  ({
    live: createLane(
      { next: async () => [], place: () => PLACE, isAtEnd: () => true },
      { sentTo: PLACE.position },
    ),
    ...{ id: 1, replays: [], ordering: 'none', gate: createGate('none'), settings: { row: ROW } },
    ...{ retries: { byPosition: new Map(), marked: [], parked: 0 }, unsaved: nothingUnsaved() },
    untold: { notes: [], parks: [], disable: null, isBacklogTold: false },
    loop: { phase: 'running', isStale: true },
  }) as unknown as Running;

/** A database that has what `onQuery` says, which runs while each of its statements is under way. */
function depsWith(onQuery: (text: string) => object[]): DeliveryDeps {
  const query = async (text: string) => ({ rows: onQuery(text) });
  const clock = { now: () => new Date(0), nowMs: () => 0 };
  return { clock, log: memoryEventLog(), pool: { query } as unknown as pg.Pool } as DeliveryDeps;
}

describe('what others have asked for', () => {
  it('is not looked for again once it was looked at', async () => {
    const s = staleOne();
    await refresh(
      s,
      depsWith(() => []),
    );
    expect(s.loop.isStale).toBe(false);
  });

  it('is looked for again when more came while it was looked at', async () => {
    const s = staleOne();
    const deps = depsWith((text) => {
      // The retries have been read; what is asked for now is not among them.
      if (text.includes('count(*)')) s.loop.isStale = true;
      return [];
    });
    await refresh(s, deps);
    expect(s.loop.isStale).toBe(true);
  });

  it.each(['webhook_retries', 'webhook_replays'])(
    'is looked for again when it could not be read from %s',
    async (table) => {
      const s = staleOne();
      const deps = depsWith((text) => {
        if (text.includes(`from ${table}`)) throw new Error('Connection terminated');
        return [];
      });
      await expect(refresh(s, deps)).rejects.toThrow('Connection terminated');
      expect(s.loop.isStale).toBe(true);
    },
  );

  it('is tried again also where it was given up in the same moment', async () => {
    const s = staleOne();
    const item = {
      ...{ position: 3n, state: 'waiting', tries: 10, dueAtMs: Number.POSITIVE_INFINITY },
      askedAt: null,
    } as Item;
    s.retries.byPosition.set(item.position, item);
    s.untold.parks.push({ item, cause: 'gave_up' });
    const now = '1970-01-01T00:00:01Z';
    const row = { position: '3', sequence: '3', due_at: now, first_failed_at: now, asked_at: now };
    const deps = depsWith((text) => (text.includes('order by position') ? [row] : []));
    await refresh(s, deps);
    expect([item.tries, item.dueAtMs]).toEqual([0, 1_000]);
    expect(s.untold.parks).toEqual([]);
  });
});
