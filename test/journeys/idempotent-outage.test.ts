import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { type PgProxy, startPgProxy } from '../support/pg-proxy.ts';

// The database goes away after it has committed a command and before the gateway knows. The caller is told 503 and
// does as told: it sends the same request with the same Idempotency-Key again.
describe('an Idempotency-Key across an outage of the database', () => {
  let database: TestDatabase;
  let proxy: PgProxy;
  let t: TestGateway;
  beforeEach(async () => {
    database = await createDatabase();
    proxy = await startPgProxy(database.url);
    t = await startTestGateway({ database: { ...database, url: proxy.url } });
  });
  afterEach(async () => {
    await t.close();
    await proxy.close();
  });

  async function sendThroughOutage(path: string, body: object): Promise<Reply[]> {
    const headers = { 'Idempotency-Key': 'once' };
    proxy.onCut(proxy.shut);
    proxy.cutAnswers(1);
    const first = await t.send('POST', path, { body, headers });
    expect(proxy.cuts()).toBe(1);
    expect(first.status).toBe(503);
    expect(Number(first.headers.get('retry-after'))).toBeGreaterThan(0);
    proxy.open();
    return [
      await t.send('POST', path, { body, headers }),
      await t.send('POST', path, { body, headers }),
    ];
  }

  it('leaves one key when only appending is cut off, so that the row can be written', async () => {
    const headers = { 'Idempotency-Key': 'once' };
    const body = { name: 'once', scope: 'read-only' };
    // As often as the appending side tries.
    proxy.cutAnswers(8);
    const first = await t.send('POST', '/auth/api-keys', { body, headers });
    expect([proxy.cuts(), first.status]).toEqual([8, 503]);
    const again = await t.send('POST', '/auth/api-keys', { body, headers });
    expect(again.status).toBe(201);
    const list = await t.send('GET', '/auth/api-keys');
    const made = list.body.data.filter(({ name }: { name: string }) => name === 'once');
    expect(made.map(({ id }: { id: number }) => id)).toEqual([again.body.data.id]);
  });

  it('leaves one mail domain, and answers with it', async () => {
    const body = { name: 'once.example.com' };
    const replies = await sendThroughOutage('/domains', body);
    expect(replies.map(({ status, body: { error } }) => [status, error])).toEqual([
      [201, null],
      [201, null],
    ]);
    const list = await t.send('GET', '/domains');
    expect(list.body.data.map(({ name }: { name: string }) => name)).toEqual(['once.example.com']);
    expect(replies.map((reply) => reply.body.data.id)).toEqual([
      list.body.data[0].id,
      list.body.data[0].id,
    ]);
  });

  it('leaves one key, and answers with it', async () => {
    const body = { name: 'once', scope: 'read-only' };
    const replies = await sendThroughOutage('/auth/api-keys', body);
    expect(replies.map(({ status, body: { error } }) => [status, error])).toEqual([
      [201, null],
      [201, null],
    ]);
    const list = await t.send('GET', '/auth/api-keys');
    const made = list.body.data.filter(({ name }: { name: string }) => name === 'once');
    expect(made).toHaveLength(1);
    expect(replies.map((reply) => reply.body.data.id)).toEqual([made[0].id, made[0].id]);
  });
});
