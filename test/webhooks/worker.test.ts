import { afterEach, describe, expect, it } from 'vitest';
import { startWorker, type Worker } from '../../src/webhooks/worker.ts';
import { A_ROW, type Answering, handMadeDeliveries } from '../support/hand-made-deliveries.ts';
import { eventually } from '../support/webhooks.ts';

const aClaim = (id: number) => ({
  ...{ webhook_id: String(id), token: '1', epoch: 1, position: '0', sequence: '0', sent_to: '0' },
  ...{ is_clean: false, breaker: {}, quiet_until: null },
});
/** As the read model has it. */
const aWebhook = (id: number, ordering = 'none') => ({
  ...{ ...A_ROW, id: String(id), revision: '1', mail_domain: null, failing_since: null, ordering },
  epochs: [{ epoch: 1, after: '0', event_types: ['*'], skips: false }],
  ...{ created_at: A_ROW.createdAt, updated_at: A_ROW.updatedAt },
});

const isClaim = (text: string) => text.includes('with living as');
const isFind = (text: string) => text.includes('from webhooks where id = $1');
const turns = async () => {
  for (let n = 0; n < 20; n += 1) await new Promise((resolve) => setImmediate(resolve));
};

describe('a worker', () => {
  const workers: Worker[] = [];
  afterEach(async () => {
    for (const worker of workers.splice(0)) await worker.stop();
  });

  async function work(answering: Answering): Promise<Worker> {
    const { deps } = handMadeDeliveries(answering);
    const worker = await startWorker({ ...deps, caughtUp: async () => true, isAlone: true });
    workers.push(worker);
    return worker;
  }

  it('claims no others before all that it has claimed are begun, also when one of them fails', async () => {
    let claims = 0;
    let begin = (): void => undefined;
    const mayBegin = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const worker = await work(async ({ text, values: [id] }) => {
      if (isClaim(text)) {
        claims += 1;
        return claims === 1 ? [aClaim(1), aClaim(2)] : [];
      }
      if (!isFind(text)) return null;
      if (id === 1) throw new Error('Connection terminated');
      await mayBegin;
      return [aWebhook(2)];
    });
    await eventually(() => expect(claims).toBe(1));
    const changed = worker.changed(3);
    await turns();
    expect(claims).toBe(1);
    begin();
    await changed;
    expect(claims).toBeGreaterThan(1);
    expect(worker.subscriptions().map(({ id }) => id)).toEqual([2]);
  });

  it('survives a database that is away when a subscription that begins has got another ordering', async () => {
    const unheard: unknown[] = [];
    const listener = (error: unknown) => unheard.push(error);
    process.on('unhandledRejection', listener);
    let claims = 0;
    let finds = 0;
    await work(({ text }) => {
      if (isClaim(text)) {
        claims += 1;
        if (claims > 1) throw new Error('Connection terminated');
        return [aClaim(1)];
      }
      if (!isFind(text)) return null;
      finds += 1;
      return [aWebhook(1, finds === 1 ? 'none' : 'strict')];
    });
    await eventually(() => expect(claims).toBe(2));
    await turns();
    process.off('unhandledRejection', listener);
    expect(unheard).toEqual([]);
  });

  it('lets go of one that it cannot ask again for how it is set, since that may have changed', async () => {
    const known: unknown[] = [];
    let finds = 0;
    const worker = await work(({ text, values }) => {
      if (isClaim(text)) {
        known.push(values[1]);
        return known.length === 1 ? [aClaim(1)] : [];
      }
      if (!isFind(text)) return null;
      finds += 1;
      if (finds > 1) throw new Error('Connection terminated');
      return [aWebhook(1)];
    });
    await eventually(() => expect(finds).toBe(2));
    await eventually(() => expect(worker.subscriptions()).toEqual([]));
    await worker.changed(1);
    expect(known.slice(0, 2)).toEqual([[], []]);
  });
});
