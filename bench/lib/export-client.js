import { connect } from 'node:net';

/**
 * One export over HTTP in a process of its own, on a raw socket: counts bytes and lines, looks at the
 * trailer, and otherwise costs as little of the machine as it can. Told what to do by message.
 * @typedef {{ port: number, key: string, path: string, gzip: boolean, slow?: { bytesPerSecond: number, forMs: number, stallMs: number } }} Order
 */

const BUFFER_BYTES = 1_048_576;
const TAIL_BYTES = 2_048;
const LF = 10;
const CR = 13;

process.on('message', (order) => {
  run(order).then(
    (found) => process.send({ found }),
    (error) => process.send({ error: String(error) }),
  );
});

/** @param {Order} order */
function run(order) {
  return new Promise((resolve, reject) => {
    const buffer = Buffer.allocUnsafe(BUFFER_BYTES);
    const found = { bytes: 0, lines: 0, seconds: 0, isWhole: false, trailer: '', head: '' };
    let tail = Buffer.alloc(0);
    let isFinished = false;
    const begun = performance.now();
    const finish = () => {
      if (isFinished) return;
      isFinished = true;
      found.seconds = (performance.now() - begun) / 1_000;
      // The last chunk of a chunked answer is empty; an answer that was cut has none.
      found.isWhole = tail.toString('latin1').endsWith('0\r\n\r\n');
      found.trailer = /\{"trailer":.*\}/.exec(tail.toString('latin1'))?.[0] ?? '';
      socket.destroy();
      resolve(found);
    };
    const take = (size) => {
      const bytes = buffer.subarray(0, size);
      if (found.bytes === 0) found.head = bytes.toString('latin1', 0, 15);
      found.bytes += size;
      // A line of compressed bytes means nothing.
      if (!order.gzip) found.lines += countLines(bytes, tail);
      tail = Buffer.concat([tail, bytes.subarray(Math.max(0, size - TAIL_BYTES))]).subarray(
        -TAIL_BYTES,
      );
      if (tail.subarray(-5).equals(END)) finish();
      return true;
    };
    const slow = order.slow === undefined ? null : throttle(order.slow, finish);
    const socket = connect({
      host: '127.0.0.1',
      port: order.port,
      onread: {
        buffer,
        callback: (size) => take(size) && (slow === null || slow.took(size, socket)),
      },
    });
    socket.once('error', reject);
    socket.once('close', finish);
    socket.write(
      `GET ${order.path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: ${order.key}\r\n` +
        `Accept: application/x-ndjson\r\n${order.gzip ? 'Accept-Encoding: gzip\r\n' : ''}\r\n`,
    );
  });
}

const END = Buffer.from('0\r\n\r\n');

/** Line ends of the lines, told from those of the chunked coding by the CR before these. */
function countLines(bytes, before) {
  let lines = bytes[0] === LF && before.at(-1) !== CR ? 1 : 0;
  for (let at = bytes.indexOf(LF); at !== -1; at = bytes.indexOf(LF, at + 1)) {
    if (at > 0 && bytes[at - 1] !== CR) lines += 1;
  }
  return lines;
}

/** Takes bytes at a rate for a while, then none for a while, then hangs up. */
function throttle({ bytesPerSecond, forMs, stallMs }, finish) {
  const begun = performance.now();
  let taken = 0;
  setTimeout(finish, forMs + stallMs);
  return {
    took(size, socket) {
      taken += size;
      const elapsed = performance.now() - begun;
      const aheadMs = (taken / bytesPerSecond) * 1_000 - elapsed;
      if (elapsed >= forMs) return false;
      if (aheadMs <= 0) return true;
      setTimeout(() => {
        if (performance.now() - begun < forMs) socket.resume();
      }, aheadMs);
      return false;
    },
  };
}
