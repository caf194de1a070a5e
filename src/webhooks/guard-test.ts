import { once } from 'node:events';
import net from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { addressPolicy } from './addresses.ts';
import { connectFailureOf, guardedConnector } from './connector.ts';

const FAILED = 'The guard of webhook deliveries against private addresses does not work';
const CONNECT_MS = 1_000;
const ATTEMPT_MS = 1_500;
/** The listener's own address, as people and attackers write it. */
const SPELLINGS = [
  '127.0.0.1',
  '127.1',
  '2130706433',
  '0x7f000001',
  '0177.0.0.1',
  '[::ffff:127.0.0.1]',
  'localhost',
  'localhost.',
];
/** What a URL is before it is parsed, in case a caller hands a host over that never was. */
const UNPARSED = ['::ffff:7f00:1', '[::ffff:7f00:1]'];

type Attempt = Readonly<{ protocol: string; host: string; spelling: string }>;

/**
 * The self-test at boot: resolves when no connection can be made to this host's loopback interface
 * in any spelling, over HTTP or HTTPS, and rejects with an Error that names the attempt when one
 * can, or fails for another reason than the guard. Takes two seconds at most; leaves nothing open.
 */
export async function testGuard(connectorOf = guardedConnector): Promise<void> {
  let reached = 0;
  const listener = net.createServer((socket) => {
    reached += 1;
    socket.on('error', () => undefined).destroy();
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as net.AddressInfo;
  // Names are answered here: the system's resolver must not decide whether the gateway starts.
  const lookup = async () => [{ address: '127.0.0.1', family: 4 }];
  const connect = connectorOf(addressPolicy([]), { connectTimeoutMs: CONNECT_MS, lookup });
  try {
    const attempts = ['http:', 'https:'].flatMap((protocol) => attemptsOver(protocol));
    const ends = await Promise.all(attempts.map((attempt) => endOf(connect, attempt, port)));
    // A connection may be made and not yet accepted; the event loop looks between two turns.
    await nextTurn();
    await nextTurn();
    const failed = ends.find((end) => end !== null);
    if (failed !== undefined) throw new Error(`${FAILED}: ${failed}`);
    if (reached > 0) throw new Error(`${FAILED}: the loopback listener was reached`);
  } finally {
    listener.close();
  }
}

function attemptsOver(protocol: string): Attempt[] {
  const parsed = SPELLINGS.map((spelling) => {
    // As undici hands hosts over: parsed, and without brackets.
    const host = new URL(`${protocol}//${spelling}`).hostname.replace(/^\[|\]$/g, '');
    return { protocol, host, spelling };
  });
  return [...parsed, ...UNPARSED.map((host) => ({ protocol, host, spelling: host }))];
}

/** Null for an attempt that was blocked, else what happened. */
function endOf(
  connect: ReturnType<typeof guardedConnector>,
  { protocol, host, spelling }: Attempt,
  port: number,
): Promise<string | null> {
  return new Promise((resolve) => {
    const end = (what: string | null) => {
      clearTimeout(timer);
      resolve(what === null ? null : `${protocol}//${spelling} ${what}`);
    };
    const timer = setTimeout(() => end('was not answered'), ATTEMPT_MS);
    connect({ protocol, hostname: host, host, port: String(port) }, (error, socket) => {
      socket?.on('error', () => undefined).destroy();
      if (error === null) end('was connected');
      else if (connectFailureOf(error) === 'blocked') end(null);
      else end(`failed, but not by the guard: ${error.message}`);
    });
  });
}
