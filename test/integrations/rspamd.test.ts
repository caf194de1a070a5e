import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { createRspamd } from '../../src/integrations/rspamd.ts';

const MIB = 1_048_576;
const PASSWORD = 'q1-käse-secret';
const MESSAGE = Buffer.from('Subject: buy\r\n\r\nnow\r\n');

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
});

type Asked = Readonly<{ url: string; method: string; headers: NodeJS.Dict<unknown>; body: Buffer }>;
type Answer = (response: ServerResponse, request: IncomingMessage) => void;

/** A controller that reads the whole request, and then does as it is told. */
async function controller(answer: Answer) {
  const asked: Asked[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer);
    } catch {
      return;
    }
    const { url = '', method = '', headers } = request;
    asked.push({ url, method, headers, body: Buffer.concat(chunks) });
    answer(response, request);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  stops.push(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const open = () =>
    new Promise<number>((resolve) => server.getConnections((_, count) => resolve(count)));
  return { url, asked, open };
}

const answering =
  (status: number, text = ''): Answer =>
  (response) => {
    response.writeHead(status);
    response.end(text);
  };

async function learn(answer: Answer, kind: 'spam' | 'ham' = 'spam') {
  const { url } = await controller(answer);
  return await createRspamd({ url, password: PASSWORD, timeoutMs: 2_000 }).learn(
    kind,
    MESSAGE,
    MESSAGE.length,
  );
}

async function* chunks(...parts: readonly Uint8Array[]) {
  yield* parts;
}

const ALREADY = '{"error":"<x@y> has been already learned as spam, ignore it"}';

describe('a message to learn', () => {
  it.each(['spam', 'ham'] as const)('goes to rspamd as %s, byte for byte', async (kind) => {
    const { url, asked } = await controller(answering(200, '{"success":true}'));
    const rspamd = createRspamd({ url: `${url}/rspamd/`, password: PASSWORD });
    const bytes = chunks(MESSAGE.subarray(0, 3), MESSAGE.subarray(3));
    expect(await rspamd.learn(kind, bytes, MESSAGE.length)).toEqual({
      outcome: 'learned',
      status: 200,
      reply: '{"success":true}',
    });
    expect(asked).toMatchObject([
      {
        url: `/rspamd/learn${kind}`,
        method: 'POST',
        headers: {
          'content-length': String(MESSAGE.length),
          password: Buffer.from(PASSWORD).toString('latin1'),
        },
        body: MESSAGE,
      },
    ]);
  });

  it('goes without a password when there is none', async () => {
    const { url, asked } = await controller(answering(200));
    await createRspamd({ url, password: null }).learn('ham', MESSAGE, MESSAGE.length);
    expect(asked[0]?.headers).not.toHaveProperty('password');
  });

  it('is streamed: its source is asked for no more than the network takes', async () => {
    let given = 0;
    async function* large() {
      for (; given < 640; given += 1) yield Buffer.alloc(65_536, 'x');
    }
    const server = net.createServer((socket) => socket.pause().on('error', () => undefined));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const rspamd = createRspamd({ url, password: null, timeoutMs: 300 });
    expect(await rspamd.learn('spam', large(), 40 * MIB)).toMatchObject({ outcome: 'unavailable' });
    expect(given).toBeGreaterThan(0);
    expect(given).toBeLessThan(320);
    server.close();
  });
});

describe('the outcome', () => {
  it.each([
    [200, '{"success":true}', 'learned'],
    [200, '\u0000<html>garbage\r\n', 'learned'],
    [200, ALREADY, 'learned'],
    [208, ALREADY, 'already_known'],
    [204, '', 'refused'],
    [404, ALREADY, 'unavailable'],
    [400, '', 'unavailable'],
    [401, '{"success":true}', 'unavailable'],
    [201, '{"success":true}', 'unavailable'],
    [302, '', 'unavailable'],
    [500, '{"success":true}', 'unavailable'],
    [503, '', 'unavailable'],
  ])('of %i with %j is %s', async (status, text, outcome) => {
    const learned = await learn(answering(status, text));
    expect(learned).toMatchObject({ outcome, status });
    expect(learned.reply).not.toMatch(/\p{Cc}/u);
  });

  it('says what was answered, as far as it fits', async () => {
    const { reply } = await learn(answering(404, `no\r\n\tclassifier ${'😀'.repeat(1_000)}`));
    expect(reply).toMatch(/^no classifier 😀/u);
    expect(reply.length).toBeLessThanOrEqual(500);
    expect(Buffer.from(reply).toString()).toBe(reply);
  });

  it('is told by the status when the text breaks off', async () => {
    const learned = await learn((response) => {
      response.writeHead(200, { 'Content-Length': 1_000 });
      response.write('{"succ');
      setTimeout(() => response.destroy(), 20);
    });
    expect(learned).toEqual({ outcome: 'learned', status: 200, reply: '{"succ' });
  });

  it('does not wait for a text without end', async () => {
    const server = await controller((response) => {
      response.writeHead(208);
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536, 'x')));
      };
      response.on('drain', more);
      more();
    });
    const rspamd = createRspamd({ url: server.url, password: null });
    expect(await rspamd.learn('spam', MESSAGE, MESSAGE.length)).toEqual({
      outcome: 'already_known',
      status: 208,
      reply: 'x'.repeat(500),
    });
    await expect.poll(server.open).toBe(0);
  });
});

