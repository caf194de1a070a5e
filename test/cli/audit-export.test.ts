import { once } from 'node:events';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { anEvent } from '../support/events.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { callerOf, cuttingProxy, mailguard, temporary } from './support.ts';

const EVENTS = 1_500;
const COMMAND_EVENTS = 500;

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
  const { log } = t.gateway.context;
  for (let n = 0; n < EVENTS / COMMAND_EVENTS; n += 1) {
    const events = Array.from({ length: COMMAND_EVENTS }, () => anEvent());
    await log.append({ stream: `test-${n}`, expected: 'none', events });
  }
});
afterAll(() => t.close());

const dir = temporary();
let files = 0;
const fresh = () => {
  files += 1;
  return join(dir, `export-${files}.ndjson`);
};
const linesOf = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
const positionsOf = (text: string) =>
  linesOf(text)
    .slice(0, -1)
    .map(({ line, position }) => Number(line?.position ?? position));
const trailerOf = (text: string) => linesOf(text).at(-1).trailer;
/** Every position from 1 on, once: nothing lost, nothing twice. */
const dense = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

describe('audit export', () => {
  it('writes evidence, line by line as it was committed, and a trailer', async () => {
    const file = fresh();
    const { code, stderr } = await mailguard(['audit', 'export', '--out', file], {
      env: callerOf(t),
    });
    const text = readFileSync(file, 'utf8');
    const { count } = trailerOf(text);
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: `${count.toLocaleString('en')} lines in ${file}.\n`,
    });
    expect(positionsOf(text)).toEqual(dense(count));
    expect(count).toBeGreaterThanOrEqual(EVENTS);
    const [first] = await t.gateway.context.log.readStream('test-0');
    expect(text).toContain(`{"line":${first?.line},"disclosures":[${first?.disclosures}]}\n`);
    expect(existsSync(`${file}.part`)).toBe(false);
    expect(statSync(file).mode & 0o777).toBe(0o600);
  });

  it('writes readable lines of a stretch of time to standard output', async () => {
    const { body } = await t.send('GET', '/audit/logs?limit=1&resource=test:1');
    const from = body.data[0].recorded_at;
    const argv = ['audit', 'export', '--out', '-', '--form', 'readable', '--from', from];
    const to = '2099-01-01T00:00:00Z';
    const { code, stdout } = await mailguard([...argv, '--to', to], { env: callerOf(t) });
    expect(code).toBe(0);
    expect(linesOf(stdout)[0]).toMatchObject({
      type: 'test.happened',
      source: { ip: '192.0.2.7' },
    });
    expect(trailerOf(stdout).first_position).toBe(body.data[0].position);
  });

  it('tells what it wrote as JSON', async () => {
    const file = fresh();
    const argv = ['audit', 'export', '--json', '--out', file];
    const { stdout } = await mailguard(argv, { env: callerOf(t) });
    const { count, last_position } = trailerOf(readFileSync(file, 'utf8'));
    expect(JSON.parse(stdout)).toEqual({
      file,
      count,
      first_position: '1',
      last_position,
      connections: 1,
    });
  });

  it('replaces an older export only by a whole one', async () => {
    const file = fresh();
    writeFileSync(file, 'older');
    const { key } = await t.createKey({ scope: 'quarantine-only' });
    const argv = ['audit', 'export', '--out', file];
    const refused = await mailguard(argv, { env: callerOf(t, key) });
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/^error: scope_forbidden: .+\(request id \S+\)\n$/);
    expect(existsSync(`${file}.part`)).toBe(false);
    expect(readFileSync(file, 'utf8')).toBe('older');
    await mailguard(argv, { env: callerOf(t) });
    expect(trailerOf(readFileSync(file, 'utf8')).count).toBeGreaterThan(EVENTS);
  });

  it('says why it cannot write', async () => {
    const file = join(dir, 'no', 'such', 'directory');
    const absent = await mailguard(['audit', 'export', '--out', file], { env: callerOf(t) });
    expect(absent.code).toBe(1);
    expect(absent.stderr).toContain('ENOENT');
    expect(absent.stderr).not.toContain('.part.');
  });

  it('replaces nothing that is no file: a directory, a socket, a device', async () => {
    const [directory, socket] = [fresh(), fresh()];
    mkdirSync(directory);
    const server = createServer().listen(socket);
    await once(server, 'listening');
    for (const taken of [directory, socket]) {
      const argv = ['audit', 'export', '--out', taken];
      const { code, stderr } = await mailguard(argv, { env: callerOf(t) });
      expect({ code, stderr }).toEqual({
        code: 1,
        stderr: `error: ${taken} is there, and no file: only a file is replaced (- is standard output)\n`,
      });
      expect(existsSync(`${taken}.part`)).toBe(false);
    }
    expect(statSync(socket).isSocket()).toBe(true);
    server.close();
  });

  it('writes through a link, and leaves the link', async () => {
    const [file, link] = [fresh(), fresh()];
    writeFileSync(file, 'older');
    symlinkSync(file, link);
    await mailguard(['audit', 'export', '--out', link], { env: callerOf(t) });
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(trailerOf(readFileSync(file, 'utf8')).count).toBeGreaterThan(EVENTS);
  });

  it('shows no bar for a moment of work, and none of it in the file', async () => {
    const file = fresh();
    const { stderr } = await mailguard(['audit', 'export', '--out', file], {
      env: callerOf(t),
      watched: true,
    });
    expect(stderr).toMatch(/^[\d,]+ lines in \S+\n$/);
  });
});

