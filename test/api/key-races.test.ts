import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import { apiKeyStream } from '../../src/domain/api-key.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { beforeReadsOf, holdAppends, holdQueries, recordsType } from '../support/hold.ts';
import { factsSince, headOf, typesOf } from '../support/recorded.ts';

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
});
afterAll(() => t.close());

const pathOf = (id: number) => `/auth/api-keys/${id}`;
const statusWith = async (key: string) => (await t.send('GET', '/domains', { key })).status;

/** The read models, too, have all that was recorded. */
async function settled(): Promise<void> {
  expect(await t.gateway.context.projector.caughtUp(await headOf(t), undefined, 10_000)).toBe(true);
}

describe('DELETE of a key while it is rotated', () => {
  it('404: between the halves of the rotation it leaves no successor', async () => {
    const old = await t.createKey();
    const before = await headOf(t);
    const held = holdAppends(t.gateway.context.log, recordsType('api_key.rotated'));
    const rotating = t.send('POST', `${pathOf(old.id)}/rotate`, { body: { grace_seconds: 60 } });
    await held.reached;
    const deleted = await t.send('DELETE', pathOf(old.id));
    held.release();
    const rotated = await rotating;
    expect([deleted.status, rotated.status, rotated.body.error]).toEqual([200, 404, 'not_found']);
    expect(rotated.text).not.toContain('nmg_');
    const facts = await factsSince(t, before);
    expect(typesOf(facts)).toEqual(['api_key.created', 'api_key.deleted', 'api_key.revoked']);
    const successor = Number(facts[0]?.resource.id);
    expect(facts.map(({ resource }) => resource.id)).toEqual(
      [successor, old.id, successor].map(String),
    );
    await settled();
    expect((await t.send('GET', pathOf(successor))).body.data.status).toBe('revoked');
    expect(await statusWith(old.key)).toBe(401);
  });

  it('409: before its first half there is nothing to succeed', async () => {
    const old = await t.createKey();
    const before = await headOf(t);
    // The rotation has found the key, and goes on to read its stream when it is gone.
    const { log } = t.gateway.context;
    const end = beforeReadsOf(log, apiKeyStream(old.id), async () => {
      end();
      expect((await t.send('DELETE', pathOf(old.id))).status).toBe(200);
    });
    const rotated = await t.send('POST', `${pathOf(old.id)}/rotate`);
    expect([404, 409]).toContain(rotated.status);
    expect(typesOf(await factsSince(t, before))).toEqual(['api_key.deleted']);
  });

  it('leaves a successor that lives only where the rotation was answered with it', async () => {
    for (let round = 0; round < 10; round += 1) {
      const old = await t.createKey();
      const before = await headOf(t);
      const [rotated, deleted] = await Promise.all([
        t.send('POST', `${pathOf(old.id)}/rotate`, { body: { grace_seconds: 60 } }),
        t.send('DELETE', pathOf(old.id)),
      ]);
      expect(deleted.status).toBe(200);
      expect([201, 404, 409]).toContain(rotated.status);
      const facts = await factsSince(t, before);
      const idsOf = (wanted: string) =>
        facts.filter(({ type }) => type === wanted).map(({ resource }) => Number(resource.id));
      const revoked = idsOf('api_key.revoked');
      const living = idsOf('api_key.created').filter((id) => !revoked.includes(id));
      expect(living).toEqual(rotated.status === 201 ? [rotated.body.data.id] : []);
      expect(await statusWith(old.key)).toBe(401);
    }
  });
});

describe('a key whose row is behind', () => {
  it('200: is answered as it is, and not as it was', async () => {
    const { id } = await t.createKey();
    const admin = openClient({ url: t.database.url, role: null });
    await admin.connect();
    await admin.query('begin');
    await admin.query(`select from projection_checkpoints where name = 'api_keys' for update`);
    const body = { rate_limit_per_minute: 7, allowed_cidrs: ['192.0.2.0/24'], name: 'as it is' };
    const changed = await t.send('PATCH', pathOf(id), { body });
    const revoked = await t.send('POST', `${pathOf(id)}/revoke`);
    await admin.end();
    expect([changed.status, revoked.status]).toEqual([200, 200]);
    expect(changed.body.data).toMatchObject({ ...body, status: 'active' });
    expect(changed.headers.get('etag')).toBe('"1"');
    expect(revoked.body.data).toMatchObject({ ...body, status: 'revoked' });
    expect(revoked.body.data.revoked_at).not.toBeNull();
    expect(revoked.headers.get('etag')).toBe('"2"');
    await settled();
    const { data } = (await t.send('GET', pathOf(id))).body;
    expect(revoked.body.data).toEqual({ ...data, rate_limit: expect.anything() });
  });
});

describe('PATCH of a key while it is rotated', () => {
  it.each([
    ['409', 'state_conflict', {}],
    ['412', 'stale', { 'If-Match': '"0"' }],
  ])(
    '%s: it is not undone by a successor that was made before it (%s)',
    async (status, error, headers) => {
      const old = await t.createKey();
      const before = await headOf(t);
      const held = holdAppends(t.gateway.context.log, recordsType('api_key.rotated'));
      const rotating = t.send('POST', `${pathOf(old.id)}/rotate`, { body: {}, headers });
      await held.reached;
      const allowed = ['192.0.2.0/24'];
      const changed = await t.send('PATCH', pathOf(old.id), { body: { allowed_cidrs: allowed } });
      held.release();
      const rotated = await rotating;
      expect(changed.status).toBe(200);
      expect([String(rotated.status), rotated.body.error]).toEqual([status, error]);
      const facts = await factsSince(t, before);
      expect(typesOf(facts)).toEqual(['api_key.created', 'api_key.updated', 'api_key.revoked']);
      const { data: left } = (await t.send('GET', pathOf(old.id))).body;
      expect(left).toMatchObject({ status: 'active', allowed_cidrs: allowed });
      const { data: anew } = (await t.send('POST', `${pathOf(old.id)}/rotate`)).body;
      expect(anew.allowed_cidrs).toEqual(allowed);
    },
  );
});

