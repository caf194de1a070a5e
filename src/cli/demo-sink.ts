import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { SMTPServer } from 'smtp-server';

/** A mail server that takes everything, counts it and keeps nothing. */
export type DemoSink = Readonly<{
  /** `host:port`, as backend servers are written. */
  address: string;
  /** Messages that arrived as a whole. */
  arrived: () => number;
  stop: () => Promise<void>;
}>;

const HOST = '127.0.0.1';
const CLOSE_MS = 2_000;

/** Listens on a free port of this machine. */
export async function startDemoSink(): Promise<DemoSink> {
  let arrived = 0;
  const server = new SMTPServer({
    name: 'demo-sink.test',
    disabledCommands: ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    closeTimeout: CLOSE_MS,
    onData(stream, _session, done) {
      stream.on('error', done);
      stream.on('end', () => {
        arrived += 1;
        done();
      });
      stream.resume();
    },
  });
  // Of connections that break; whoever has sent something finds out by itself.
  server.on('error', () => undefined);
  server.listen(0, HOST);
  await once(server.server, 'listening');
  const { port } = server.server.address() as AddressInfo;
  return {
    address: `${HOST}:${port}`,
    arrived: () => arrived,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
      }),
  };
}
