import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export type PgProxy = Readonly<{
  /** The same database and user, by way of the proxy. */
  url: string;
  /**
   * Arms the proxy: the next `times` answers to `append_batch` are not handed on; the connection is cut
   * instead, when the server has committed and before the client can know.
   */
  cutAnswers: (times: number) => void;
  /** How many answers were cut so far. */
  cuts: () => number;
  /** Ends every connection and refuses new ones until `open`. */
  shut: () => void;
  open: () => void;
  /** Calls back at each cut, before anything else happens. */
  onCut: (then: () => void) => void;
  close: () => Promise<void>;
}>;

// ReadyForQuery of an idle session: in the extended protocol it follows the commit.
const READY = Buffer.from([0x5a, 0, 0, 0, 5, 0x49]);

/** A TCP proxy in front of a PostgreSQL server that listens on a socket or on an address. */
export async function startPgProxy(serverUrl: string): Promise<PgProxy> {
  const target = new URL(serverUrl);
  const host = target.searchParams.get('host');
  const port = Number(target.port || '5432');
  const dial = () =>
    host?.startsWith('/')
      ? connect({ path: `${host}/.s.PGSQL.${port}` })
      : connect({ host: host ?? target.hostname, port });
  const sockets = new Set<Socket>();
  let armed = 0;
  let cut = 0;
  let isShut = false;
  let tell: () => void = () => undefined;

  const server = createServer((client) => {
    if (isShut) {
      client.destroy();
      return;
    }
    const upstream = dial();
    let isAppending = false;
    const end = () => {
      client.destroy();
      upstream.destroy();
      sockets.delete(client);
      sockets.delete(upstream);
    };
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', end);
      socket.on('close', end);
    }
    client.on('data', (chunk: Buffer) => {
      isAppending ||= chunk.includes('append_batch');
      upstream.write(chunk);
    });
    upstream.on('data', (chunk: Buffer) => {
      const isDone = chunk.subarray(-READY.length).equals(READY);
      if (isDone && isAppending && armed > 0) {
        armed -= 1;
        cut += 1;
        tell();
        end();
        return;
      }
      if (isDone) isAppending = false;
      client.write(chunk);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = new URL(serverUrl);
  url.hostname = '127.0.0.1';
  url.port = String((server.address() as AddressInfo).port);
  url.searchParams.delete('host');
  const destroyAll = () => {
    for (const socket of [...sockets]) socket.destroy();
  };
  return {
    url: url.href,
    cutAnswers: (times) => {
      armed = times;
    },
    cuts: () => cut,
    shut() {
      isShut = true;
      destroyAll();
    },
    open: () => {
      isShut = false;
    },
    onCut: (then) => {
      tell = then;
    },
    async close() {
      destroyAll();
      server.close();
      await once(server, 'close');
    },
  };
}
