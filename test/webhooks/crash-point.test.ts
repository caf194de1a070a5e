import { createSecretKey } from 'node:crypto';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Clock } from '../../src/clock.ts';
import { APP_ROLE, openPool } from '../../src/db/pool.ts';
import { listWebhookSecrets } from '../../src/db/webhook-secrets.ts';
import { webhookSecretPurpose } from '../../src/secrets.ts';
import { addressPolicy } from '../../src/webhooks/addresses.ts';
import { openSender } from '../../src/webhooks/send.ts';
import { createSlots } from '../../src/webhooks/slots.ts';
import { startWorker, type Worker } from '../../src/webhooks/worker.ts';
import { attemptsOf, happen, oneTo, sequencesOf, subscribeTo } from '../support/deliveries.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import { eventually, type Made } from '../support/webhooks.ts';

const LEASE_MS = 1_200;
const NOTHING_MS = 100;

/** A pool that a test can make as dead to its process as after a kill: its queries never come back. */
function mortalPool(url: string) {
  const pool = openPool({ url, size: 4, role: APP_ROLE });
  let dies: (query: { name?: string; values?: unknown[] }) => boolean = () => false;
  let isDead = false;
  const real = pool.query.bind(pool) as (...args: unknown[]) => Promise<unknown>;
  const query = (...args: unknown[]) => {
    isDead ||= dies((args[0] ?? {}) as { name?: string });
    return isDead ? new Promise(() => undefined) : real(...args);
  };
  return {
    pool: Object.assign(pool, { query }) as unknown as pg.Pool,
    dieBefore(what: typeof dies) {
      dies = what;
    },
  };
}

describe('a sender that dies', () => {
  let t: TestGateway;
  let receiver: Receiver;
  let one: Made;
  const workers: Worker[] = [];
  const pools: pg.Pool[] = [];
  beforeAll(async () => {
    t = await startTestGateway({ config: LOOPBACK });
    receiver = await startReceiver();
    one = await subscribeTo(t, receiver);
    // Only the test's workers deliver from here on.
    await (t.gateway.context.webhooks as unknown as { stop: () => Promise<void> }).stop();
  });
  afterAll(async () => {
    for (const worker of workers) await Promise.race([worker.stop(), pause(500)]);
    await t.close();
    await receiver.close();
    for (const pool of pools) await Promise.race([pool.end(), pause(500)]);
  });
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

  async function work(pool: pg.Pool, clock: Clock = t.gateway.context.clock): Promise<Worker> {
    const { log, projector, secrets, logger } = t.gateway.context;
    pools.push(pool);
    const policy = { addresses: addressPolicy(['127.0.0.0/8']), allowHttp: true };
    const worker = await startWorker({
      ...{ pool, log, clock, logger, policy, nodeId: 'test', leaseMs: LEASE_MS },
      isAlone: false,
      caughtUp: (position) => projector.caughtUp(position, ['webhooks']),
      sender: openSender({ policy, timeoutMs: 5_000 }),
      slots: createSlots(),
      random: Math.random,
      lookMs: 50,
      onAttempt: () => undefined,
      async secretsOf(id) {
        const kept = await listWebhookSecrets(t.gateway.context.pool, `webhook:${id}`);
        return new Map(
          kept.map(({ fingerprint, sealed }) => [
            fingerprint,
            createSecretKey(secrets.unseal(sealed, webhookSecretPurpose(id, fingerprint))),
          ]),
        );
      },
    });
    workers.push(worker);
    return worker;
  }

  it('between a post and its record leaves a mark, and the next one sends the same bytes again', async () => {
    const first = mortalPool(t.database.url);
    // It dies the moment it would put a result down.
    first.dieBefore(
      ({ name, values }) =>
        name === 'webhook_settle' && ((values?.[12] ?? []) as unknown[]).length > 0,
    );
    await work(first.pool);
    const [id = ''] = await happen(t, 1);
    await receiver.until(1);
    await pause(NOTHING_MS);
    expect(await attemptsOf(t, one, id)).toEqual([]);
    await work(openPool({ url: t.database.url, size: 4, role: APP_ROLE }));
    await receiver.until(2);
    await eventually(async () =>
      expect(await attemptsOf(t, one, id)).toMatchObject([
        { outcome: 'unknown', status: null, body_sha256: null },
        { outcome: 'delivered', status: 200, body_sha256: receiver.received[0]?.digest },
      ]),
    );
    const [a, b] = receiver.received;
    expect([a?.id, a?.body]).toEqual([b?.id, b?.body]);
    expect(receiver.received).toHaveLength(2);
  });

  it('before it has put its mark down has sent nothing', async () => {
    for (const worker of workers.splice(0)) await Promise.race([worker.stop(), pause(500)]);
    const next = mortalPool(t.database.url);
    await work(next.pool);
    await happen(t, 1);
    await receiver.until(3);
    await pause(NOTHING_MS);
    next.dieBefore(({ name }) => name === 'webhook_settle');
    const [id = ''] = await happen(t, 1);
    await pause(300);
    expect(receiver.received.some((post) => post.id === id)).toBe(false);
    await work(openPool({ url: t.database.url, size: 4, role: APP_ROLE }));
    await eventually(() => expect(receiver.ids()).toContain(id));
    await eventually(async () =>
      expect(await attemptsOf(t, one, id)).toMatchObject([{ outcome: 'delivered' }]),
    );
    expect(sequencesOf(receiver)).toEqual(oneTo(3));
  });

  it('keeps its lease and its place when its clock is ten minutes off', async () => {
    for (const worker of workers.splice(0)) await Promise.race([worker.stop(), pause(500)]);
    const { clock } = t.gateway.context;
    const skewed: Clock = {
      now: () => new Date(clock.now().getTime() - 600_000),
      nowMs: () => clock.nowMs() - 600_000,
    };
    await work(openPool({ url: t.database.url, size: 4, role: APP_ROLE }), skewed);
    const before = receiver.received.length;
    for (let n = 0; n < 8; n += 1) {
      await happen(t, 1);
      await pause(LEASE_MS / 4);
    }
    await receiver.until(before + 8);
    expect(receiver.received).toHaveLength(before + 8);
    expect(sequencesOf(receiver)).toEqual(oneTo(11));
  });
});
