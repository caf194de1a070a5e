import { once } from 'node:events';
import net, { type AddressInfo, type Socket } from 'node:net';

/** What the server does at one stage; `data` when the message comes next. */
export type Step = (socket: Socket, line: string) => 'data' | undefined;

export type Stage =
  | 'greeting'
  | 'ehlo'
  | 'helo'
  | 'starttls'
  | 'mail'
  | 'rcpt'
  | 'data'
  /** The first bytes of the message have arrived. */
  | 'body'
  /** The final dot has arrived. */
  | 'dot';

export const say =
  (...lines: readonly string[]): Step =>
  (socket) => {
    socket.write(lines.map((line) => `${line}\r\n`).join(''));
    return lines.at(-1)?.startsWith('354') ? 'data' : undefined;
  };
export const silent: Step = () => undefined;
export const close: Step = (socket) => {
  socket.destroy();
  return undefined;
};
export const sayAndClose =
  (line: string): Step =>
  (socket) => {
    socket.end(`${line}\r\n`);
    return undefined;
  };
/** One byte at a time. */
export const drip =
  (text: string, everyMs: number): Step =>
  (socket) => {
    let at = 0;
    const timer = setInterval(() => {
      if (at === text.length || socket.destroyed) clearInterval(timer);
      else socket.write(text.charAt(at++));
    }, everyMs);
    socket.once('close', () => clearInterval(timer));
    return undefined;
  };
/** For ever, as fast as they are read. */
export const endless =
  (text: string): Step =>
  (socket) => {
    const more = () => {
      while (!socket.destroyed && socket.write(text));
    };
    socket.on('drain', more);
    more();
    return undefined;
  };
/** By what the line has in it; 250 for any other. */
export const depending =
  (steps: Readonly<Record<string, Step>>): Step =>
  (socket, line) => {
    const found = Object.keys(steps).find((part) => line.includes(part));
    return (found === undefined ? say('250 ok') : steps[found]!)(socket, line);
  };

const HONEST: Readonly<Record<Stage, Step>> = {
  greeting: say('220 awkward ESMTP'),
  ehlo: say('250-awkward', '250 8BITMIME'),
  helo: say('250 awkward'),
  starttls: say('502 no'),
  mail: say('250 ok'),
  rcpt: say('250 ok'),
  data: say('354 go on'),
  body: silent,
  dot: say('250 taken'),
};

const VERBS: readonly (readonly [string, Stage])[] = [
  ['EHLO', 'ehlo'],
  ['HELO', 'helo'],
  ['STARTTLS', 'starttls'],
  ['MAIL', 'mail'],
  ['RCPT', 'rcpt'],
  ['DATA', 'data'],
];
const DOT = Buffer.from('\r\n.\r\n');

export type AwkwardSmtp = Readonly<{
  host: string;
  port: number;
  /** Every command line, over all connections. */
  lines: readonly string[];
  /** Whole messages as they were on the wire, with the final dot. */
  wire: readonly Buffer[];
  connections: () => number;
  /** Connections that have not been closed. */
  open: () => number;
  stop: () => Promise<void>;
}>;

/** A server that follows a script to the letter, and is honest where the script is silent. */
export async function startAwkwardSmtp(
  script: Partial<Record<Stage, Step>> = {},
): Promise<AwkwardSmtp> {
  const steps = { ...HONEST, ...script };
  const lines: string[] = [];
  const wire: Buffer[] = [];
  const sockets = new Set<Socket>();
  let connections = 0;

  function serve(socket: Socket): void {
    let rest = Buffer.alloc(0);
    let mode: 'command' | 'data' | 'body' = 'command';
    const readMessage = (): boolean => {
      if (mode === 'data' && rest.length > 0) {
        mode = 'body';
        steps.body(socket, '');
      }
      const at = rest.subarray(0, 3).equals(DOT.subarray(2)) ? -2 : rest.indexOf(DOT);
      if (at === -1) return false;
      wire.push(rest.subarray(0, at + DOT.length));
      rest = rest.subarray(at + DOT.length);
      mode = 'command';
      steps.dot(socket, '');
      return true;
    };
    const readLine = (): boolean => {
      const end = rest.indexOf('\r\n');
      if (end === -1) return false;
      const line = rest.subarray(0, end).toString();
      rest = rest.subarray(end + 2);
      lines.push(line);
      const stage = VERBS.find(([verb]) => line.startsWith(verb))?.[1];
      if (stage === undefined) socket.end('221 bye\r\n');
      else if (steps[stage](socket, line) === 'data') mode = 'data';
      return true;
    };
    socket.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk]);
      while (!socket.destroyed && (mode === 'command' ? readLine() : readMessage()));
    });
    steps.greeting(socket, '');
  }

  const server = net.createServer((socket) => {
    connections += 1;
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    serve(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    host: '127.0.0.1',
    port: (server.address() as AddressInfo).port,
    lines,
    wire,
    connections: () => connections,
    open: () => sockets.size,
    async stop() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
