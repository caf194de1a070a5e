import type pg from 'pg';
import { expect, it } from 'vitest';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import { startProjector } from '../../src/projections/projector.ts';
import { anEvent } from '../support/events.ts';

const EVENTS = 5_000;
const WAIT_MS = 2_000;

it('a command hears that events of no interest were passed, also where that cannot be saved', async () => {
  const log = memoryEventLog();
  const query = async (text: string) => {
    if (text.includes('update projection_checkpoints')) throw new Error('Connection terminated');
    return { rows: [{ position: '0', version: 1 }] };
  };
  const logger = { warn: () => undefined, error: () => undefined };
  const pool = { query } as unknown as pg.Pool;
  const projector = await startProjector({ pool, log, logger }, [
    {
      name: 'nothing',
      version: 1,
      types: ['test.other'],
      apply: async () => undefined,
      tables: [],
    },
  ]);
  const heard = projector.caughtUp(BigInt(EVENTS), ['nothing'], WAIT_MS);
  const events = Array.from({ length: EVENTS }, () => anEvent());
  await log.append({ stream: 'test-1', expected: 'any', events });
  expect(await heard).toBe(true);
  await projector.stop();
});
