import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { issueApiKey } from '../../src/secret-text.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { callerOf, mailguard, temporary } from './support.ts';

const CERTIFICATE = fileURLToPath(new URL('fixtures/cert.pem', import.meta.url));
const CERTIFICATE_KEY = fileURLToPath(new URL('fixtures/key.pem', import.meta.url));

const realSetTimeout = setTimeout;

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
});
afterAll(() => t.close());

describe('keys create', () => {
  it('prints the key alone, and tells what was made beside it', async () => {
    const { name } = await t.createDomain();
    const argv = ['keys', 'create', '--name', 'SIEM', '--scope', 'read-only'];
    const options = ['--mail-domain', name, '--rate-limit', '7'];
    const { code, stdout, stderr } = await mailguard([...argv, ...options], { env: callerOf(t) });
    expect(code).toBe(0);
    expect(stdout).toMatch(/^nmg_[0-9a-f]{64}\n$/);
    expect(stderr).toMatch(`"SIEM" (read-only for ${name}) was made.`);
    const made = await t.send('GET', '/auth/api-keys', { key: stdout.trim() });
    expect(made.body.data[0]).toMatchObject({ mail_domain: name, rate_limit_per_minute: 7 });
  });

  it('takes any number of addresses that the key may be used from', async () => {
    const argv = ['keys', 'create', '--json', '--name=n', '--scope=read-only'];
    const allowed = ['--allow', '192.0.2.0/24', '--allow=2001:db8::7'];
    const { stdout } = await mailguard([...argv, ...allowed], { env: callerOf(t) });
    const { allowed_cidrs, key } = JSON.parse(stdout);
    expect(allowed_cidrs).toEqual(['192.0.2.0/24', '2001:db8::7/128']);
    expect((await t.send('GET', '/auth/api-keys', { key })).status).toBe(401);
  });

  it('prints everything as JSON', async () => {
    const expiresAt = '2099-01-31T00:00:00Z';
    const argv = ['keys', 'create', '--json', '--name=n', '--scope=full-admin'];
    const { stdout } = await mailguard([...argv, '--expires-at', expiresAt], { env: callerOf(t) });
    expect(JSON.parse(stdout)).toMatchObject({
      name: 'n',
      scope: 'full-admin',
      expires_at: '2099-01-31T00:00:00.000000Z',
      key: expect.stringMatching(/^nmg_/),
    });
  });

  it('tells what the server refuses, and under which request id', async () => {
    const argv = ['keys', 'create', '--name', 'x', '--scope', 'sometimes'];
    const { code, stdout, stderr } = await mailguard(argv, { env: callerOf(t) });
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^error: validation_failed: .+ \(request id [\w-]+\)\n- scope /);
  });
});

describe('keys list', () => {
  it('is a table, without a secret', async () => {
    const { key } = await t.createKey({ name: 'listed key' });
    const { code, stdout } = await mailguard(['keys', 'list'], { env: callerOf(t) });
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ID +NAME +PREFIX +SCOPE/);
    expect(stdout).toMatch(new RegExp(`listed key +${key.slice(0, 20)} +read-only +- +active`));
    expect(stdout).not.toContain(key);
  });

  it('is an array of what the API gives with --json', async () => {
    const { stdout } = await mailguard(['keys', 'list', '--json'], { env: callerOf(t) });
    const api = await t.send('GET', '/auth/api-keys');
    const ids = (list: readonly { id: number }[]) => list.map(({ id }) => id);
    expect(ids(JSON.parse(stdout))).toEqual(ids(api.body.data));
  });
});

