import type pg from 'pg';
import { describe, expect, it } from 'vitest';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import type { WebhookRow } from '../../src/projections/webhooks.ts';
import { createGate, createLane } from '../../src/webhooks/lane.ts';
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
    loop: { phase: 'running', isStale: true },
  }) as unknown as Running;

/** A database that has nothing; `onQuery` runs while each of these statements is under way. */
function depsWith(onQuery: (text: string) => void): DeliveryDeps {
  const query = async (text: string) => {
    onQuery(text);
    return { rows: [] };
  };
  const clock = { now: () => new Date(0), nowMs: () => 0 };
  return { clock, log: memoryEventLog(), pool: { query } as unknown as pg.Pool } as DeliveryDeps;
}

describe('what others have asked for', () => {
  it('is not looked for again once it was looked at', async () => {
    const s = staleOne();
    await refresh(
      s,
      depsWith(() => undefined),
    );
    expect(s.loop.isStale).toBe(false);
  });

  it('is looked for again when more came while it was looked at', async () => {
    const s = staleOne();
    const deps = depsWith((text) => {
      // The retries have been read; what is asked for now is not among them.
      if (text.includes('count(*)')) s.loop.isStale = true;
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
      });
      await expect(refresh(s, deps)).rejects.toThrow('Connection terminated');
      expect(s.loop.isStale).toBe(true);
    },
  );
});
