import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { flushWindows, headOf } from '../support/recorded.ts';
import { type StoppedClock, stoppedClock } from '../support/stopped-clock.ts';

let t: TestGateway;
let clock: StoppedClock;
beforeAll(async () => {
  clock = stoppedClock();
  t = await startTestGateway({ clock });
});
afterAll(() => t.close());

const read = (key: string) => t.send('GET', '/domains', { key });
async function readMany(key: string, count: number): Promise<number[]> {
  const statuses: number[] = [];
  for (let n = 0; n < count; n += 1) statuses.push((await read(key)).status);
  return statuses;
}
/** RFC 9651 as far as these fields use it: a list of one string item with parameters. */
function parametersOf(field: string | null): Record<string, number> {
  const [, list = ''] = /^"default"((?:;[a-z-]+=\d+)+)$/.exec(field ?? '') ?? [];
  return Object.fromEntries(
    list
      .slice(1)
      .split(';')
      .map((pair) => pair.split('='))
      .map(([name = '', value]) => [name, Number(value)]),
  );
}

describe('429', () => {
  it('comes after ten minutes worth of requests, with whole seconds to wait (2.4.1)', async () => {
    const { id, key } = await t.createKey({ rate_limit_per_minute: 2 });
    expect(await readMany(key, 20)).toEqual(Array(20).fill(200));
    const before = await headOf(t);
    const refused = await read(key);
    expect(refused.status).toBe(429);
    expect(refused.body).toMatchObject({ data: null, error: 'rate_limited' });
    expect(refused.headers.get('retry-after')).toBe('30');
    expect(parametersOf(refused.headers.get('ratelimit'))).toEqual({ r: 0, t: 30 });
    const [denied] = (await flushWindows(t, before)).filter(
      ({ type }) => type === 'api_key.denied',
    );
    expect(denied).toMatchObject({
      actor: { type: 'api_key', id: String(id) },
      data: { reason: 'rate_limited', count: 1 },
    });
  });

  it('ends when Retry-After says, and not a second before', async () => {
    const { key } = await t.createKey({ rate_limit_per_minute: 2 });
    await readMany(key, 20);
    expect((await read(key)).headers.get('retry-after')).toBe('30');
    clock.advance(29_000);
    const early = await read(key);
    expect([early.status, early.headers.get('retry-after')]).toEqual([429, '1']);
    clock.advance(1_000);
    expect(await readMany(key, 2)).toEqual([200, 429]);
  });

  it('rounds Retry-After up to a whole second', async () => {
    const { key } = await t.createKey({ rate_limit_per_minute: 7 });
    await readMany(key, 70);
    const refused = await read(key);
    expect(refused.headers.get('retry-after')).toBe('9');
    clock.advance(8_571);
    expect((await read(key)).headers.get('retry-after')).toBe('1');
    clock.advance(1);
    expect((await read(key)).status).toBe(200);
  });

  it('costs nothing, and neither do 401 and 403', async () => {
    const { id, key } = await t.createKey({ rate_limit_per_minute: 2 });
    await t.send('POST', '/domains', { key, body: {} });
    const view = (await t.send('GET', `/auth/api-keys/${id}`)).body.data;
    expect(view.rate_limit).toEqual({ capacity: 20, remaining: 20, denied_last_hour: 0 });
    await readMany(key, 25);
    clock.advance(30_000);
    expect(await readMany(key, 2)).toEqual([200, 429]);
  });
});

describe('RateLimit and RateLimit-Policy', () => {
  it('state rate, window, burst, what is left, and how fast it may be used', async () => {
    const { key } = await t.createKey({ rate_limit_per_minute: 100 });
    const reply = await read(key);
    expect(parametersOf(reply.headers.get('ratelimit-policy'))).toEqual({
      q: 100,
      w: 60,
      'nmg-burst': 1_000,
    });
    expect(parametersOf(reply.headers.get('ratelimit'))).toEqual({ r: 999, t: 600 });
  });

  it('stand on 200 and 429, not on 401', async () => {
    const { key } = await t.createKey({ rate_limit_per_minute: 1 });
    for (const status of [200, 429]) {
      if (status === 429) await readMany(key, 10);
      const reply = await read(key);
      expect(reply.status).toBe(status);
      expect(parametersOf(reply.headers.get('ratelimit'))).toHaveProperty('r');
      expect(parametersOf(reply.headers.get('ratelimit-policy'))).toHaveProperty('q', 1);
    }
    const refused = await read(`nmg_${'0'.repeat(64)}`);
    expect(refused.status).toBe(401);
    expect(refused.headers.get('ratelimit')).toBeNull();
  });
});

describe('the bucket', () => {
  it('is shown: capacity, remaining, refused in the last hour', async () => {
    const { id, key } = await t.createKey({ rate_limit_per_minute: 1 });
    await readMany(key, 13);
    const shown = async () => (await t.send('GET', `/auth/api-keys/${id}`)).body.data.rate_limit;
    expect(await shown()).toEqual({ capacity: 10, remaining: 0, denied_last_hour: 3 });
    clock.advance(60_000);
    // The minute of the refusals is over, so they are an event now, and counted once.
    await t.gateway.context.activity.flush();
    const { context } = t.gateway;
    await context.projector.caughtUp((await context.log.head()).position);
    expect(await shown()).toEqual({ capacity: 10, remaining: 1, denied_last_hour: 3 });
    clock.advance(3_600_000);
    expect(await shown()).toEqual({ capacity: 10, remaining: 10, denied_last_hour: 0 });
  });

  it('keeps its tokens when the rate is changed, cut to the new capacity', async () => {
    const raised = await t.createKey({ rate_limit_per_minute: 1 });
    const lowered = await t.createKey({ rate_limit_per_minute: 100 });
    await readMany(raised.key, 10);
    clock.advance(300_000);
    const patch = async (id: number, rate: number) =>
      (await t.send('PATCH', `/auth/api-keys/${id}`, { body: { rate_limit_per_minute: rate } }))
        .body.data.rate_limit;
    // Five minutes at one a minute are five tokens, whatever the rate is from now on.
    expect(await patch(raised.id, 100)).toMatchObject({ capacity: 1_000, remaining: 5 });
    expect(await patch(lowered.id, 10)).toMatchObject({ capacity: 100, remaining: 100 });
  });

  it('is resumed after a restart, with what was refilled meanwhile', async () => {
    const { key } = await t.createKey({ rate_limit_per_minute: 2 });
    await readMany(key, 20);
    t = await t.restart();
    expect((await read(key)).status).toBe(429);
    t = await t.restart();
    clock.advance(60_000);
    expect(await readMany(key, 3)).toEqual([200, 200, 429]);
  });
});
