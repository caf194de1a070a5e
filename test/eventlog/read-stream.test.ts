import { expect, it } from 'vitest';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import { readWholeStream } from '../../src/eventlog/read-stream.ts';
import { anEvent } from '../support/events.ts';

it('reads a stream of more events than one read gives, each once and in order', async () => {
  const log = memoryEventLog();
  const events = Array.from({ length: 10_001 }, () => anEvent());
  await log.append({ stream: 'other-1', expected: 'none', events: [anEvent()] });
  await log.append({ stream: 'long-1', expected: 'none', events });
  const positions = (await readWholeStream(log, 'long-1')).map(({ position }) => Number(position));
  expect(positions).toEqual(events.map((_, n) => n + 2));
  expect(await readWholeStream(log, 'none-1')).toEqual([]);
});
