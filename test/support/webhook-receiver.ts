import { createHash } from 'node:crypto';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';

/** One POST as it arrived. */
export type Received = Readonly<{
  id: string;
  path: string;
  headers: http.IncomingHttpHeaders;
  body: string;
  /** SHA-256 of the body, in hex. */
  digest: string;
  payload: any;
  /** Arrived at, by the receiver's own clock. */
  atMs: number;
}>;

export type Answering = Readonly<{
  status?: number;
  headers?: Record<string, string>;
  body?: string;
  afterMs?: number;
  /** Never answers. */
  silent?: true;
}>;

/** Says what to answer; the default is 200 at once. */
export type Behaviour = (received: Received, index: number) => Answering | Promise<Answering>;

export type Receiver = Readonly<{
  url: string;
  port: number;
  received: Received[];
  behave: (behaviour: Behaviour) => void;
  /** Events by the order of their first arrival. */
  ids: () => readonly string[];
  /** Resolves when so many POSTs have arrived, or throws after a time. */
  until: (count: number, timeoutMs?: number) => Promise<void>;
  /** Verifies as an independent library does; throws for a bad signature. */
  verify: (secret: string, received: Received) => void;
  /** POSTs that are being answered. */
  open: () => number;
  close: () => Promise<void>;
}>;

const UNTIL_MS = 15_000;

/** A real HTTP server on loopback that keeps what it is sent. */
export async function startReceiver(behaviour: Behaviour = () => ({})): Promise<Receiver> {
  const received: Received[] = [];
  let behave = behaviour;
  let open = 0;
  const waiting = new Set<() => void>();
  const server = http.createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      open += 1;
      response.on('close', () => {
        open -= 1;
      });
      const bytes = Buffer.concat(chunks);
      const body = bytes.toString('utf8');
      const one: Received = {
        id: String(request.headers['webhook-id']),
        path: request.url ?? '',
        headers: request.headers,
        body,
        digest: createHash('sha256').update(bytes).digest('hex'),
        payload: JSON.parse(body),
        atMs: performance.now(),
      };
      received.push(one);
      for (const wake of waiting) wake();
      void answer(response, behave(one, received.length - 1));
    });
  });
  server.keepAliveTimeout = 60_000;
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/hook`,
    port,
    received,
    behave(next) {
      behave = next;
    },
    ids: () => [...new Set(received.map(({ id }) => id))],
    async until(count, timeoutMs = UNTIL_MS) {
      const deadline = performance.now() + timeoutMs;
      while (received.length < count) {
        const leftMs = deadline - performance.now();
        if (leftMs <= 0) throw new Error(`${received.length} of ${count} have arrived`);
        await new Promise<void>((resolve) => {
          const done = () => {
            clearTimeout(timer);
            waiting.delete(done);
            resolve();
          };
          const timer = setTimeout(done, leftMs);
          waiting.add(done);
        });
      }
    },
    verify(secret, { body, headers }) {
      new Webhook(secret).verify(body, headers as Record<string, string>);
    },
    open: () => open,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function answer(
  response: http.ServerResponse,
  answering: Answering | Promise<Answering>,
): Promise<void> {
  const { status = 200, headers = {}, body = '', afterMs = 0, silent } = await answering;
  if (silent === true) return;
  if (afterMs > 0) await new Promise((resolve) => setTimeout(resolve, afterMs));
  response.writeHead(status, headers);
  response.end(body);
}

/** Settings under which deliveries may go to receivers of a test. */
export const LOOPBACK = {
  webhooks: { allowCidrs: ['127.0.0.0/8', '::1/128'], allowHttp: true },
} as const;
