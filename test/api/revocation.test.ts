import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AuditTrail } from '../../src/api/audit-trail.ts';
import { apiKeyStream } from '../../src/domain/api-key.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { beforeReadsOf, holdQueries } from '../support/hold.ts';
import { fillLog, openExport } from '../support/slow-export.ts';
import { type StoppedClock, stoppedClock } from '../support/stopped-clock.ts';

let t: TestGateway;
let clock: StoppedClock;
beforeAll(async () => {
  clock = stoppedClock();
  t = await startTestGateway({ clock });
  await fillLog(t, 20_000);
}, 60_000);
afterAll(() => t.close());

const LIFE_MS = 3_600_000;
const makeKey = () => t.createKey({ expires_at: new Date(clock.nowMs() + LIFE_MS).toISOString() });
const rotate = (id: number, grace_seconds: number) =>
  t.send('POST', `/auth/api-keys/${id}/rotate`, { body: { grace_seconds } });
const isRefused = async (key: string) => (await t.send('GET', '/domains', { key })).status === 401;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Every way in which a key ends at once. */
const ends: [string, (id: number) => Promise<unknown>][] = [
  ['revoked', (id) => t.send('POST', `/auth/api-keys/${id}/revoke`)],
  ['deleted', (id) => t.send('DELETE', `/auth/api-keys/${id}`)],
  ['rotated without grace', (id) => rotate(id, 0)],
  ['past its expiry', async () => clock.advance(LIFE_MS)],
];

describe.each(ends)('a key that is %s (7.4.1, 8.3.2)', (_, end) => {
  it('is refused for every request that starts later, under twenty clients', async () => {
    const { id, key } = await makeKey();
    const seen: { startedAt: number; status: number }[] = [];
    let isOver = false;
    const clients = Array.from({ length: 20 }, async () => {
      while (!isOver) {
        const startedAt = performance.now();
        const { status } = await t.send('GET', '/domains?limit=1', { key });
        seen.push({ startedAt, status });
      }
    });
    while (seen.length < 60) await sleep(5);
    await end(id);
    const endedAt = performance.now();
    const laterOnes = () => seen.filter(({ startedAt }) => startedAt > endedAt);
    while (laterOnes().length < 60) await sleep(5);
    isOver = true;
    await Promise.all(clients);
    const later = laterOnes();
    const earlier = seen.filter(({ startedAt }) => startedAt <= endedAt);
    expect(new Set(later.map(({ status }) => status))).toEqual(new Set([401]));
    // The control: these very clients were let in before.
    expect(earlier.some(({ status }) => status === 200)).toBe(true);
    expect(seen.every(({ status }) => status === 200 || status === 401)).toBe(true);
  });

  it('has its running export cut: reset, and without a trailer', async () => {
    const { id, key } = await makeKey();
    const control = await openExport(t, t.bootstrapKey);
    const running = await openExport(t, key);
    await end(id);
    // What ends by the clock is noticed within a second.
    await untilClosed(running.response.socket);
    const { text, ended } = await running.drain();
    expect(ended).toBe('reset');
    expect(text).not.toContain('"trailer"');
    const other = await control.drain();
    expect(other.ended).toBe('whole');
    expect(other.text).toContain('"trailer"');
  });
});

async function untilClosed(socket: { destroyed: boolean }): Promise<void> {
  // The reader is paused and sees nothing of a reset, so the server's own books are asked.
  const { runningExports } = t.gateway.context.metrics;
  for (let tries = 0; tries < 300; tries += 1) {
    const { values } = await runningExports.get();
    if (socket.destroyed || (values[0]?.value ?? 0) <= 1) return;
    await sleep(10);
  }
}

describe('an export', () => {
  it('is cut when the grace period of its key is over', async () => {
    const { id, key } = await makeKey();
    const running = await openExport(t, key);
    await rotate(id, 60);
    clock.advance(60_000);
    expect(await isRefused(key)).toBe(true);
    await sleep(2_500);
    const { text, ended } = await running.drain();
    expect([ended, text.includes('"trailer"')]).toEqual(['reset', false]);
  });

  it('goes on through a change of its key that ends nothing', async () => {
    const { id, key } = await makeKey();
    const running = await openExport(t, key);
    await t.send('PATCH', `/auth/api-keys/${id}`, { body: { name: 'renamed' } });
    await rotate(id, 60);
    const { text, ended } = await running.drain();
    expect([ended, text.includes('"trailer"')]).toEqual(['whole', true]);
  });

  it('that was about to begin when its key was revoked does not end whole', async () => {
    const { id, key } = await makeKey();
    const trail = t.gateway.context.auditTrail as {
      -readonly [K in keyof AuditTrail]: AuditTrail[K];
    };
    const { recordRead } = trail;
    let begun = () => undefined as unknown;
    let goOn = () => undefined as unknown;
    const hasBegun = new Promise<unknown>((resolve) => {
      begun = () => resolve(null);
    });
    const mayGoOn = new Promise<unknown>((resolve) => {
      goOn = () => resolve(null);
    });
    trail.recordRead = async (meta) => {
      await recordRead(meta);
      begun();
      await mayGoOn;
    };
    const opening = openExport(t, key).catch(() => null);
    await hasBegun;
    trail.recordRead = recordRead;
    await t.send('POST', `/auth/api-keys/${id}/revoke`);
    goOn();
    const running = await opening;
    if (running === null || running.response.statusCode === 401) return;
    const { text, ended } = await running.drain();
    expect([ended, text.includes('"trailer"')]).toEqual(['reset', false]);
  });
});

