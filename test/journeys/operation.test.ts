import { spawnSync } from 'node:child_process';
import request from 'supertest';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';

const hasPromtool = spawnSync('promtool', ['--version']).status === 0;
if (!hasPromtool) console.warn('promtool is not installed: its check of /metrics is skipped');

describe('operation', () => {
  let t: TestGateway;
  beforeAll(async () => {
    t = await startTestGateway();
    await t.send('GET', '/auth/api-keys');
    await t.send('GET', '/audit/logs');
  });
  afterAll(() => t.close());

  it('answers a stranger on its root with the envelope and nothing else', async () => {
    const answer = await request(t.url).get('/').expect(404).expect('Content-Type', /json/);
    expect(answer.body).toEqual({
      data: null,
      error: 'not_found',
      message: 'There is nothing here.',
    });
  });

  it('is alive and ready, and says how far its projections are', async () => {
    expect((await t.send('GET', '//livez', { key: null })).body.data).toEqual({ alive: true });
    const ready = await t.send('GET', '//readyz', { key: null });
    expect(ready.status).toBe(200);
    expect(ready.body.data.ready).toBe(true);
    expect(ready.body.data.projections.map(({ name }: { name: string }) => name)).toEqual([
      'api_keys',
      'mail_domains',
      'quarantine',
      'sender_filters',
      'webhooks',
      'rate_limits',
      'erasures',
    ]);
  });

  it('gives metrics of requests, log and projections to loopback without a key', async () => {
    const { text, status, headers } = await t.send('GET', '//metrics', { key: null });
    expect(status).toBe(200);
    expect(headers.get('content-type')).toContain('text/plain');
    expect(text).toMatch(/mailguard_http_request_duration_seconds_count\{[^}]*listApiKeys/);
    expect(text).toMatch(/mailguard_projection_lag_events\{projection="api_keys"\} \d/);
    expect(text).toMatch(/mailguard_eventlog_head_position [1-9]/);
  });

  it('asks a client that is not on loopback, as its proxy says, for a key', async () => {
    const behind = await startTestGateway({ config: { trustedProxies: ['127.0.0.1'] } });
    const headers = { 'X-Forwarded-For': '203.0.113.9' };
    expect((await behind.send('GET', '//metrics', { key: null, headers })).status).toBe(401);
    expect((await behind.send('GET', '//metrics', { headers })).status).toBe(200);
    await behind.close();
  });

  it.skipIf(!hasPromtool)('passes promtool check metrics', async () => {
    const { text } = await t.send('GET', '//metrics', { key: null });
    const { status, stderr, stdout } = spawnSync('promtool', ['check', 'metrics'], { input: text });
    expect(`${stdout}${stderr}`).toBe('');
    expect(status).toBe(0);
  });
});
