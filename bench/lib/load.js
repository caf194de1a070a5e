import { connect } from 'node:net';
import { percentile } from './stats.js';

/**
 * Load over HTTP from a process of its own: one request at a time on each of some raw keep-alive
 * connections, so that it costs less of the machine than what is measured. Told what to do by message.
 * @typedef {{ port: number, path: string, connections: number, seconds: number, keys: string[],
 *   keyPerRequest: boolean, end: string }} Order
 */

process.on('message', (order) => {
  run(order).then(
    (found) => process.send({ found }),
    (error) => process.send({ error: String(error) }),
  );
});

/** @param {Order} order */
async function run(order) {
  const state = { isOver: false, latencies: [], failed: 0 };
  const requests = order.keys.map((key) => requestOf(order, key));
  if (requests.length === 0) requests.push(requestOf(order, null));
  const opened = await Promise.all(
    Array.from({ length: order.connections }, () => open(order.port)),
  );
  const begun = performance.now();
  setTimeout(() => {
    state.isOver = true;
  }, order.seconds * 1_000);
  await Promise.all(opened.map((socket, i) => drive(socket, { order, requests, state, first: i })));
  const seconds = (performance.now() - begun) / 1_000;
  const sorted = Float64Array.from(state.latencies).sort();
  return {
    requests: sorted.length,
    failed: state.failed,
    rate: sorted.length / seconds,
    p50: percentile(sorted, 0.5),
    p99: percentile(sorted, 0.99),
  };
}

const requestOf = ({ path }, key) =>
  Buffer.from(
    `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${key === null ? '' : `X-API-Key: ${key}\r\n`}\r\n`,
  );

function open(port) {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    socket.once('error', reject);
    socket.once('connect', () => resolve(socket));
  });
}

function drive(socket, { order, requests, state, first }) {
  const { keyPerRequest } = order;
  const end = Buffer.from(order.end);
  const own = requests[first % requests.length];
  const pick = () => (keyPerRequest ? requests[(Math.random() * requests.length) | 0] : own);
  return new Promise((resolve, reject) => {
    let begun = performance.now();
    let pending = null;
    socket.once('close', () => reject(new Error('a connection was closed')));
    socket.on('data', (chunk) => {
      const answer = pending === null ? chunk : Buffer.concat([pending, chunk]);
      // Every answer ends with the same bytes and is the only one under way on its connection.
      if (!answer.subarray(-end.length).equals(end)) {
        pending = answer;
        return;
      }
      pending = null;
      // "HTTP/1.1 200": a status is told by its three digits.
      if (answer[9] !== 50 || answer[10] !== 48 || answer[11] !== 48) state.failed += 1;
      const now = performance.now();
      state.latencies.push(now - begun);
      if (state.isOver) {
        socket.removeAllListeners('close');
        socket.destroy();
        resolve();
        return;
      }
      begun = now;
      socket.write(pick());
    });
    socket.write(pick());
  });
}