describe('PATCH of a key before a rotation has read it', () => {
  it('403: nobody gets by it what is beyond their own authority', async () => {
    const { name } = await t.createDomain();
    const own = { mail_domain: name, rate_limit_per_minute: 100 };
    const caller = await t.createKey({ ...own, scope: 'domain-admin' });
    const old = await t.createKey(own);
    const before = await headOf(t);
    // The rotation has found the key as it was, and goes on to read its stream when it is another.
    const { log } = t.gateway.context;
    const end = beforeReadsOf(log, apiKeyStream(old.id), async () => {
      end();
      const body = { rate_limit_per_minute: 1_000 };
      expect((await t.send('PATCH', pathOf(old.id), { body })).status).toBe(200);
    });
    const rotated = await t.send('POST', `${pathOf(old.id)}/rotate`, { key: caller.key });
    expect([rotated.status, rotated.body.error]).toEqual([403, 'beyond_own_authority']);
    expect(rotated.text).not.toContain('nmg_');
    expect(typesOf(await factsSince(t, before))).toEqual(['api_key.updated']);
    expect(await statusWith(old.key)).toBe(200);
  });
});

describe('DELETE of a key while it is deleted', () => {
  it('200 and 404: of two at once one deletes, and both are answered', async () => {
    const { id, key } = await t.createKey({ name: 'Twice Doomed' });
    const before = await headOf(t);
    const held = holdAppends(t.gateway.context.log, recordsType('api_key.deleted'), 2);
    const both = [t.send('DELETE', pathOf(id)), t.send('DELETE', pathOf(id))];
    await held.reached;
    held.release();
    const replies = await Promise.all(both);
    expect(replies.map(({ status }) => status).toSorted()).toEqual([200, 404]);
    expect(typesOf(await factsSince(t, before))).toEqual(['api_key.deleted']);
    expect(await statusWith(key)).toBe(401);
    const { rows } = await t.database.pool.query(
      'select subject from eventlog.subject_names where subject = $1',
      [`api_key:${id}`],
    );
    expect(rows).toEqual([]);
  });

  it('200 once: of eight at once, without a bug', async () => {
    const { id } = await t.createKey();
    const before = await headOf(t);
    const replies = await Promise.all(
      Array.from({ length: 8 }, () => t.send('DELETE', pathOf(id))),
    );
    expect(replies.map(({ status }) => status).toSorted()).toEqual([200, ...Array(7).fill(404)]);
    expect(typesOf(await factsSince(t, before))).toEqual(['api_key.deleted']);
    expect(t.logged.join('')).not.toContain('a request failed on a bug');
  });
});

describe('DELETE of a key while an answer that names it is kept for replay', () => {
  const NAME = 'Wolfgang Zephyr-Quintessenz';

  /** What is kept under an Idempotency-Key, as its owner sees the table. */
  async function keptUnder(idempotencyKey: string): Promise<string> {
    const admin = openClient({ url: t.database.url, role: null });
    await admin.connect();
    const { rows } = await admin.query('select k::text from idempotency_keys k where key = $1', [
      idempotencyKey,
    ]);
    await admin.end();
    return JSON.stringify(rows);
  }

  it.each<[string, () => Promise<{ path: string; body: object }>]>([
    [
      'its creation',
      async () => ({ path: '/auth/api-keys', body: { name: NAME, scope: 'read-only' } }),
    ],
    [
      'its revocation',
      async () => {
        const { id } = await t.createKey({ name: NAME });
        return { path: `${pathOf(id)}/revoke`, body: {} };
      },
    ],
    [
      'a rotation that made it',
      async () => {
        const { id } = await t.createKey({ name: NAME });
        return { path: `${pathOf(id)}/rotate`, body: {} };
      },
    ],
  ])('410: %s is not replayed, and what was erased never gets into the table', async (_, make) => {
    const { path, body } = await make();
    const headers = { 'Idempotency-Key': randomUUID() };
    const kept: string[] = [];
    const held = holdQueries(
      t.gateway.context.pool,
      /update idempotency_keys set status/,
      async () => void kept.push(await keptUnder(headers['Idempotency-Key'])),
    );
    const first = t.send('POST', path, { body, headers });
    await held.reached;
    const [{ id, key_prefix }] = (await t.send('GET', '/auth/api-keys?limit=1')).body.data;
    expect((await t.send('DELETE', pathOf(id))).status).toBe(200);
    const meanwhile = await t.send('POST', path, { body, headers });
    held.release();
    expect((await first).status).toBeLessThan(300);
    const after = await t.send('POST', path, { body, headers });
    expect([meanwhile.status, after.status, after.body.error]).toEqual([409, 410, 'erased']);
    kept.push(await keptUnder(headers['Idempotency-Key']));
    expect(kept).toHaveLength(2);
    for (const text of [meanwhile.text, after.text, ...kept]) {
      expect(text).not.toContain(NAME);
      expect(text).not.toContain(key_prefix);
    }
  });
});
