import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { Agent, type buildConnector, request } from 'undici';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { type AddressPolicy, addressPolicy, type LookupAll } from '../../src/webhooks/addresses.ts';
import {
  BlockedTargetError,
  connectFailureOf,
  guardedConnector,
} from '../../src/webhooks/connector.ts';

const STRICT = addressPolicy([]);
const LOOPBACK_ALLOWED = addressPolicy(['127.0.0.0/8', '::1/128']);
const CONNECT_MS = 2_000;
/** A public address of nobody: documentation ranges would be denied. */
const PUBLIC = '8.8.8.8';

/** Loopback as attackers write it; `reaches` when the system itself would connect. */
const SPELLINGS = [
  ['127.0.0.1', 'reaches'],
  ['127.1', 'reaches'],
  ['127.0.0.1.', 'reaches'],
  ['2130706433', 'reaches'],
  ['0x7f000001', 'reaches'],
  ['0x7f.0.0.0x1', 'reaches'],
  ['0177.0.0.1', 'reaches'],
  ['017700000001', 'reaches'],
  ['%31%32%37.0.0.1', 'reaches'],
  ['１２７。0。0。1', 'reaches'],
  ['0.0.0.0', 'reaches'],
  ['0', 'reaches'],
  ['[::ffff:127.0.0.1]', 'reaches'],
  ['[::ffff:7f00:1]', 'reaches'],
  ['localhost', 'reaches'],
  ['LOCALHOST', 'reaches'],
  ['[::1]', 'depends'],
  ['[::]', 'depends'],
  ['[::127.0.0.1]', 'depends'],
  ['[64:ff9b::127.0.0.1]', 'depends'],
  ['[64:ff9b::7f00:1]', 'depends'],
  ['[64:ff9b:1::7f00:1]', 'depends'],
  ['[2002:7f00:1::]', 'depends'],
  ['10.0.0.1', 'depends'],
  ['169.254.169.254', 'depends'],
  ['[::ffff:169.254.169.254]', 'depends'],
  ['[fd00:ec2::254]', 'depends'],
] as const;
const REACHING = SPELLINGS.filter(([, kind]) => kind === 'reaches').map(([host]) => host);

type Canary = Readonly<{
  port: number;
  connections: () => number;
  bytes: () => number;
  close: () => void;
}>;