describe('an export whose connection is cut', () => {
  it.each([['evidence'], ['readable']])('goes on behind the last whole line (%s)', async (form) => {
    const proxy = await cuttingProxy(t.url, [300_000, 200_000]);
    const file = fresh();
    const env = { ...callerOf(t), MAILGUARD_URL: proxy.url };
    const argv = ['audit', 'export', '--out', file, '--form', form];
    const { code, stderr } = await mailguard(argv, { env });
    proxy.close();
    expect(code).toBe(0);
    expect(proxy.connections()).toBe(3);
    expect(stderr).toContain('over 3 connections');
    const text = readFileSync(file, 'utf8');
    const { count, first_position, last_position, next_cursor } = trailerOf(text);
    expect(positionsOf(text)).toEqual(dense(count));
    expect({ first_position, last_position }).toEqual({
      first_position: '1',
      last_position: `${count}`,
    });
    const next = await t.send('GET', `/audit/logs?form=${form}&cursor=${next_cursor}`);
    expect(next.status).toBe(200);
  });

  it('fails when it is cut for good: no FILE, and what arrived in FILE.part', async () => {
    const proxy = await cuttingProxy(t.url, [300_000, ...Array.from({ length: 20 }, () => 0)]);
    const file = fresh();
    const env = { ...callerOf(t), MAILGUARD_URL: proxy.url };
    const { code, stderr } = await mailguard(['audit', 'export', '--out', file], { env });
    proxy.close();
    expect(code).toBe(1);
    expect(stderr).toContain(`The export is not whole. What arrived is in ${file}.part.`);
    expect(existsSync(file)).toBe(false);
    const part = readFileSync(`${file}.part`, 'utf8');
    expect(part.endsWith('\n')).toBe(true);
    const positions = linesOf(part).map(({ line }) => Number(line.position));
    expect(positions).toEqual(dense(positions.length));
    expect(part).not.toContain('"trailer"');
    // The first connection, and then as many fruitless ones as are tried.
    expect(proxy.connections()).toBe(7);
  });

  it('fails when its key ends meanwhile', async () => {
    const { id, key } = await t.createKey({ scope: 'read-only' });
    const proxy = await cuttingProxy(t.url, [300_000]);
    const env = { ...callerOf(t, key), MAILGUARD_URL: proxy.url };
    const pause = async () => void (await t.send('POST', `/auth/api-keys/${id}/revoke`));
    const file = fresh();
    const { code, stderr } = await mailguard(['audit', 'export', '--out', file], { env, pause });
    proxy.close();
    expect(code).toBe(1);
    expect(stderr).toMatch(/unauthorized: [\s\S]*The export is not whole/);
    expect(existsSync(file)).toBe(false);
  });

  it('is not begun where nothing listens', async () => {
    const env = { ...callerOf(t), MAILGUARD_URL: 'http://127.0.0.1:1' };
    const pauses: number[] = [];
    const pause = async (ms: number) => void pauses.push(ms);
    const file = fresh();
    // What an earlier export has left is all that there is of it.
    writeFileSync(`${file}.part`, 'older');
    const { code } = await mailguard(['audit', 'export', '--out', file], { env, pause });
    expect({ code, pauses }).toEqual({ code: 2, pauses: [] });
    expect(readFileSync(`${file}.part`, 'utf8')).toBe('older');
  });

  it('leaves no FILE when it is interrupted', async () => {
    const interrupted = new AbortController();
    const proxy = await cuttingProxy(t.url, [300_000]);
    const env = { ...callerOf(t), MAILGUARD_URL: proxy.url };
    const file = fresh();
    const pause = async () => {
      interrupted.abort();
      interrupted.signal.throwIfAborted();
    };
    const { signal } = interrupted;
    const argv = ['audit', 'export', '--out', file];
    const { code } = await mailguard(argv, { env, pause, signal });
    proxy.close();
    expect(code).toBe(130);
    expect(existsSync(file)).toBe(false);
  });
});