describe('keys revoke', () => {
  it('makes a key invalid at once', async () => {
    const { id, key } = await t.createKey();
    const argv = ['keys', 'revoke', String(id), '--reason', 'leaked'];
    const { code, stdout } = await mailguard(argv, { env: callerOf(t) });
    expect({ code, stdout }).toEqual({ code: 0, stdout: `Key ${id} is revoked.\n` });
    expect((await t.send('GET', '/auth/api-keys', { key })).status).toBe(401);
    const again = await mailguard([...argv, '--json'], { env: callerOf(t) });
    expect(JSON.parse(again.stdout)).toMatchObject({ id, status: 'revoked' });
  });

  it('says when there is no such key', async () => {
    const { code, stderr } = await mailguard(['keys', 'revoke', '999999'], { env: callerOf(t) });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: not_found: .+\(request id /);
  });
});

describe('a command that calls the gateway', () => {
  it('shows where keys come from when its own is refused', async () => {
    const env = callerOf(t, issueApiKey());
    const { code, stderr } = await mailguard(['keys', 'list'], { env });
    expect(code).toBe(1);
    expect(stderr).toMatch(/unauthorized: .+\n.+keys create --local/);
  });

  it('takes the address of the settings and the key of the data directory by itself', async () => {
    const dataDir = temporary();
    writeFileSync(join(dataDir, 'bootstrap-key'), `${t.bootstrapKey}\n`);
    const env = { MAILGUARD_PORT: new URL(t.url).port, MAILGUARD_DATA_DIR: dataDir };
    expect((await mailguard(['keys', 'list'], { env })).code).toBe(0);
  });

  it('says which key is missing, and which cannot be read', async () => {
    const dataDir = temporary();
    const env = { MAILGUARD_DATA_DIR: dataDir };
    const absent = await mailguard(['keys', 'list'], { env });
    expect(absent.code).toBe(2);
    expect(absent.stderr).toContain(`There is no ${join(dataDir, 'bootstrap-key')}`);
    mkdirSync(join(dataDir, 'bootstrap-key'));
    const unreadable = await mailguard(['keys', 'list'], { env });
    expect(unreadable.code).toBe(2);
    expect(unreadable.stderr).toContain('cannot be read by this user');
  });

  it("never sends this machine's key to another one, nor any key in a URL", async () => {
    const elsewhere = { MAILGUARD_URL: 'https://mail.example.com' };
    const { code, stderr } = await mailguard(['keys', 'list'], { env: elsewhere });
    expect(code).toBe(2);
    expect(stderr).toContain('set MAILGUARD_API_KEY');
    const env = { ...callerOf(t), MAILGUARD_URL: t.url.replace('//', `//user:${issueApiKey()}@`) };
    const inUrl = await mailguard(['keys', 'list'], { env });
    expect(inUrl.code).toBe(2);
    expect(inUrl.stderr).not.toContain('nmg_');
  });

  it('says when nothing listens there', async () => {
    const env = { ...callerOf(t), MAILGUARD_URL: 'http://127.0.0.1:1' };
    const { code, stderr } = await mailguard(['keys', 'list'], { env });
    expect(code).toBe(2);
    expect(stderr).toMatch(/http:\/\/127\.0\.0\.1:1 cannot be reached: .*ECONNREFUSED/);
  });

  it('says in one line that the gateway speaks no HTTPS', async () => {
    const env = { ...callerOf(t), MAILGUARD_URL: t.url.replace('http:', 'https:') };
    const { code, stderr } = await mailguard(['keys', 'list'], { env });
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error: \S+ cannot be reached: it does not speak HTTPS\. .+\n$/);
  });

  it('speaks HTTPS to a gateway whose certificate the settings name', async () => {
    const tls = { certPath: CERTIFICATE, keyPath: CERTIFICATE_KEY };
    const secure = await startTestGateway({ config: { tls } });
    const env = {
      MAILGUARD_API_KEY: secure.bootstrapKey,
      MAILGUARD_PORT: new URL(secure.url).port,
      MAILGUARD_TLS_CERT: CERTIFICATE,
      MAILGUARD_TLS_KEY: CERTIFICATE_KEY,
    };
    expect((await mailguard(['keys', 'list'], { env })).code).toBe(0);
    // The control: without that trust, nobody vouches for the certificate.
    const strange = await mailguard(['keys', 'list'], { env: callerOf(secure) });
    expect(strange.code).toBe(2);
    expect(strange.stderr).toContain('NODE_EXTRA_CA_CERTS');
    await secure.close();
  });
});