/** Counts whoever comes, and answers as a web server would: an open guard is seen at once. */
async function openCanary(): Promise<Canary> {
  let connections = 0;
  let bytes = 0;
  const server = net.createServer((socket) => {
    connections += 1;
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      bytes += chunk.length;
      socket.end('HTTP/1.1 204 No Content\r\n\r\n');
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    connections: () => connections,
    bytes: () => bytes,
    close: () => server.close(),
  };
}

const answering =
  (...addresses: readonly string[]): LookupAll =>
  async () =>
    addresses.map((address) => ({ address, family: net.isIP(address) }));

/** Answers one list after the other, the last one for ever. */
function flipping(...lists: readonly (readonly string[])[]): LookupAll {
  let calls = 0;
  return async (host, options) => {
    const list = lists[Math.min(calls, lists.length - 1)] ?? [];
    calls += 1;
    return await answering(...list)(host, options);
  };
}

const agents: Agent[] = [];
afterEach(async () => {
  await Promise.all(agents.splice(0).map((agent) => agent.destroy()));
});
function agentWith(connect: buildConnector.connector | buildConnector.BuildOptions): Agent {
  const agent = new Agent({ connect });
  agents.push(agent);
  return agent;
}
function guardedAgent(
  policy: AddressPolicy = STRICT,
  options: Partial<Parameters<typeof guardedConnector>[1]> = {},
): Agent {
  return agentWith(guardedConnector(policy, { connectTimeoutMs: CONNECT_MS, ...options }));
}
async function post(url: string, dispatcher: Agent) {
  const { statusCode, body } = await request(url, { method: 'POST', body: 'secret', dispatcher });
  await body.dump();
  return statusCode;
}
/** How a request ended, as a status or as the kind of its failure. */
async function endOf(url: string, dispatcher: Agent) {
  try {
    return await post(url, dispatcher);
  } catch (error) {
    return connectFailureOf(error) ?? error;
  }
}

describe('a guarded connector', () => {
  let canary: Canary;
  beforeEach(async () => {
    canary = await openCanary();
  });
  afterEach(() => canary.close());

  describe.each(['http:', 'https:'])('over %s', (protocol) => {
    const urlOf = (host: string) => `${protocol}//${host}:${canary.port}/hook`;

    it.each(SPELLINGS.map(([host]) => host))('sends nothing to %s', async (host) => {
      expect(await endOf(urlOf(host), guardedAgent())).toBe('blocked');
      expect([canary.connections(), canary.bytes()]).toEqual([0, 0]);
    });

    it.each([
      ['public and private', [PUBLIC, '127.0.0.1']],
      ['private and public', ['127.0.0.1', PUBLIC]],
      ['mapped', ['::ffff:127.0.0.1']],
      ['NAT64', ['64:ff9b::7f00:1']],
      ['of this host', ['0.0.0.0', '::']],
      ['a metadata service', ['169.254.169.254']],
      ['no address', ['127.0.0.1 ']],
    ])('sends nothing to a name whose addresses are %s', async (_, addresses) => {
      const agent = guardedAgent(STRICT, { lookup: answering(...addresses) });
      expect(await endOf(urlOf('rebound.example'), agent)).toBe('blocked');
      expect([canary.connections(), canary.bytes()]).toEqual([0, 0]);
    });

    it('sends nothing to a name with a final dot, which is another host for a list of names', async () => {
      for (const host of ['localhost.', 'a.localhost.', 'vault.internal.', 'printer.local.']) {
        const agent = guardedAgent(STRICT, { lookup: answering('127.0.0.1') });
        expect([host, await endOf(urlOf(host), agent)]).toEqual([host, 'blocked']);
      }
      expect([canary.connections(), canary.bytes()]).toEqual([0, 0]);
    });

    it('asks anew for each connection, so a name that changed its mind is blocked', async () => {
      const lookup = flipping(['127.0.0.2'], ['127.0.0.1']);
      const allowed = addressPolicy(['127.0.0.2/32']);
      const agent = guardedAgent(allowed, { lookup });
      // Nobody listens at 127.0.0.2, which is allowed: the first answer is dialled.
      expect(await endOf(urlOf('rebound.example'), agent)).toBe('connect');
      expect(await endOf(urlOf('rebound.example'), agent)).toBe('blocked');
      expect([canary.connections(), canary.bytes()]).toEqual([0, 0]);
    });

    it('asks once for each connection: what was judged is what is dialled', async () => {
      const lookup = vi.fn(flipping(['127.0.0.2'], ['127.0.0.1']));
      const agent = guardedAgent(LOOPBACK_ALLOWED, { lookup });
      expect(await endOf(urlOf('rebound.example'), agent)).toBe('connect');
      expect(lookup).toHaveBeenCalledTimes(1);
      expect(canary.connections()).toBe(0);
    });

    it('has the last word on who is really there, and sends no byte', async () => {
      let asked = 0;
      // The address passes as a literal; then it is found at the other end, and no more.
      const changing = {
        denies: () => {
          asked += 1;
          return asked > 1;
        },
      };
      expect(await endOf(urlOf('127.0.0.1'), guardedAgent(changing))).toBe('blocked');
      expect(asked).toBe(2);
      expect(canary.bytes()).toBe(0);
    });

    it('of metadata services opens none, whatever is allowed', async () => {
      const open = addressPolicy(['0.0.0.0/0', '::/0']);
      for (const host of ['169.254.169.254', '[::ffff:a9fe:a9fe]', '[fd00:ec2::254]']) {
        expect(await endOf(urlOf(host), guardedAgent(open))).toBe('blocked');
      }
      const lookup = answering('100.100.100.200');
      expect(await endOf(urlOf('cloud.example'), guardedAgent(open, { lookup }))).toBe('blocked');
    });

    it('as a control: without a guard, every spelling of loopback reaches the canary', async () => {
      for (const host of REACHING) {
        const before = canary.bytes();
        await endOf(urlOf(host), agentWith({ timeout: CONNECT_MS }));
        expect([host, canary.bytes() > before]).toEqual([host, true]);
      }
    });

    it('as a control: a guard in the lookup alone lets literals through', async () => {
      const lookup: net.LookupFunction = (host, _, callback) =>
        callback(new BlockedTargetError(host), []);
      const inLookup = () => agentWith({ lookup, timeout: CONNECT_MS });
      expect(await endOf(urlOf('localhost'), inLookup())).toBe('blocked');
      expect(canary.connections()).toBe(0);
      for (const host of REACHING.filter((name) => !/localhost/i.test(name))) {
        const before = canary.bytes();
        await endOf(urlOf(host), inLookup());
        expect([host, canary.bytes() > before]).toEqual([host, true]);
      }
    });
  });

  it('reaches what is allowed, as an address and as a name', async () => {
    for (const host of ['127.0.0.1', '2130706433', '[::ffff:127.0.0.1]', 'localhost']) {
      const url = `http://${host}:${canary.port}/`;
      expect([host, await endOf(url, guardedAgent(LOOPBACK_ALLOWED))]).toEqual([host, 204]);
    }
    const named = guardedAgent(LOOPBACK_ALLOWED, { lookup: answering('127.0.0.1') });
    expect(await endOf(`http://hooks.example:${canary.port}/`, named)).toBe(204);
  });

  it('tries the next address of a name when one does not answer', async () => {
    const lookup = answering('127.0.0.2', '127.0.0.1');
    const agent = guardedAgent(LOOPBACK_ALLOWED, { lookup });
    expect(await endOf(`http://hooks.example:${canary.port}/`, agent)).toBe(204);
  });

  it.each([301, 302, 303, 307, 308])('leaves a %i where it is', async (status) => {
    const location = `http://127.0.0.1:${canary.port}/`;
    const server = http.createServer((_, response) =>
      response.writeHead(status, { location }).end(),
    );
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    expect(await post(`http://127.0.0.1:${port}/`, guardedAgent(LOOPBACK_ALLOWED))).toBe(status);
    expect(canary.connections()).toBe(0);
    server.close();
  });
});

describe('connectFailureOf', () => {
  const failing =
    (code: string): LookupAll =>
    async () =>
      Promise.reject(Object.assign(new Error(`getaddrinfo ${code}`), { code }));

  it.each(['ENOTFOUND', 'EAI_AGAIN', 'ESERVFAIL'])('calls %s of a lookup dns', async (code) => {
    const agent = guardedAgent(STRICT, { lookup: failing(code) });
    await expect(post('https://hooks.example/', agent)).rejects.toMatchObject({
      message: `getaddrinfo ${code}`,
      cause: { code },
    });
    expect(await endOf('https://hooks.example/', agent)).toBe('dns');
  });

  it('calls a name without addresses dns', async () => {
    const agent = guardedAgent(STRICT, { lookup: answering() });
    expect(await endOf('http://hooks.example/', agent)).toBe('dns');
  });

  it.each(['http:', 'https:'])('calls a refused connection connect, over %s', async (protocol) => {
    const { port, close } = await openCanary();
    close();
    const agent = guardedAgent(LOOPBACK_ALLOWED);
    expect(await endOf(`${protocol}//127.0.0.1:${port}/`, agent)).toBe('connect');
    const lookup = answering('127.0.0.1', '127.0.0.2');
    const named = guardedAgent(LOOPBACK_ALLOWED, { lookup });
    expect(await endOf(`${protocol}//hooks.example:${port}/`, named)).toBe('connect');
  });

  it('finds the failure behind what wraps it, and stops looking at some depth', () => {
    const blocked = new BlockedTargetError('localhost');
    const wrap = (cause: Error) => new TypeError('fetch failed', { cause });
    expect(connectFailureOf(blocked)).toBe('blocked');
    expect(connectFailureOf(wrap(wrap(blocked)))).toBe('blocked');
    const ring = new Error('ring');
    ring.cause = ring;
    expect(connectFailureOf(ring)).toBeNull();
  });

  it.each([null, undefined, 'blocked', { code: 'blocked' }, new Error('other')])(
    'is null for %o',
    (error) => expect(connectFailureOf(error)).toBeNull(),
  );

  it('is null for a connection that breaks after the request was sent', async () => {
    const server = net.createServer((socket) =>
      socket.once('data', () => socket.resetAndDestroy()),
    );
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const sent = post(`http://127.0.0.1:${port}/`, guardedAgent(LOOPBACK_ALLOWED));
    const error = await sent.catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: expect.any(String) });
    expect(connectFailureOf(error)).toBeNull();
    server.close();
  });
});

