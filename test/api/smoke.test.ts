import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';

describe('a started gateway', () => {
  let t: TestGateway;
  beforeAll(async () => {
    t = await startTestGateway();
  });
  afterAll(() => t.close());

  it('goes through the life of a key', async () => {
    const domain = await t.createDomain('example.com');
    const created = await t.createKey({ scope: 'domain-admin', mail_domain: 'EXAMPLE.com.' });
    expect(created).toMatchObject({ mail_domain: 'example.com', mail_domain_id: domain.id });
    const list = await t.send('GET', '/auth/api-keys', { key: created.key });
    expect(list.body.data).toHaveLength(1);
    const patched = await t.send('PATCH', `/auth/api-keys/${created.id}`, { body: { name: 'x' } });
    expect(patched.body.data.name).toBe('x');
    const rotated = await t.send('POST', `/auth/api-keys/${created.id}/rotate`, {
      body: { grace_seconds: 60 },
    });
    expect(rotated.status).toBe(201);
    expect((await t.send('GET', '/domains', { key: rotated.body.data.key })).status).toBe(200);
    expect((await t.send('GET', '/domains', { key: created.key })).status).toBe(200);
    const revoked = await t.send('POST', `/auth/api-keys/${created.id}/revoke`, {
      body: { reason: 'leak' },
    });
    expect(revoked.body.data.status).toBe('revoked');
    expect((await t.send('GET', '/domains', { key: created.key })).status).toBe(401);
    const activity = await t.send('GET', `/auth/api-keys/${created.id}/activity`);
    expect(activity.body.data).toMatchObject({ key_id: created.id, ended_by: 'revoked' });
    const deleted = await t.send('DELETE', `/auth/api-keys/${created.id}`);
    expect(deleted.status).toBe(200);
    expect((await t.send('GET', `/auth/api-keys/${created.id}`)).status).toBe(404);
    expect((await t.send('GET', `/auth/api-keys/${created.id}/activity`)).status).toBe(200);
    const page = await t.send('GET', '/audit/logs?limit=1000');
    expect(page.status).toBe(200);
    const updated = await t.send('PUT', `/domains/${domain.id}`, {
      body: { quarantine_threshold: 8 },
    });
    expect(updated.body.data.quarantine_threshold).toBe(8);
    expect((await t.send('DELETE', `/domains/${domain.id}`)).status).toBe(200);
    expect((await t.send('GET', '/domains', { key: rotated.body.data.key })).status).toBe(401);
  });
});
