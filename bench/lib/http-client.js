import { connect } from 'node:net';

const TIMEOUT_MS = 60_000;
const END_OF_HEAD = Buffer.from('\r\n\r\n');

/**
 * One keep-alive connection on a raw socket, one request at a time: costs less than what is measured.
 * Connects again when the server has closed it between two requests.
 * @typedef {{ status: number, head: string, body: Buffer }} Answer
 */
export function openConnection(port) {
  let socket = null;
  let waiting = null;
  let chunks = [];
  let length = 0;
  let head = '';
  /** Bytes of the answer under way, once its head is there. */
  let whole = null;

  function dial() {
    return new Promise((resolve, reject) => {
      const fresh = connect({ host: '127.0.0.1', port, noDelay: true });
      fresh.once('error', reject);
      fresh.once('connect', () => {
        fresh.setTimeout(TIMEOUT_MS, () => fresh.destroy());
        fresh.on('data', take);
        fresh.on('error', () => undefined);
        fresh.once('close', () => {
          if (socket === fresh) socket = null;
          [whole, chunks, length] = [null, [], 0];
          waiting?.reject(new Error('the connection was closed before the answer'));
          waiting = null;
        });
        socket = fresh;
        resolve();
      });
    });
  }

  function take(chunk) {
    chunks.push(chunk);
    length += chunk.length;
    if (whole === null) {
      const start = Buffer.concat(chunks);
      const end = start.indexOf(END_OF_HEAD);
      if (end === -1) return;
      head = start.toString('latin1', 0, end);
      whole = end + END_OF_HEAD.length + Number(/\ncontent-length: (\d+)/i.exec(head)?.[1]);
      if (Number.isNaN(whole)) {
        socket.destroy(new Error('an answer without a length'));
        return;
      }
    }
    if (length < whole) return;
    const body = Buffer.concat(chunks).subarray(head.length + END_OF_HEAD.length, whole);
    const answer = { status: Number(head.slice(9, 12)), head, body };
    const { resolve } = waiting;
    [waiting, whole, chunks, length] = [null, null, [], 0];
    if (/\nconnection: close/i.test(head)) socket.destroy();
    resolve(answer);
  }

  return {
    /** @returns {Promise<Answer>} */
    async ask(...request) {
      if (socket === null || socket.destroyed) await dial();
      return new Promise((resolve, reject) => {
        waiting = { resolve, reject };
        for (const bytes of request) socket.write(bytes);
      });
    },
    close: () => socket?.destroy(),
  };
}

/** The head of a request below /api/v1, for a connection to send. */
export function headOf(method, path, { key, headers = {}, bytes = 0 }) {
  const lines = Object.entries({ Host: 'localhost', 'X-API-Key': key, ...headers });
  if (method === 'POST') lines.push(['Content-Length', bytes]);
  const fields = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  return Buffer.from(`${method} /api/v1${path} HTTP/1.1\r\n${fields}\r\n`, 'latin1');
}

/** Calls the API with JSON on one connection; anything but one of the statuses is an error. */
export function openApi({ url, key }) {
  const connection = openConnection(Number(new URL(url).port));
  return {
    async call(method, path, body = null, statuses = [200, 201, 202]) {
      const bytes = Buffer.from(body === null ? '' : JSON.stringify(body));
      const headers = body === null ? {} : { 'Content-Type': 'application/json' };
      const head = headOf(method, path, { key, headers, bytes: bytes.length });
      const answer = await connection.ask(Buffer.concat([head, bytes]));
      if (!statuses.includes(answer.status)) {
        throw new Error(`${method} ${path}: ${answer.status} ${answer.body.toString('utf8')}`);
      }
      return { ...answer, data: JSON.parse(answer.body.toString('utf8')).data };
    },
    close: connection.close,
  };
}

/** The value of a header of an answer, or null. */
export const headerOf = ({ head }, name) =>
  new RegExp(`\n${name}: ([^\r]*)`, 'i').exec(head)?.[1] ?? null;