describe('the memory of keys', () => {
  it('is not brought back by a slower change of the same key', async () => {
    const { id, key } = await makeKey();
    const pool = t.gateway.context.pool as { query: (...args: unknown[]) => Promise<unknown> };
    const query = (t.gateway.context.pool as pg.Pool).query.bind(t.gateway.context.pool);
    let begun = () => undefined as unknown;
    let goOn = () => undefined as unknown;
    const hasBegun = new Promise<unknown>((resolve) => {
      begun = () => resolve(null);
    });
    const mayGoOn = new Promise<unknown>((resolve) => {
      goOn = () => resolve(null);
    });
    let isArmed = true;
    // The PATCH has read the key as it was before its deletion, and is slow with what it read.
    pool.query = async (...args) => {
      const result = await (query as unknown as typeof pool.query)(...args);
      if (isArmed && String(args[0]).includes('from credentials where subject')) {
        isArmed = false;
        begun();
        await mayGoOn;
      }
      return result;
    };
    try {
      const patch = t.send('PATCH', `/auth/api-keys/${id}`, { body: { name: 'late' } });
      await hasBegun;
      const deleted = await t.send('DELETE', `/auth/api-keys/${id}`);
      expect(deleted.status).toBe(200);
      expect(await isRefused(key)).toBe(true);
      goOn();
      await patch;
    } finally {
      delete (pool as { query?: unknown }).query;
    }
    expect(await isRefused(key)).toBe(true);
  });

  it('trusts no key whose state it cannot read', async () => {
    const { id, key } = await makeKey();
    let reads = 0;
    const end = beforeReadsOf(t.gateway.context.log, apiKeyStream(id), async () => {
      reads += 1;
      // The first read decides the command, the next would tell the memory of it.
      if (reads > 1) throw new Error('the database is gone');
    });
    const reply = await t.send('POST', `/auth/api-keys/${id}/revoke`);
    end();
    expect(reply.status).toBe(500);
    expect(await isRefused(key)).toBe(true);
  });

  it('takes what was read before for no answer to what it cannot read', async () => {
    const { id, key } = await makeKey();
    const { log, pool } = t.gateway.context;
    // The PATCH has read the stream before the revocation, and goes on when the revocation could not be read.
    const held = holdQueries(pool, /from credentials where subject/);
    const patch = t.send('PATCH', `/auth/api-keys/${id}`, { body: { name: 'late' } });
    await held.reached;
    let reads = 0;
    const end = beforeReadsOf(log, apiKeyStream(id), async () => {
      reads += 1;
      if (reads > 1) throw new Error('the database is gone');
    });
    expect((await t.send('POST', `/auth/api-keys/${id}/revoke`)).status).toBe(500);
    held.release();
    expect((await patch).status).toBe(200);
    expect(await isRefused(key)).toBe(true);
    end();
  });

  it('is what it was after a restart', async () => {
    const [revoked, deleted, rotated, inGrace, whole] = await Promise.all(
      Array.from({ length: 5 }, makeKey),
    );
    await t.send('POST', `/auth/api-keys/${revoked!.id}/revoke`);
    await t.send('DELETE', `/auth/api-keys/${deleted!.id}`);
    await rotate(rotated!.id, 0);
    const successor = (await rotate(inGrace!.id, 60)).body.data;
    t = await t.restart();
    for (const { key } of [revoked!, deleted!, rotated!]) expect(await isRefused(key)).toBe(true);
    for (const { key } of [inGrace!, successor, whole!]) expect(await isRefused(key)).toBe(false);
    clock.advance(59_999);
    expect(await isRefused(inGrace!.key)).toBe(false);
    clock.advance(1);
    expect(await isRefused(inGrace!.key)).toBe(true);
    expect(await isRefused(successor.key)).toBe(false);
  });
});
