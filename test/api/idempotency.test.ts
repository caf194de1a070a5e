import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { asAdmin } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { factsSince, headOf, recording, typesOf } from '../support/recorded.ts';
import { type StoppedClock, stoppedClock } from '../support/stopped-clock.ts';

let t: TestGateway;
let clock: StoppedClock;
beforeAll(async () => {
  clock = stoppedClock();
  t = await startTestGateway({ clock });
});
afterAll(() => t.close());

const DAY_MS = 86_400_000;
const aKey = { name: 'x', scope: 'read-only' };
const post = (path: string, idempotencyKey: string, body: object, key = t.bootstrapKey) =>
  recording(t, () =>
    t.send('POST', path, { key, body, headers: { 'Idempotency-Key': idempotencyKey } }),
  );

/** Lets go of `append` only when told, for a request that is under way for as long as a test needs. */
function holdAppends(log: EventLog): { release: () => void } {
  const mutable = log as { append: EventLog['append'] };
  const { append } = log;
  let open: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  mutable.append = async (command) => {
    await gate;
    return append(command);
  };
  return {
    release() {
      mutable.append = append;
      open();
    },
  };
}

describe('Idempotency-Key', () => {
  it('answers a repetition with the first answer, without the key, and records nothing', async () => {
    const id = randomUUID();
    const first = await post('/auth/api-keys', id, aKey);
    const again = await post('/auth/api-keys', id, aKey);
    const { key, ...rest } = first.reply.body.data;
    expect(key).toMatch(/^nmg_/);
    expect(again.reply.status).toBe(201);
    expect(again.reply.body).toEqual({ ...first.reply.body, data: rest });
    expect(again.reply.headers.get('idempotency-replayed')).toBe('true');
    expect(first.reply.headers.get('idempotency-replayed')).toBeNull();
    for (const name of ['etag', 'location']) {
      expect(again.reply.headers.get(name)).toBe(first.reply.headers.get(name));
      expect(again.reply.headers.get(name)).not.toBeNull();
    }
    expect(typesOf(first.facts)).toEqual(['api_key.created']);
    expect(again.facts).toEqual([]);
  });

  it('does not go by the order of members', async () => {
    const id = randomUUID();
    await post('/auth/api-keys', id, { name: 'x', scope: 'read-only' });
    expect((await post('/auth/api-keys', id, { scope: 'read-only', name: 'x' })).facts).toEqual([]);
  });

  it('answers a rotation again without the key', async () => {
    const { id } = await t.createKey();
    const key = randomUUID();
    const first = await post(`/auth/api-keys/${id}/rotate`, key, { grace_seconds: 60 });
    const again = await post(`/auth/api-keys/${id}/rotate`, key, { grace_seconds: 60 });
    const { key: _, ...rest } = first.reply.body.data;
    expect(again.reply.status).toBe(201);
    expect(again.reply.body.data).toEqual(rest);
    expect(again.facts).toEqual([]);
  });

  it('answers with the ETag of then, which a later change makes stale', async () => {
    const { id } = await t.createKey();
    const key = randomUUID();
    const first = await post(`/auth/api-keys/${id}/rotate`, key, { grace_seconds: 60 });
    const successor = first.reply.body.data.id;
    await t.send('PATCH', `/auth/api-keys/${successor}`, { body: { name: 'renamed' } });
    const again = await post(`/auth/api-keys/${id}/rotate`, key, { grace_seconds: 60 });
    const etag = again.reply.headers.get('etag') ?? '';
    expect(etag).toBe(first.reply.headers.get('etag'));
    const stale = await t.send('PATCH', `/auth/api-keys/${successor}`, {
      body: { name: 'not seen' },
      headers: { 'If-Match': etag },
    });
    expect(stale.status).toBe(412);
  });

  it('keeps refusals that are about the command', async () => {
    await t.createDomain('kept.example');
    const id = randomUUID();
    const first = await post('/domains', id, { name: 'kept.example' });
    expect(first.reply.status).toBe(409);
    const [domain] = (await t.send('GET', '/domains?limit=1')).body.data;
    await t.send('DELETE', `/domains/${domain.id}`);
    const again = await post('/domains', id, { name: 'kept.example' });
    expect(again.reply.text).toBe(first.reply.text);
    expect(again.reply.headers.get('idempotency-replayed')).toBe('true');
  });

  it('422: with another body', async () => {
    const id = randomUUID();
    await post('/auth/api-keys', id, aKey);
    const { reply, facts } = await post('/auth/api-keys', id, { ...aKey, name: 'y' });
    expect([reply.status, reply.body.error]).toEqual([422, 'idempotency_mismatch']);
    expect(facts).toEqual([]);
  });

  it('is apart per principal and path', async () => {
    const id = randomUUID();
    const other = await t.createKey({ scope: 'full-admin' });
    const mine = await post('/auth/api-keys', id, aKey);
    const theirs = await post('/auth/api-keys', id, aKey, other.key);
    expect(theirs.reply.body.data.id).not.toBe(mine.reply.body.data.id);
    const target = await t.createKey();
    const elsewhere = await post(`/auth/api-keys/${target.id}/revoke`, id, {});
    expect(typesOf(elsewhere.facts)).toEqual(['api_key.revoked']);
  });

  it('409: while the first is under way, which then is carried out once', async () => {
    const id = randomUUID();
    const before = await headOf(t);
    const held = holdAppends(t.gateway.context.log);
    const first = post('/auth/api-keys', id, aKey);
    await until(async () => (await reservations(id)) === 1);
    const second = await post('/auth/api-keys', id, aKey);
    expect([second.reply.status, second.reply.body.error]).toEqual([
      409,
      'idempotency_in_progress',
    ]);
    held.release();
    expect((await first).reply.status).toBe(201);
    expect((await post('/auth/api-keys', id, aKey)).reply.status).toBe(201);
    expect(typesOf(await factsSince(t, before))).toEqual(['api_key.created']);
  });

  it('carries out one of ten at once', async () => {
    const id = randomUUID();
    const before = await headOf(t);
    const all = await Promise.all(
      Array.from({ length: 10 }, () => post('/auth/api-keys', id, aKey)),
    );
    const told = all.filter(({ reply }) => reply.body.data?.key !== undefined);
    expect(told).toHaveLength(1);
    expect(all.every(({ reply }) => reply.status === 201 || reply.status === 409)).toBe(true);
    expect(typesOf(await factsSince(t, before))).toEqual(['api_key.created']);
  });

  it('does not keep 400, 401, 403, 429 and 5xx', async () => {
    const domain = await t.createDomain();
    const maker = await t.createKey({
      scope: 'domain-admin',
      mail_domain: domain.name,
      rate_limit_per_minute: 1,
    });
    const bodies = { ...aKey, mail_domain: domain.name, rate_limit_per_minute: 1 };
    const id = randomUUID();
    const statusOf = async (body: object, key = maker.key) =>
      (await post('/auth/api-keys', id, body, key)).reply.status;
    expect(await statusOf({ ...bodies, name: '' })).toBe(400);
    expect(await statusOf({ ...bodies, scope: 'full-admin' })).toBe(403);
    expect(await statusOf(bodies, `nmg_${'0'.repeat(64)}`)).toBe(401);
    const mutable = t.gateway.context.log as { append: EventLog['append'] };
    const { append } = mutable;
    mutable.append = () => Promise.reject(new Error('broken'));
    expect(await statusOf(bodies)).toBe(500);
    mutable.append = append;
    for (let n = 0; n < 7; n += 1) await t.send('GET', '/domains', { key: maker.key });
    expect(await statusOf(bodies)).toBe(429);
    clock.advance(60_000);
    expect(await statusOf(bodies)).toBe(201);
  });

  it('410: once what it made was erased', async () => {
    const id = randomUUID();
    const first = await post('/auth/api-keys', id, aKey);
    await t.send('DELETE', `/auth/api-keys/${first.reply.body.data.id}`);
    const { reply, facts } = await post('/auth/api-keys', id, aKey);
    expect([reply.status, reply.body.error]).toEqual([410, 'erased']);
    expect(facts).toEqual([]);
  });

  it('forgets after 24 hours, not before', async () => {
    const id = randomUUID();
    await post('/auth/api-keys', id, aKey);
    clock.advance(DAY_MS);
    expect((await post('/auth/api-keys', id, aKey)).facts).toEqual([]);
    clock.advance(1);
    expect(typesOf((await post('/auth/api-keys', id, aKey)).facts)).toEqual(['api_key.created']);
  });

  it.each(['', 'a'.repeat(256), 'with space', 'tab\there', 'ümlaut'])('400: %j', async (id) => {
    const { reply, facts } = await post('/auth/api-keys', id, aKey);
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(facts).toEqual([]);
  });

  it('takes 1 to 255 visible ASCII characters', async () => {
    for (const id of ['!', `~${randomUUID()}`.padEnd(255, 'a')]) {
      expect((await post('/auth/api-keys', id, aKey)).reply.status).toBe(201);
    }
  });

  it('answers the same after a restart', async () => {
    const id = randomUUID();
    const first = await post('/auth/api-keys', id, aKey);
    t = await t.restart();
    const again = await post('/auth/api-keys', id, aKey);
    expect(again.reply.body.data.id).toBe(first.reply.body.data.id);
    expect(again.reply.body.data).not.toHaveProperty('key');
    expect(again.facts).toEqual([]);
  });
});

