import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { serveOrders } from './worker.js';

/**
 * Endpoints of webhooks in a process of their own, on raw sockets, so that they cost less of the machine than what
 * is measured. While it counts, an arrival is a look into a table; signatures, sequences and duplicates of all
 * arrivals are looked at afterwards.
 */

const END_OF_HEAD = Buffer.from('\r\n\r\n');
const ANSWER = Buffer.from('HTTP/1.1 204 No Content\r\n\r\n');
const REFUSAL = Buffer.from('HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n');
const REFUSAL_MS = 1_000;

/** What an endpoint does with a request. One that refuses connections is closed as soon as its port is known. */
const KINDS = {
  well: (socket) => socket.write(ANSWER),
  silent: () => undefined,
  failing: (socket) => setTimeout(() => socket.destroyed || socket.write(REFUSAL), REFUSAL_MS),
  refusing: () => undefined,
};

const endpoints = [];
let watch = null;

/** The clock that all processes of a machine share, in milliseconds. */
const now = () => Number(process.hrtime.bigint()) / 1e6;

async function openEndpoint(kind) {
  const endpoint = { arrivals: [], sockets: new Set(), index: endpoints.length };
  endpoints.push(endpoint);
  const server = createServer({ noDelay: true }, (socket) => {
    endpoint.sockets.add(socket);
    socket.on('close', () => endpoint.sockets.delete(socket));
    socket.on('error', () => undefined);
    serve(socket, endpoint, KINDS[kind]);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  if (kind === 'refusing') server.close();
  return { endpoint: endpoint.index, url: `http://127.0.0.1:${port}/hooks/mailguard` };
}

/** One request after the other on a connection, as senders do that do not pipeline. */
function serve(socket, endpoint, answer) {
  let pending = null;
  socket.on('data', (chunk) => {
    const request = pending === null ? chunk : Buffer.concat([pending, chunk]);
    pending = request;
    const end = request.indexOf(END_OF_HEAD);
    if (end === -1) return;
    const head = request.latin1Slice(0, end);
    const start = end + END_OF_HEAD.length;
    if (request.length < start + Number(headerOf(head, 'content-length'))) return;
    pending = null;
    take(endpoint, head, request.subarray(start));
    answer(socket);
  });
}

function headerOf(head, name) {
  const start = head.indexOf(`\r\n${name}: `);
  if (start === -1) return '';
  const from = start + name.length + 4;
  const end = head.indexOf('\r\n', from);
  return end === -1 ? head.slice(from) : head.slice(from, end);
}

function take(endpoint, head, body) {
  const at = now();
  const id = headerOf(head, 'webhook-id');
  endpoint.arrivals.push({ id, at, head, body });
  const seen = watch?.seen.get(endpoint.index);
  if (seen === undefined) return;
  if (watch.ids === null) {
    watch.left -= 1;
  } else {
    const n = watch.ids.get(id);
    if (n === undefined || seen[n] === 1) return;
    seen[n] = 1;
    watch.left -= 1;
  }
  if (watch.left > 0) return;
  watch.lastAt ??= at;
  watch.tell?.();
}

/** Begins anew: what is waited for are these ids, or so many requests, at each of these endpoints. */
function expect({ endpoints: watched, ids = null, count = ids.length }) {
  for (const endpoint of endpoints) endpoint.arrivals = [];
  watch = {
    ids: ids === null ? null : new Map(ids.map((id, n) => [id, n])),
    seen: new Map(watched.map((index) => [index, new Uint8Array(ids === null ? 0 : count)])),
    left: count * watched.length,
    lastAt: null,
    tell: null,
  };
}

function wait({ ms }) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(
      () => reject(new Error(`${watch.left} deliveries have not come in ${ms} ms`)),
      ms,
    );
    watch.tell = () => {
      clearTimeout(late);
      resolve({ lastAt: watch.lastAt });
    };
    if (watch.left <= 0) watch.tell();
  });
}

/** Everything about what came to one endpoint, each signature verified. */
function check({ endpoint, secret, first }) {
  const key = Buffer.from(secret.slice('whsec_'.length), 'base64');
  const { arrivals } = endpoints[endpoint];
  const seen = watch.seen.get(endpoint);
  const ids = new Set();
  const sequences = new Set();
  const found = { received: arrivals.length, doubled: 0, wrong: 0, bytes: 0 };
  for (const { id, head, body } of arrivals) {
    if (ids.has(id)) found.doubled += 1;
    ids.add(id);
    const payload = JSON.parse(body.toString('utf8'));
    sequences.add(payload.sequence);
    found.bytes += body.length;
    const content = `${id}.${headerOf(head, 'webhook-timestamp')}.`;
    const signature = createHmac('sha256', key).update(content).update(body).digest('base64');
    const isSigned = headerOf(head, 'webhook-signature') === `v1,${signature}`;
    if (!isSigned || payload.id !== id) found.wrong += 1;
  }
  const highest = [...sequences].reduce((max, one) => Math.max(max, one), first - 1);
  const lost = seen.reduce((sum, was) => sum + (was === 1 ? 0 : 1), 0);
  return { ...found, lost, gaps: highest - first + 1 - sequences.size };
}

serveOrders({
  open: async ({ kinds }) => {
    const opened = [];
    for (const kind of kinds) opened.push(await openEndpoint(kind));
    return opened;
  },
  expect,
  wait,
  check,
  arrivals: ({ endpoint }) => endpoints[endpoint].arrivals.map(({ id, at }) => [id, at]),
  /** What is under way nowhere ends by itself. */
  hangUp: () => {
    for (const { sockets } of endpoints) for (const socket of sockets) socket.destroy();
  },
});
