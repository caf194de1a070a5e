import { afterAll, beforeAll, describe, expect, it } from 'vitest';
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

const rotate = (id: number, body?: object, headers: Record<string, string> = {}) =>
  t.send('POST', `/auth/api-keys/${id}/rotate`, {
    ...(body === undefined ? {} : { body }),
    headers,
  });
const statusWith = async (key: string) => (await t.send('GET', '/domains', { key })).status;
const viewOf = async (id: number) => (await t.send('GET', `/auth/api-keys/${id}`)).body.data;

describe('POST /auth/api-keys/{id}/rotate', () => {
  it('201: the successor has all that the key had, and its key is told once', async () => {
    const domain = await t.createDomain();
    const expires_at = new Date(clock.nowMs() + 3_600_000).toISOString();
    const old = await t.createKey({
      name: 'forwarder',
      scope: 'domain-admin',
      mail_domain: domain.name,
      rate_limit_per_minute: 250,
      expires_at,
    });
    const before = await viewOf(old.id);
    const { reply, facts } = await recording(t, () => rotate(old.id));
    expect(reply.status).toBe(201);
    const { key, ...successor } = reply.body.data;
    expect(key).toMatch(/^nmg_[0-9a-f]{64}$/);
    expect(key).not.toBe(old.key);
    expect(successor).toMatchObject({
      name: 'forwarder',
      scope: 'domain-admin',
      mail_domain: domain.name,
      rate_limit_per_minute: 250,
      expires_at: before.expires_at,
      owner: before.owner,
      predecessor: old.id,
      status: 'active',
    });
    expect(successor.key_prefix).not.toBe(before.key_prefix);
    expect(typesOf(facts)).toEqual(['api_key.created', 'api_key.rotated']);
    expect(facts[0]).toMatchObject({
      resource: { id: String(successor.id) },
      data: { predecessor: String(old.id), bucket: String(old.id) },
    });
    expect(facts[1]).toMatchObject({
      resource: { id: String(old.id) },
      data: { successor: String(successor.id) },
    });
    expect(facts[0]?.correlation_id).toBe(facts[1]?.correlation_id);
    expect(facts.map((fact) => fact.mail_domains)).toEqual([
      [String(domain.id)],
      [String(domain.id)],
    ]);
    expect(await statusWith(key)).toBe(200);
    expect(await statusWith(old.key)).toBe(401);
    expect(await viewOf(old.id)).toMatchObject({ status: 'rotated' });
    expect((await t.send('GET', `/auth/api-keys/${successor.id}`)).text).not.toContain(key);
  });

  it('201: with a grace period the old key goes on to its last millisecond, and says so', async () => {
    const old = await t.createKey();
    const until = new Date(clock.nowMs() + 5_000);
    const successor = (await rotate(old.id, { grace_seconds: 5 })).body.data;
    expect(await viewOf(old.id)).toMatchObject({ status: 'grace' });
    clock.advance(4_999);
    const last = await t.send('GET', '/domains', { key: old.key });
    expect(last.status).toBe(200);
    expect(last.headers.get('sunset')).toBe(until.toUTCString());
    expect(await statusWith(successor.key)).toBe(200);
    clock.advance(1);
    expect(await statusWith(old.key)).toBe(401);
    expect(await statusWith(successor.key)).toBe(200);
    expect(await viewOf(old.id)).toMatchObject({ status: 'rotated' });
    const activity = await t.send('GET', `/auth/api-keys/${old.id}/activity`);
    expect(activity.body.data).toMatchObject({ ended_by: 'rotated' });
    expect(Date.parse(activity.body.data.active_until)).toBe(until.getTime());
  });

  it('201: a grace period does not put the own expiry off', async () => {
    const expires_at = new Date(clock.nowMs() + 2_000).toISOString();
    const old = await t.createKey({ expires_at });
    const successor = (await rotate(old.id, { grace_seconds: 3_600 })).body.data;
    clock.advance(1_999);
    expect(await statusWith(old.key)).toBe(200);
    clock.advance(1);
    expect(await statusWith(old.key)).toBe(401);
    expect(await statusWith(successor.key)).toBe(401);
  });

  it('201: both share one bucket, so a rotation does not double the quota', async () => {
    const old = await t.createKey({ rate_limit_per_minute: 1 });
    const successor = (await rotate(old.id, { grace_seconds: 60 })).body.data;
    for (let n = 0; n < 5; n += 1) {
      expect(await statusWith(old.key)).toBe(200);
      expect(await statusWith(successor.key)).toBe(200);
    }
    expect(await statusWith(old.key)).toBe(429);
    expect(await statusWith(successor.key)).toBe(429);
  });

  it('201: a key may rotate itself, and its successor again', async () => {
    const domain = await t.createDomain();
    let { id, key } = await t.createKey({ scope: 'domain-admin', mail_domain: domain.name });
    for (let round = 0; round < 3; round += 1) {
      const reply = await t.send('POST', `/auth/api-keys/${id}/rotate`, { key });
      expect(reply.status).toBe(201);
      expect(await statusWith(key)).toBe(401);
      ({ id, key } = reply.body.data);
    }
    expect(await statusWith(key)).toBe(200);
  });

  it('201: revoking the old key in its grace period leaves the successor', async () => {
    const old = await t.createKey();
    const successor = (await rotate(old.id, { grace_seconds: 60 })).body.data;
    const { reply, facts } = await recording(t, () =>
      t.send('POST', `/auth/api-keys/${old.id}/revoke`),
    );
    expect(reply.body.data.status).toBe('revoked');
    expect(typesOf(facts)).toEqual(['api_key.revoked']);
    expect(await statusWith(old.key)).toBe(401);
    expect(await statusWith(successor.key)).toBe(200);
  });

  it('201: deleting the old key leaves the successor, also after a restart of its memory', async () => {
    const old = await t.createKey();
    const successor = (await rotate(old.id)).body.data;
    await t.send('DELETE', `/auth/api-keys/${old.id}`);
    expect(await statusWith(successor.key)).toBe(200);
    await t.gateway.context.liveKeys.changed(successor.id);
    expect(await statusWith(successor.key)).toBe(200);
  });

  it.each([
    ['rotated', async (id: number) => void (await rotate(id, { grace_seconds: 60 }))],
    ['revoked', async (id: number) => void (await t.send('POST', `/auth/api-keys/${id}/revoke`))],
  ])('409: a key that is %s', async (_, end) => {
    const { id } = await t.createKey();
    await end(id);
    const { reply, facts } = await recording(t, () => rotate(id));
    expect([reply.status, reply.body.error]).toEqual([409, 'state_conflict']);
    expect(facts).toEqual([]);
  });

  it('409: a key whose expiry has passed', async () => {
    const { id } = await t.createKey({ expires_at: new Date(clock.nowMs() + 1_000).toISOString() });
    clock.advance(1_000);
    const reply = await rotate(id, { grace_seconds: 60 });
    expect([reply.status, reply.body.error]).toEqual([409, 'state_conflict']);
  });

  it('409: of ten rotations at once one wins, and one successor opens', async () => {
    const { id } = await t.createKey();
    const before = await headOf(t);
    const replies = await Promise.all(Array.from({ length: 10 }, () => rotate(id)));
    const won = replies.filter(({ status }) => status === 201);
    const lost = replies.filter(({ status }) => status === 409);
    expect([won.length, lost.length]).toEqual([1, 9]);
    const facts = await factsSince(t, before);
    const created = facts.filter(({ type }) => type === 'api_key.created');
    expect(facts.filter(({ type }) => type === 'api_key.rotated')).toHaveLength(1);
    // Whoever lost the race has taken back the successor that it had made.
    const undone = facts.filter(({ type }) => type === 'api_key.revoked');
    expect(undone).toHaveLength(created.length - 1);
    expect(await statusWith(won[0]?.body.data.key)).toBe(200);
  });

  it('409 or one order: revoke, rotate and delete at once leave no key that opens (15.4.2)', async () => {
    for (let round = 0; round < 10; round += 1) {
      const { id, key } = await t.createKey();
      const [rotated] = await Promise.all([
        rotate(id, { grace_seconds: 60 }),
        t.send('POST', `/auth/api-keys/${id}/revoke`),
        t.send('DELETE', `/auth/api-keys/${id}`),
      ]);
      expect(await statusWith(key)).toBe(401);
      expect([201, 404, 409]).toContain(rotated.status);
      if (rotated.status === 201) expect(await statusWith(rotated.body.data.key)).toBe(200);
    }
  });

  it.each([
    { grace_seconds: -1 },
    { grace_seconds: 1.5 },
    { grace_seconds: 2_592_001 },
    { grace_seconds: '60' },
    { grace_seconds: null },
    { grace: 60 },
  ])('400: %j', async (body) => {
    const { id, key } = await t.createKey();
    const { reply, facts } = await recording(t, () => rotate(id, body));
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(facts).toEqual([]);
    expect(await statusWith(key)).toBe(200);
  });

  it('404: a key that is not there', async () => {
    expect((await rotate(999_999)).status).toBe(404);
  });

  it('412: under an ETag that is no longer true', async () => {
    const { id, key } = await t.createKey();
    const { reply, facts } = await recording(t, () => rotate(id, {}, { 'If-Match': '"9"' }));
    expect([reply.status, reply.body.error]).toEqual([412, 'stale']);
    expect(facts).toEqual([]);
    expect(await statusWith(key)).toBe(200);
  });
});

describe('a rotation that was cut short', () => {
  it('leaves a successor that opens nothing, and the old key as it was', async () => {
    const old = await t.createKey();
    const { log } = t.gateway.context;
    const append = log.append;
    const mutable = log as { append: typeof append };
    mutable.append = (command) =>
      command.events.some(({ type }) => type === 'api_key.rotated')
        ? Promise.reject(new Error('the process is gone'))
        : append(command);
    const before = await headOf(t);
    const reply = await rotate(old.id).finally(() => {
      mutable.append = append;
    });
    expect(reply.status).toBe(500);
    const [successor] = await factsSince(t, before);
    expect(successor?.type).toBe('api_key.created');
    expect(await statusWith(old.key)).toBe(200);
    const again = await rotate(old.id);
    expect(again.status).toBe(201);
    expect(await statusWith(again.body.data.key)).toBe(200);
    expect(again.body.data.id).not.toBe(Number(successor?.resource.id));
  });
});
