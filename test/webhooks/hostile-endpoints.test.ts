import net from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { attemptsOf, happen, statsOf, subscribeTo } from '../support/deliveries.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import { caughtUp, eventually } from '../support/webhooks.ts';

const TIMEOUT_MS = 600;
const MIB = 1_048_576;

/** A server that says what it likes, byte by byte; it counts what it could send. */
async function startRaw(talk: (socket: net.Socket) => void) {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    socket.once('data', () => talk(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as net.AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/`,
    open: () => sockets.size,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

describe('an endpoint that means harm', () => {
  let t: TestGateway;
  let healthy: Receiver;
  beforeAll(async () => {
    t = await startTestGateway({ config: LOOPBACK, webhooks: { timeoutMs: TIMEOUT_MS } });
    healthy = await startReceiver();
  });
  afterAll(async () => {
    await t.close();
    await healthy.close();
  });

  const endless = (head: string, chunk: Buffer) => (socket: net.Socket) => {
    socket.write(head);
    const more = () => {
      while (!socket.destroyed && socket.write(chunk)) if (socket.destroyed) return;
    };
    socket.on('drain', more);
    more();
  };
  const drip = (head: string) => (socket: net.Socket) => {
    socket.write(head);
    const timer = setInterval(() => socket.write('x'), 100);
    socket.on('close', () => clearInterval(timer));
  };
  const bomb = gzipSync(Buffer.alloc(64 * MIB));

  it.each([
    ['an endless success', endless('HTTP/1.1 200 OK\r\n\r\n', Buffer.alloc(65_536)), 'delivered'],
    ['an endless refusal', endless('HTTP/1.1 500 No\r\n\r\n', Buffer.alloc(65_536)), 'http_error'],
    ['an endless head', endless('HTTP/1.1 200 OK\r\nx: ', Buffer.alloc(65_536, 'x')), 'no_answer'],
    ['a success of one byte now and then', drip('HTTP/1.1 200 OK\r\n\r\n'), 'timeout'],
    ['a refusal of one byte now and then', drip('HTTP/1.1 500 No\r\n\r\n'), 'http_error'],
    ['a head of one byte now and then', drip('HTTP/1.1 200 OK\r\nx: '), 'timeout'],
    [
      'a decompression bomb',
      (socket: net.Socket) => {
        const head = `HTTP/1.1 500 No\r\ncontent-encoding: gzip\r\ncontent-length: ${bomb.length}\r\n\r\n`;
        socket.write(head);
        socket.write(bomb);
      },
      'http_error',
    ],
    ['garbage', (socket: net.Socket) => socket.end('\u0000\u0001 hello'), 'no_answer'],
    ['a close', (socket: net.Socket) => socket.destroy(), 'no_answer'],
    ['a switch of protocols', (s: net.Socket) => s.write('HTTP/1.1 101 Sure\r\n\r\n'), 'no_answer'],
  ])('is done with in its time, in little memory, for %s', async (_, talk, outcome) => {
    const raw = await startRaw(talk);
    const before = process.memoryUsage().rss;
    const one = await subscribeTo(t, raw);
    const well = await subscribeTo(t, healthy);
    try {
      healthy.received.length = 0;
      const [id = ''] = await happen(t, 1);
      await eventually(async () => {
        const [first] = await attemptsOf(t, one, id);
        expect(first).toMatchObject({ outcome });
        expect(first.ms).toBeLessThan(TIMEOUT_MS + 500);
        expect(first.response?.length ?? 0).toBeLessThanOrEqual(500);
      });
      await healthy.until(1);
      await caughtUp(t, well.id);
      await eventually(async () => expect((await statsOf(t, one)).in_flight).toBe(0));
      expect((process.memoryUsage().rss - before) / MIB).toBeLessThan(64);
    } finally {
      await t.send('DELETE', `/webhooks/${one.id}`);
      await t.send('DELETE', `/webhooks/${well.id}`);
      await raw.close();
    }
  });

  it('keeps nothing of an answer that could be a secret or break a reader', async () => {
    const key = `nmg_${'a1'.repeat(32)}`;
    const receiver = await startReceiver(() => ({
      status: 500,
      body: `\u0007<b>${key}\r\n${'é'.repeat(600)}`,
    }));
    const one = await subscribeTo(t, receiver);
    const [id = ''] = await happen(t, 1);
    await eventually(async () => {
      const [first] = await attemptsOf(t, one, id);
      expect(first?.response).toMatch(/^<b>nmg_\[redacted\] é+$/);
      expect(first.response).toHaveLength(500);
    });
    await t.send('DELETE', `/webhooks/${one.id}`);
    await receiver.close();
  });
});
