import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { describe } from 'vitest';
import { missingPrograms, startMailHost } from '../support/mail-host.ts';
import { startSmtpSink } from '../support/smtp-sink.ts';
import { type HoldPlace, holdQueueContract, type ToHold } from './hold-queue.contract.ts';

const FLAGS = { release: '-H', hold: '-h', discard: '-d', requeue: '-r' } as const;

const missing = missingPrograms();
if (missing.length > 0) {
  process.stdout.write(`the hold queue of Postfix is not tested: no ${missing.join(', ')}\n`);
}

describe.skipIf(missing.length > 0)('on this machine', () => {
  holdQueueContract('a real Postfix', openPostfix);
});

async function openPostfix(): Promise<HoldPlace> {
  const sink = await startSmtpSink({
    refuse: (to) => (to.startsWith('later@') ? { code: 451, text: '4.7.1 later please' } : null),
  });
  const host = await startMailHost({
    domain: 'shop.example',
    sink,
    // Nobody is there: what is announced is not what is tested here.
    exporter: { url: 'http://127.0.0.1:9/', password: 'a password for nobody' },
    // A filter thinks the worse of a message the less it says, and some say nothing.
    isRejectHeld: true,
    settings: {
      // What waits for a further try stays where it is while a test looks at it.
      ...{ queue_run_delay: '300s', minimal_backoff_time: '300s', maximal_backoff_time: '300s' },
      transport_maps: `inline:{ { shop.example = smtp:[${sink.host}]:${sink.port} }, { requeued.shop.example = smtp:[${sink.host}]:${sink.port} } }`,
    },
  });
  return {
    socket: host.socket,
    hold: (mail) => send(host.smtpPort, mail),
    console(verb, queueId) {
      const queue = verb === 'discard' || verb === 'requeue' ? ['hold'] : [];
      host.postfix('postsuper', [FLAGS[verb], '-', ...queue], `${queueId}\n`);
    },
    async stop() {
      await host.stop();
      await sink.stop();
    },
  };
}

/** Hands a message in by SMTP that the filter holds; the id that the server told. */
async function send(port: number, { sender = '', recipients = [], text = '' }: ToHold) {
  const socket = connect(port, '127.0.0.1');
  const dots = `X-Test-Score: quarantine\n${text}`.replace(/^\./gm, '..');
  const data = Buffer.from(`${dots.replaceAll('\n', '\r\n')}.\r\n`, 'latin1');
  const steps = [
    'EHLO client.example\r\n',
    `MAIL FROM:<${sender}> BODY=8BITMIME\r\n`,
    ...recipients.map((address) => `RCPT TO:<${address}>\r\n`),
    'DATA\r\n',
    data,
  ];
  const replies = repliesOf(socket);
  const next = async () => String((await replies.next()).value);
  let reply = await next();
  for (const step of steps) {
    socket.write(step);
    reply = await next();
    if (!/^[23]/.test(reply)) throw new Error(`the server says ${reply}`);
  }
  socket.end('QUIT\r\n');
  await once(socket, 'close');
  return /queued as (\S+)/.exec(reply)?.[1] ?? '';
}

/** The last line of each reply. */
async function* repliesOf(socket: Socket): AsyncGenerator<string> {
  for await (const line of createInterface({ input: socket })) {
    if (/^\d{3} /.test(line)) yield line;
  }
}
