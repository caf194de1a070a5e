import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { SMTPServer } from 'smtp-server';
import { serveOrders } from './worker.js';

/**
 * Mail servers that take everything, in a process of their own: real ones of `smtp-server`, which greet
 * after 100 ms to notice who talks too early, and small ones of our own that greet at once.
 */

const TRACE =
  /^Received: from quarantine by [^\r\n]+ with SMTP id ([0-9a-f-]{36});\r\n\t[^\r\n]+\r\n/;
const TRACE_BYTES_MAX = 1_024;
const MESSAGE_BYTES_MAX = 50_000_000;

/** What came since the last look. */
let deliveries = [];

serveOrders({
  /** Ports, in the order of the kinds. */
  start: ({ kinds }) => Promise.all(kinds.map((kind) => START[kind]())),
  count: () => deliveries.length,
  take() {
    const taken = deliveries;
    deliveries = [];
    return taken;
  },
});

/** Takes our own field off again: what is left must be the message. */
function keep(port, { from, to, raw }) {
  const [trace = '', id = null] = TRACE.exec(raw.toString('latin1', 0, TRACE_BYTES_MAX)) ?? [];
  const sha256 = createHash('sha256').update(raw.subarray(trace.length)).digest('hex');
  deliveries.push({ port, id, from, to, sha256 });
}

const START = {
  async real() {
    const server = new SMTPServer({
      disabledCommands: ['AUTH', 'STARTTLS'],
      disableReverseLookup: true,
      maxAllowedUnauthenticatedCommands: false,
      onData(stream, { envelope: { mailFrom, rcptTo } }, done) {
        const chunks = [];
        stream.on('data', (chunk) => chunks.push(chunk));
        stream.on('end', () => {
          const from = mailFrom === false ? '' : mailFrom.address;
          const to = rcptTo.map(({ address }) => address);
          keep(server.server.address().port, { from, to, raw: Buffer.concat(chunks) });
          done();
        });
      },
    });
    server.on('error', () => undefined);
    server.listen(0, '127.0.0.1');
    await once(server.server, 'listening');
    return server.server.address().port;
  },
  async small() {
    const server = createServer((socket) => serve(socket, server.address().port));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return server.address().port;
  },
};

const CRLF = Buffer.from('\r\n');
const END_OF_DATA = Buffer.from('\r\n.\r\n');

/** As much of RFC 5321 as a client needs that waits for every reply. */
function serve(socket, port) {
  let held = Buffer.alloc(0);
  let envelope = { from: '', to: [] };
  let isData = false;
  const answers = {
    EHLO: () => '250-sink\r\n250-SIZE 50000000\r\n250-8BITMIME\r\n250 SMTPUTF8',
    HELO: () => '250 sink',
    MAIL(line) {
      envelope = { from: addressIn(line), to: [] };
      return '250 2.1.0 OK';
    },
    RCPT(line) {
      envelope.to.push(addressIn(line));
      return '250 2.1.5 OK';
    },
    DATA() {
      isData = true;
      // The CRLF before the first line, so that a message that is empty ends, too.
      held = Buffer.concat([CRLF, held]);
      return '354 go on';
    },
    RSET: () => '250 2.0.0 OK',
    NOOP: () => '250 2.0.0 OK',
    QUIT: () => '221 2.0.0 bye',
  };
  socket.setNoDelay(true);
  socket.on('error', () => undefined);
  socket.write('220 sink ESMTP\r\n');
  socket.on('data', (chunk) => {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    if (held.length > MESSAGE_BYTES_MAX) socket.destroy();
    for (;;) {
      const at = held.indexOf(isData ? END_OF_DATA : CRLF);
      if (at === -1) return;
      const taken = held.subarray(0, at);
      held = held.subarray(at + (isData ? END_OF_DATA.length : CRLF.length));
      if (isData) {
        isData = false;
        keep(port, { ...envelope, raw: withoutDots(taken) });
        socket.write('250 2.0.0 OK\r\n');
        continue;
      }
      const line = taken.toString('utf8');
      const verb = line.slice(0, 4).toUpperCase();
      socket.write(`${answers[verb]?.(line) ?? '502 5.5.2 unknown'}\r\n`);
      if (verb === 'QUIT') socket.end();
    }
  });
}

const addressIn = (line) => /<([^>]*)>/.exec(line)?.[1] ?? '';

/** The message without the CRLF that was put before it and without stuffed dots, ended by its own CRLF. */
function withoutDots(taken) {
  const text = `${taken.toString('latin1')}\r\n`.replaceAll('\r\n.', '\r\n').slice(CRLF.length);
  return Buffer.from(text, 'latin1');
}
