import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { type PgProxy, startPgProxy } from '../support/pg-proxy.ts';

// Whoever is woken at night looks at the metrics first: they must not go away with the database.
describe('while the database is away', () => {
  let database: TestDatabase;
  let proxy: PgProxy;
  let t: TestGateway;
  beforeAll(async () => {
    database = await createDatabase();
    proxy = await startPgProxy(database.url);
    t = await startTestGateway({ database: { ...database, url: proxy.url } });
    await t.send('GET', '/domains');
  });
  afterAll(async () => {
    proxy.open();
    await t.close();
    await proxy.close();
  });

  const metrics = () => t.send('GET', '//metrics', { key: null });
  /** The value of a metric without labels, null where it is not told. */
  const figureOf = (text: string, name: string): number | null => {
    const value = new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1];
    return value === undefined ? null : Number(value);
  };

  it('GET /metrics answers with what the process knows', async () => {
    const before = await metrics();
    expect(figureOf(before.text, 'mailguard_database_up')).toBe(1);
    proxy.shut();
    const during = await metrics();
    expect(during.status).toBe(200);
    expect(during.text).toMatch(/mailguard_http_request_duration_seconds_count\{[^}]*listMailDom/);
    expect(figureOf(during.text, 'mailguard_database_up')).toBe(0);
    expect(figureOf(during.text, 'mailguard_api_keys')).toBe(1);
    expect(figureOf(during.text, 'mailguard_eventlog_append_queue_commands')).not.toBeNull();
    proxy.open();
    const after = await metrics();
    expect(figureOf(after.text, 'mailguard_database_up')).toBe(1);
    expect(figureOf(after.text, 'mailguard_eventlog_head_position')).toBeGreaterThan(0);
  });

  it('GET /metrics leaves out what only the database knows, rather than tell another figure', async () => {
    proxy.shut();
    const { text } = await metrics();
    proxy.open();
    expect(figureOf(text, 'mailguard_eventlog_head_position')).toBeNull();
    expect(text).not.toMatch(/^mailguard_projection_lag_events\{/m);
  });

  it('GET /livez answers 200, GET /readyz 503 with the reason', async () => {
    proxy.shut();
    const live = await t.send('GET', '//livez', { key: null });
    const ready = await t.send('GET', '//readyz', { key: null });
    proxy.open();
    expect([live.status, ready.status, ready.body.error]).toEqual([200, 503, 'unavailable']);
    expect(ready.body.data.reasons).toEqual(['the database cannot be reached']);
    expect(ready.headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
  });
});