describe('no answer', () => {
  const unavailable = { outcome: 'unavailable', status: null };

  it('in time is unavailable, and the connection is closed', async () => {
    const server = await controller(() => undefined);
    const rspamd = createRspamd({ url: server.url, password: PASSWORD, timeoutMs: 100 });
    expect(await rspamd.learn('spam', MESSAGE, MESSAGE.length)).toEqual({
      ...unavailable,
      reply: 'no answer within 100 ms',
    });
    await expect.poll(server.open).toBe(0);
  });

  it('but a closed connection is unavailable', async () => {
    expect(await learn((_, request) => request.socket.destroy())).toMatchObject(unavailable);
  });

  it('but garbage is unavailable', async () => {
    expect(await learn((_, request) => request.socket.end('SSH-2.0-x\r\n'))).toMatchObject(
      unavailable,
    );
  });

  it('because nobody listens is unavailable', async () => {
    const { url } = await controller(answering(200));
    await stops.pop()?.();
    const learned = await createRspamd({ url, password: PASSWORD }).learn(
      'ham',
      MESSAGE,
      MESSAGE.length,
    );
    expect(learned).toMatchObject(unavailable);
    expect(learned.reply).toContain('ECONNREFUSED');
  });
});

describe('a message that is not what was said', () => {
  it.each([
    ['shorter', MESSAGE.length + 1],
    ['longer', MESSAGE.length - 1],
  ])('because it is %s is not learned', async (_, sizeBytes) => {
    const { url, asked } = await controller(answering(200));
    const rspamd = createRspamd({ url, password: null, timeoutMs: 2_000 });
    async function* dawdling() {
      yield* chunks(MESSAGE.subarray(0, 5), MESSAGE.subarray(5));
      await sleep(50);
    }
    const learned = await rspamd.learn('spam', dawdling(), sizeBytes);
    expect(learned).toMatchObject({ outcome: 'unavailable', status: null });
    expect(asked).toEqual([]);
  });

  it('because its source breaks is not learned', async () => {
    const { url, asked } = await controller(answering(200));
    async function* breaking() {
      yield MESSAGE.subarray(0, 5);
      throw new Error('bad sector');
    }
    const rspamd = createRspamd({ url, password: null, timeoutMs: 2_000 });
    expect(await rspamd.learn('spam', breaking(), MESSAGE.length)).toEqual({
      outcome: 'unavailable',
      status: null,
      reply: 'bad sector',
    });
    expect(asked).toEqual([]);
  });

  it('lets its source go when nobody takes it', async () => {
    const { url } = await controller(answering(200));
    await stops.pop()?.();
    let isClosed = false;
    const bytes: AsyncIterable<Uint8Array> = {
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: false, value: Buffer.alloc(65_536) }),
        return: async () => {
          isClosed = true;
          return { done: true, value: undefined };
        },
      }),
    };
    await createRspamd({ url, password: null }).learn('spam', bytes, 40 * MIB);
    await expect.poll(() => isClosed).toBe(true);
  });
});

describe('the password', () => {
  it('is not repeated when rspamd says it', async () => {
    const { reply } = await learn(answering(401, `wrong password ${PASSWORD}, go away`));
    expect(reply).toBe('wrong password [redacted], go away');
  });

  it('is not repeated when it cannot be sent', () => {
    const create = () =>
      createRspamd({ url: 'http://127.0.0.1:1', password: `${PASSWORD}\r\nX: 1` });
    expect(create).toThrow(/Invalid character/);
    expect(create).not.toThrow(new RegExp(PASSWORD));
  });
});
