import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { happen, oneTo, sequencesOf, subscribeTo } from '../support/deliveries.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import { caughtUp, eventually, type Made } from '../support/webhooks.ts';

const PROGRAM = fileURLToPath(new URL('../support/delivering-process.js', import.meta.url));
const LEASE_MS = 2_400;
const SUBSCRIPTIONS = 6;
const masterKey = randomBytes(32);

type Held = Readonly<{ id: number; owner: string | null; token: bigint; position: bigint }>;

describe('several processes that deliver from one database', () => {
  let t: TestGateway;
  const children: ChildProcess[] = [];
  const receivers: Receiver[] = [];
  const subscribed: Made[] = [];
  let loading: NodeJS.Timeout;
  let made = 0;
  /** Ids that are being posted to a receiver now: none may be there twice. */
  let together = 0;

  beforeAll(async () => {
    t = await startTestGateway({ config: LOOPBACK, masterKey });
    for (let n = 0; n < SUBSCRIPTIONS; n += 1) {
      const open = new Set<string>();
      const receiver = await startReceiver(async ({ id }) => {
        if (open.has(id)) together += 1;
        open.add(id);
        await new Promise((resolve) => setTimeout(resolve, 5));
        open.delete(id);
        return {};
      });
      receivers.push(receiver);
      subscribed.push(await subscribeTo(t, receiver));
    }
    for (const name of ['a', 'b']) children.push(await startProcess(name));
    loading = setInterval(() => {
      made += 5;
      void happen(t, 5);
    }, 20);
  });
  afterAll(async () => {
    clearInterval(loading);
    for (const child of children) {
      child.kill('SIGCONT');
      child.kill('SIGKILL');
    }
    await t.close();
    for (const receiver of receivers) await receiver.close();
  });

  async function startProcess(name: string): Promise<ChildProcess> {
    const args = [PROGRAM, t.database.url, masterKey.toString('hex'), String(LEASE_MS), name];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    if (child.stdout === null) throw new Error('no output');
    await once(child.stdout, 'data');
    return child;
  }

  async function held(): Promise<readonly Held[]> {
    const { rows } = await t.database.pool.query<Record<string, string>>(
      `select webhook_id, owner, token, position, (select node_id from webhook_workers w where w.id = owner) as node
       from webhook_cursors order by webhook_id`,
    );
    return rows.map((row) => ({
      id: Number(row['webhook_id']),
      owner: row['node'] ?? null,
      token: BigInt(row['token'] ?? 0),
      position: BigInt(row['position'] ?? 0),
    }));
  }
  const countOf = async (name: string) =>
    (await held()).filter(({ owner }) => owner === name).length;

  it('share them fairly when others join', async () => {
    await eventually(async () => {
      const owners = (await held()).map(({ owner }) => owner);
      expect([...owners].sort()).toEqual(['a', 'a', 'b', 'b', 'node-1', 'node-1']);
    });
  });

  it('take over from one that stands still, and refuse what it writes when it goes on', async () => {
    const [a] = children;
    const before = (await held()).filter(({ owner }) => owner === 'a');
    a?.kill('SIGSTOP');
    const stoppedAt = performance.now();
    await eventually(async () => expect(await countOf('a')).toBe(0));
    expect(performance.now() - stoppedAt).toBeLessThan(LEASE_MS + 3_000);
    const taken = await held();
    for (const { id, token } of before) {
      expect(taken.find((one) => one.id === id)?.token).toBeGreaterThan(token);
    }
    a?.kill('SIGCONT');
    // Whatever it had in its hands it now tries to put down; no cursor goes back for it.
    let last = await held();
    for (let look = 0; look < 20; look += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      const now = await held();
      for (const [index, one] of now.entries()) {
        expect(one.position >= (last[index]?.position ?? 0n)).toBe(true);
      }
      last = now;
    }
    await eventually(async () => expect(await countOf('a')).toBe(2));
  });

  it('take over from one that is killed within its lease', async () => {
    const [, b] = children;
    b?.kill('SIGKILL');
    const killedAt = performance.now();
    await eventually(async () => expect(await countOf('b')).toBe(0));
    expect(performance.now() - killedAt).toBeLessThan(LEASE_MS + 3_000);
  });

  it('give back at once what they have when they are stopped', async () => {
    const [a] = children;
    a?.kill('SIGTERM');
    await once(a as ChildProcess, 'exit');
    const stoppedAt = performance.now();
    await eventually(async () => expect(await countOf('node-1')).toBe(SUBSCRIPTIONS));
    expect(performance.now() - stoppedAt).toBeLessThan(LEASE_MS);
  });

  it('have lost nothing, and never sent one event twice at the same time', async () => {
    clearInterval(loading);
    for (const [index, receiver] of receivers.entries()) {
      const one = subscribed[index];
      if (one !== undefined) await caughtUp(t, one.id);
      expect(sequencesOf(receiver)).toEqual(oneTo(made));
      for (const id of receiver.ids()) {
        const digests = receiver.received.filter((post) => post.id === id).map((p) => p.digest);
        expect(new Set(digests).size).toBe(1);
      }
    }
    // One that stands still between its last look at the lease and the write has that one post in its hands.
    expect(together).toBeLessThanOrEqual(1);
  });
});
