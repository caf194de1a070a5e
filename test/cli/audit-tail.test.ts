import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fromMicros, lastInstant, toMicros } from '../../src/cli/instant.ts';
import { anEvent } from '../support/events.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { callerOf, cuttingProxy, mailguard, until } from './support.ts';

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
});
afterAll(() => t.close());

const append = (stream: string, count: number, overrides: Parameters<typeof anEvent>[0] = {}) =>
  t.gateway.context.log.append({
    stream,
    expected: 'none',
    events: Array.from({ length: count }, () => anEvent(overrides)),
  });
const jsonLines = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));

describe('audit tail', () => {
  it('prints the latest lines as a table', async () => {
    const { id } = await t.createKey({ name: 'latest' });
    const { code, stdout } = await mailguard(['audit', 'tail'], { env: callerOf(t) });
    expect(code).toBe(0);
    expect(stdout).toMatch(
      new RegExp(
        `Z  api_key.created +api_key:1 \\(bootstrap\\) +api_key:${id} \\(latest\\) +success`,
      ),
    );
  });

  it('prints as many as are asked for, the latest of a filter, as JSON', async () => {
    await append('test-many', 1_500, { type: 'test.many' });
    await append('test-other', 5);
    const argv = ['audit', 'tail', '--json', '--action', 'test.many', '--limit', '30'];
    const { stdout } = await mailguard(argv, { env: callerOf(t) });
    const api = await t.send('GET', '/audit/logs?action=test.many&limit=2000');
    const wanted = api.body.data.slice(-30).map(({ position }: { position: string }) => position);
    expect(jsonLines(stdout).map(({ position }) => position)).toEqual(wanted);
  });

  it('finds the latest of what lies long back, and all of what is too little', async () => {
    await append('test-rare', 3, { type: 'test.rare' });
    await sleep(1_100);
    await append('test-busy', 3, { type: 'test.busy' });
    const argv = ['audit', 'tail', '--json', '--action', 'test.rare', '--limit'];
    const two = await mailguard([...argv, '2'], { env: callerOf(t) });
    expect(jsonLines(two.stdout)).toHaveLength(2);
    const all = await mailguard([...argv, '9'], { env: callerOf(t) });
    expect(jsonLines(all.stdout)).toHaveLength(3);
  });

  it('prints nothing where there is nothing', async () => {
    const argv = ['audit', 'tail', '--action', 'test.never'];
    expect(await mailguard(argv, { env: callerOf(t) })).toEqual({
      code: 0,
      stdout: '',
      stderr: '',
    });
  });

  it('works for a key that does not see the end of the log', async () => {
    const domain = await t.createDomain();
    const { key } = await t.createKey({ scope: 'domain-admin', mail_domain: domain.name });
    await append('test-hidden', 2);
    const { stdout } = await mailguard(['audit', 'tail', '--json'], { env: callerOf(t, key) });
    const types = jsonLines(stdout).map(({ type }) => type);
    expect(types).toContain('mail_domain.created');
    expect(types).not.toContain('test.happened');
  });

  it('tells what the server refuses', async () => {
    const argv = ['audit', 'tail', '--action', 'Nonsense!'];
    const { code, stderr } = await mailguard(argv, { env: callerOf(t) });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: validation_failed: .+\n- action /);
  });
});

describe('audit tail --follow', () => {
  const follow = (env: NodeJS.ProcessEnv, pause?: (ms: number) => Promise<void>) => {
    const interrupted = new AbortController();
    const { signal } = interrupted;
    let seen = '';
    const running = mailguard(
      ['audit', 'tail', '--follow', '--json', '--action', 'test.followed'],
      {
        env,
        signal,
        ...(pause === undefined ? {} : { pause }),
        onStdout: (text) => {
          seen = text;
        },
      },
    );
    return { running, interrupt: () => interrupted.abort(), seen: () => seen };
  };

  it('prints each line that comes once, until it is interrupted', async () => {
    await append('test-before', 1, { type: 'test.followed' });
    const pauses = new Set<number>();
    const tail = follow(callerOf(t), async (ms) => {
      pauses.add(ms);
      await sleep(20);
    });
    await until(() => tail.seen() !== '');
    await append('test-after', 2, { type: 'test.followed' });
    await until(() => jsonLines(tail.seen()).length >= 3);
    await append('test-later', 1, { type: 'test.followed' });
    await until(() => jsonLines(tail.seen()).length >= 4);
    tail.interrupt();
    const { code, stdout } = await tail.running;
    expect(code).toBe(0);
    expect(jsonLines(stdout).map(({ stream }) => stream)).toEqual([
      'test-before',
      'test-after',
      'test-after',
      'test-later',
    ]);
    expect([...pauses]).toEqual([1_000]);
  });

  it('goes on where it was after a poll that was cut', async () => {
    const proxy = await cuttingProxy(t.url, []);
    const env = { ...callerOf(t), MAILGUARD_URL: proxy.url };
    const tail = follow(env, () => sleep(20));
    await until(() => tail.seen() !== '');
    const before = jsonLines(tail.seen()).length;
    proxy.cut(0);
    const cutAt = proxy.connections();
    await until(() => proxy.connections() > cutAt + 1);
    await append('test-cut', 1, { type: 'test.followed' });
    await until(() => jsonLines(tail.seen()).length > before);
    tail.interrupt();
    const { code, stdout, stderr } = await tail.running;
    proxy.close();
    expect(code).toBe(0);
    expect(stderr).toContain('Trying on');
    expect(jsonLines(stdout).filter(({ stream }) => stream === 'test-cut')).toHaveLength(1);
  });

  it('tries on while the gateway is away, and gives up when it stays away', async () => {
    const other = await startTestGateway();
    let polls = 0;
    const tail = follow(callerOf(other), async () => {
      polls += 1;
      if (polls === 3) await other.gateway.stop();
    });
    const { code, stderr } = await tail.running;
    expect(code).toBe(2);
    expect(stderr.match(/Trying on/g)).toHaveLength(1);
    expect(polls).toBe(63);
    await other.database.drop();
  });
});

describe('instants', () => {
  it('keep their microseconds', () => {
    const instant = '2026-05-01T07:42:13.004211Z';
    expect(fromMicros(toMicros(instant))).toBe(instant);
    expect(lastInstant({ 'x-sealed-through': '2026-05-01T07:42:13.000000Z' })).toBe(
      '2026-05-01T07:42:12.999999Z',
    );
  });
  it('of an empty log do not go below 1970', () =>
    expect(lastInstant({ 'x-sealed-through': '1970-01-01T00:00:00.000000Z' })).toBe(
      '1970-01-01T00:00:00.000000Z',
    ));
});