describe('a server that puts us off', () => {
  const answers = async (replies: readonly [number, object, string][]) => {
    const left = [...replies];
    const server = http.createServer((_request, response) => {
      const [status, headers, body] = left.shift() ?? [200, {}, '{"data":[],"message":"OK"}'];
      response.writeHead(status, { 'X-Request-Id': 'r-1', ...headers }).end(body);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    const env = { MAILGUARD_URL: `http://127.0.0.1:${port}`, MAILGUARD_API_KEY: issueApiKey() };
    const pauses: number[] = [];
    const pause = async (ms: number) => void pauses.push(ms);
    const ran = await mailguard(['keys', 'list', '--json'], { env, pause });
    server.close();
    return { ...ran, pauses };
  };
  const limited = '{"data":null,"error":"rate_limited","message":"Too many."}';

  it('is asked again after as long as it wants', async () => {
    const { code, stdout, pauses } = await answers([
      [429, { 'Retry-After': '3' }, limited],
      [503, { 'Retry-After': '1' }, limited],
    ]);
    expect({ code, stdout, pauses }).toEqual({ code: 0, stdout: '[]\n', pauses: [3_000, 1_000] });
  });

  it('is not asked for ever', async () => {
    const replies = Array.from({ length: 9 }, () => [429, { 'Retry-After': '1' }, limited]);
    const { code, stderr, pauses } = await answers(replies as [number, object, string][]);
    expect({ code, waits: pauses.length }).toEqual({ code: 1, waits: 5 });
    expect(stderr).toContain('error: rate_limited: Too many. (request id r-1)');
  });

  it('is not waited for when it wants an hour', async () => {
    const { code, pauses } = await answers([[429, { 'Retry-After': '3600' }, limited]]);
    expect({ code, pauses }).toEqual({ code: 1, pauses: [] });
  });

  it('is asked for every page of a list', async () => {
    const { stdout } = await answers([
      [200, { 'X-Has-More': 'true', 'X-Next-Cursor': 'i2' }, '{"data":[{"id":2}],"message":"OK"}'],
      [200, { 'X-Has-More': 'false' }, '{"data":[{"id":1}],"message":"OK"}'],
    ]);
    expect(JSON.parse(stdout)).toEqual([{ id: 2 }, { id: 1 }]);
  });

  it('is told from one that is no MailGuard', async () => {
    const { code, stderr } = await answers([[404, {}, '<html>']]);
    expect(code).toBe(1);
    expect(stderr).toContain('answers 404 and is no MailGuard');
  });
});

describe('a server that does not answer', () => {
  afterEach(() => void vi.useRealTimers());

  it.each([
    ['at all', '', 'no answer within 30 s'],
    ['to the end', 'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{', 'took more than 30 s'],
  ])('%s is given up', async (_, beginning, problem) => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const server = http.createServer((request) => void request.socket.write(beginning));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    const env = { MAILGUARD_URL: `http://127.0.0.1:${port}`, MAILGUARD_API_KEY: issueApiKey() };
    const running = mailguard(['keys', 'list'], { env });
    await once(server, 'request');
    let isOver = false;
    void running.then(() => {
      isOver = true;
    });
    // The answer's beginning takes a moment to arrive, and only then its own time begins.
    while (!isOver) {
      await new Promise((resolve) => realSetTimeout(resolve, 10));
      vi.advanceTimersByTime(1_000);
    }
    const { code, stderr } = await running;
    server.closeAllConnections();
    server.close();
    expect(code).toBe(2);
    expect(stderr).toContain(problem);
  });
});