describe('a request that a killed process left unfinished', () => {
  /** The reservation as a process that is gone has left it: events recorded, answer not kept. */
  const leaveUnfinished = (id: string) =>
    asAdmin(
      t.database.url,
      `update idempotency_keys set status = null, body = null, subject = null,
         runner = gen_random_uuid() where key = '${id}'`,
    );

  it('finds the key that it had made, and does not tell its secret', async () => {
    const id = randomUUID();
    const first = await post('/auth/api-keys', id, aKey);
    await leaveUnfinished(id);
    const again = await post('/auth/api-keys', id, aKey);
    expect(again.reply.status).toBe(201);
    expect(again.reply.body.data.id).toBe(first.reply.body.data.id);
    expect(again.reply.body.data).not.toHaveProperty('key');
    expect(again.facts).toEqual([]);
  });

  it('finds the rotation that it had made', async () => {
    const { id: target } = await t.createKey();
    const id = randomUUID();
    const path = `/auth/api-keys/${target}/rotate`;
    const first = await post(path, id, {});
    await leaveUnfinished(id);
    const again = await post(path, id, {});
    expect(again.reply.status).toBe(201);
    expect(again.reply.body.data.id).toBe(first.reply.body.data.id);
    expect(again.facts).toEqual([]);
  });

  it('finds the mail domain that it had made', async () => {
    const id = randomUUID();
    const body = { name: 'unfinished.example' };
    const first = await post('/domains', id, body);
    await leaveUnfinished(id);
    const again = await post('/domains', id, body);
    expect([again.reply.status, again.reply.body.error]).toEqual([201, null]);
    expect(again.reply.body.data).toEqual(first.reply.body.data);
    expect(again.facts).toEqual([]);
  });

  it('422: still refuses another body', async () => {
    const id = randomUUID();
    await post('/auth/api-keys', id, aKey);
    await leaveUnfinished(id);
    const { reply } = await post('/auth/api-keys', id, { ...aKey, name: 'y' });
    expect([reply.status, reply.body.error]).toEqual([422, 'idempotency_mismatch']);
  });
});

async function reservations(id: string): Promise<number> {
  const sql = 'select count(*)::int as n from idempotency_keys where key = $1';
  const { rows } = await t.database.pool.query<{ n: number }>(sql, [id]);
  return rows[0]?.n ?? 0;
}

async function until(isSo: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 500; tries += 1) {
    if (await isSo()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error('it never came true');
}
