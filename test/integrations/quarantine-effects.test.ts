import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { DomainError } from '../../src/domain/errors.ts';
import { quarantinedMessageStream } from '../../src/domain/quarantined-message.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import { type EffectDeps, retrain, transfer } from '../../src/integrations/quarantine-effects.ts';
import { recordsType } from '../support/hold.ts';
import { hold, reject, tell } from '../support/quarantine-log.ts';

/** The next append of this type is in the log, and whoever asked for it is told that the database is away. */
function loseAnswer(log: EventLog, type: string): void {
  const { append } = log;
  Object.assign(log, {
    async append(command: Parameters<typeof append>[0]) {
      const outcome = await append(command);
      if (!recordsType(type)(command)) return outcome;
      Object.assign(log, { append });
      throw new DomainError('unavailable', 'The database cannot be reached; try again.');
    },
  });
}

function depsWith(log: EventLog) {
  const removed: string[] = [];
  const deps = {
    log,
    clock: systemClock,
    nodeId: 'node-1',
    store: {
      open: async () => ({ sizeBytes: 0, bytes: [] }),
      remove: async (id: string) => removed.push(id),
    },
    outlet: {
      reject: async () => ({
        results: [{ recipient: 0, outcome: 'accepted', code: 250 }],
        replies: [],
        cause: null,
      }),
    },
    rspamd: { learn: async () => ({ outcome: 'learned', status: 200, reply: '' }) },
  } as unknown as EffectDeps;
  return { deps, removed };
}

const typesOf = async (log: EventLog, id: string) =>
  (await log.readStream(quarantinedMessageStream(id))).map(
    ({ line }) => JSON.parse(line).type as string,
  );

describe('what came of an action, though the answer of the log was lost', () => {
  const { signal } = new AbortController();

  it('is recorded once of a training, so that the next one is carried out, too', async () => {
    const log = memoryEventLog();
    const { deps } = depsWith(log);
    const id = await hold(log);
    await tell(log, id, { type: 'RequestRetrain', class: 'spam' });
    loseAnswer(log, 'quarantine.retrained');
    await retrain(deps, id, signal);
    await tell(log, id, { type: 'RequestRetrain', class: 'ham' });
    await retrain(deps, id, signal);
    expect(await typesOf(log, id)).toEqual([
      'quarantine.added',
      ...['quarantine.retrain_requested', 'quarantine.retrained'],
      ...['quarantine.retrain_requested', 'quarantine.retrained'],
    ]);
  });

  it('is gone on from after a bounce: the bytes are removed', async () => {
    const log = memoryEventLog();
    const { deps, removed } = depsWith(log);
    const id = await hold(log);
    await tell(log, id, reject);
    loseAnswer(log, 'quarantine.rejected');
    await transfer(deps, id, { signal, inSlot: (_, work) => work() });
    expect(removed).toEqual([id]);
  });
});