describe('the connect timer', () => {
  const short = { connectTimeoutMs: 100 };

  it('covers a name that never resolves', async () => {
    const lookup = () => new Promise<never>(() => undefined);
    const agent = guardedAgent(STRICT, { ...short, lookup });
    expect(await endOf('https://hooks.example/', agent)).toBe('timeout');
  });

  it('covers a TLS handshake that is never answered', async () => {
    const sockets: net.Socket[] = [];
    const server = net.createServer((socket) => {
      sockets.push(socket);
      socket.on('error', () => undefined).resume();
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const agent = guardedAgent(LOOPBACK_ALLOWED, short);
    expect(await endOf(`https://127.0.0.1:${port}/`, agent)).toBe('timeout');
    const [socket] = sockets;
    if (socket?.closed === false) await once(socket, 'close');
    expect(sockets).toHaveLength(1);
    server.close();
  });

  it('has told its end once when the name resolves later', async () => {
    let answer: (addresses: Awaited<ReturnType<LookupAll>>) => void = () => undefined;
    const lookup: LookupAll = () =>
      new Promise((resolve) => {
        answer = resolve;
      });
    const connect = guardedConnector(LOOPBACK_ALLOWED, { ...short, lookup });
    const canary = await openCanary();
    const callback = vi.fn();
    const target = { hostname: 'hooks.example', protocol: 'http:', port: String(canary.port) };
    await new Promise<void>((resolve) =>
      connect(target, (...result) => {
        callback(...result);
        resolve();
      }),
    );
    answer([{ address: '127.0.0.1', family: 4 }]);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(callback).toHaveBeenCalledTimes(1);
    expect(canary.connections()).toBe(0);
    canary.close();
  });

  it('does not end a connection that was made in time, which is told once', async () => {
    const canary = await openCanary();
    const connect = guardedConnector(LOOPBACK_ALLOWED, { connectTimeoutMs: 100 });
    const callback = vi.fn();
    connect({ hostname: '127.0.0.1', protocol: 'http:', port: String(canary.port) }, callback);
    await new Promise((resolve) => setTimeout(resolve, 250));
    expect(callback).toHaveBeenCalledTimes(1);
    const [error, socket] = callback.mock.calls[0] as [null, net.Socket];
    expect(error).toBeNull();
    expect(socket.destroyed).toBe(false);
    // Undici listens from here on; an error of a connection in use is no second answer.
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.destroy(new Error('reset'));
    await closed;
    expect(callback).toHaveBeenCalledTimes(1);
    canary.close();
  });
});

const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
if (!hasOpenssl) console.warn('openssl is not installed: the tests over TLS are skipped');

describe.skipIf(!hasOpenssl)('certificates', () => {
  type Pair = Readonly<{ cert: string; key: string }>;
  const directory = mkdtempSync(join(tmpdir(), 'mailguard-webhooks-'));
  const fileOf = (name: string) => join(directory, name);
  const openssl = (...args: string[]) =>
    execFileSync('openssl', args, { stdio: 'ignore', cwd: directory });
  const EC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

  function selfSigned(name: string, ...more: string[]): Pair {
    const files = ['-keyout', `${name}.key`, '-out', `${name}.pem`];
    openssl('req', '-x509', ...EC, '-days', '1', '-subj', `/CN=${name}`, ...files, ...more);
    return read(name);
  }
  const read = (name: string): Pair => ({
    cert: readFileSync(fileOf(`${name}.pem`), 'utf8'),
    key: readFileSync(fileOf(`${name}.key`), 'utf8'),
  });

  let trusted: Pair;
  let untrusted: Pair;
  let otherName: Pair;
  let expired: Pair;
  let issued: Pair;
  beforeAll(() => {
    const san = (names: string) => ['-addext', `subjectAltName=${names}`];
    trusted = selfSigned('hooks.example', ...san('DNS:hooks.example,IP:127.0.0.1'));
    untrusted = selfSigned('untrusted', ...san('DNS:hooks.example'));
    otherName = selfSigned('other.example', ...san('DNS:other.example'));
    openssl('req', ...EC, '-subj', '/CN=old', '-keyout', 'old.key', '-out', 'old.csr');
    // `x509 -req` takes a negative number of days: the certificate ended yesterday.
    const own = ['-signkey', 'old.key', '-out', 'old.pem'];
    openssl('x509', '-req', '-in', 'old.csr', '-days', '-1', ...own);
    expired = read('old');
    openssl('req', ...EC, '-subj', '/CN=leaf', '-keyout', 'leaf.key', '-out', 'leaf.csr');
    const authority = ['-CA', 'untrusted.pem', '-CAkey', 'untrusted.key', '-CAcreateserial'];
    openssl('x509', '-req', '-in', 'leaf.csr', '-days', '1', ...authority, '-out', 'leaf.pem');
    issued = read('leaf');
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  type Receiver = Readonly<{
    port: number;
    requests: () => number;
    names: readonly (string | false | null)[];
    resumed: readonly boolean[];
  }>;
  const servers: https.Server[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
  });
  async function receive(pair: Pair, options: tls.TlsOptions = {}): Promise<Receiver> {
    let requests = 0;
    const names: (string | false | null)[] = [];
    const resumed: boolean[] = [];
    const server = https.createServer({ ...pair, ...options }, (_, response) =>
      response.writeHead(204).end(),
    );
    servers.push(server);
    server.on('secureConnection', (socket: tls.TLSSocket & { servername?: string | false }) => {
      names.push(socket.servername ?? null);
      resumed.push(socket.isSessionReused());
      socket.on('data', () => {
        requests += 1;
      });
    });
    server.on('tlsClientError', () => undefined);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    return { port, requests: () => requests, names, resumed };
  }
  const lookup = answering('127.0.0.1');
  const agentTrusting = (...ca: readonly string[]) =>
    guardedAgent(LOOPBACK_ALLOWED, { lookup, ca });

  it('of a trusted authority let the request through, with the name in SNI', async () => {
    const receiver = await receive(trusted);
    const agent = agentTrusting(trusted.cert);
    expect(await endOf(`https://hooks.example:${receiver.port}/`, agent)).toBe(204);
    expect(receiver.names).toEqual(['hooks.example']);
  });

  it('are judged without the final dot of a name', async () => {
    const receiver = await receive(trusted);
    const agent = agentTrusting(trusted.cert);
    expect(await endOf(`https://hooks.example.:${receiver.port}/`, agent)).toBe(204);
    expect(receiver.names).toEqual(['hooks.example']);
  });

  it('may name an address, for which there is no SNI', async () => {
    const receiver = await receive(trusted);
    const agent = agentTrusting(trusted.cert);
    expect(await endOf(`https://127.0.0.1:${receiver.port}/`, agent)).toBe(204);
    expect(receiver.names).toEqual([false]);
  });

  it.each([
    ['hooks.example', 'hooks.example'],
    ['127.0.0.1', false],
  ])('go with the host of the URL, %s, and not with a header', async (host, name) => {
    const receiver = await receive(trusted);
    const { statusCode, body } = await request(`https://${host}:${receiver.port}/`, {
      dispatcher: agentTrusting(trusted.cert),
      headers: { host: 'other.example' },
    });
    await body.dump();
    expect(statusCode).toBe(204);
    expect(receiver.names).toEqual([name]);
  });

  it.each([
    ['self-signed', () => untrusted, 'DEPTH_ZERO_SELF_SIGNED_CERT'],
    ['of an unknown authority', () => issued, 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'],
    ['with another name', () => otherName, 'ERR_TLS_CERT_ALTNAME_INVALID'],
    ['expired', () => expired, 'CERT_HAS_EXPIRED'],
  ])('that are %s end the connection before the request', async (_, pairOf, code) => {
    const receiver = await receive(pairOf());
    const agent = agentTrusting(otherName.cert, expired.cert);
    const url = `https://hooks.example:${receiver.port}/`;
    await expect(post(url, agent)).rejects.toMatchObject({ cause: { code } });
    expect(await endOf(url, agent)).toBe('certificate');
    expect(receiver.requests()).toBe(0);
  });

  it('are verified also where NODE_TLS_REJECT_UNAUTHORIZED says otherwise', async () => {
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
    const receiver = await receive(untrusted);
    const url = `https://hooks.example:${receiver.port}/`;
    const unguarded = agentWith({ host: '127.0.0.1', lookup: loopback });
    expect(await endOf(url, unguarded)).toBe(204);
    const before = receiver.requests();
    expect(await endOf(url, agentTrusting())).toBe('certificate');
    expect(receiver.requests()).toBe(before);
    vi.unstubAllEnvs();
  });
  const loopback: net.LookupFunction = (_host, _options, callback) =>
    callback(null, [{ address: '127.0.0.1', family: 4 }]);

  it.each([
    ['plain text', (socket: net.Socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')],
    ['the end', (socket: net.Socket) => socket.once('data', () => socket.end())],
    ['a reset', (socket: net.Socket) => socket.once('data', () => socket.resetAndDestroy())],
  ])('are not what is wrong when a handshake is answered with %s', async (_, answer) => {
    const server = net.createServer((socket) => {
      socket.on('error', () => undefined);
      answer(socket);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    expect(await endOf(`https://hooks.example:${port}/`, agentTrusting())).toBe('tls');
    server.close();
  });

  it('are not what is wrong when the receiver speaks only an old TLS', async () => {
    const old = {
      minVersion: 'TLSv1',
      maxVersion: 'TLSv1.1',
      ciphers: 'DEFAULT@SECLEVEL=0',
    } as const;
    const receiver = await receive(trusted, old);
    const agent = agentTrusting(trusted.cert);
    expect(await endOf(`https://hooks.example:${receiver.port}/`, agent)).toBe('tls');
  });

  it.each(['TLSv1.2', 'TLSv1.3'] as const)(
    'are sent once: the next connection resumes the session (%s)',
    async (maxVersion) => {
      const receiver = await receive(trusted, { maxVersion });
      const options = { connectTimeoutMs: CONNECT_MS, lookup, ca: [trusted.cert] };
      const connector = guardedConnector(LOOPBACK_ALLOWED, options);
      const sessions: Buffer[] = [];
      // Undici's cache holds sessions weakly; held here, none is collected in between.
      const connect: buildConnector.connector = (target, callback) =>
        connector(target, (...result) => {
          const [, socket] = result;
          const session = socket instanceof tls.TLSSocket ? socket.getSession() : undefined;
          if (session !== undefined) sessions.push(session);
          socket?.on('session', (later: Buffer) => sessions.push(later));
          callback(...result);
        });
      for (let round = 0; round < 3; round += 1) {
        const agent = agentWith(connect);
        expect(await endOf(`https://hooks.example:${receiver.port}/`, agent)).toBe(204);
        await agent.destroy();
      }
      expect(receiver.resumed[0]).toBe(false);
      expect(receiver.resumed.slice(1)).toEqual([true, true]);
    },
  );
});
