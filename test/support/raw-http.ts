import { connect, type Socket } from 'node:net';

export type RawReply = Readonly<{ status: number; head: string; body: string; text: string }>;

/** Sends bytes as they are and gives all that came back until the server closed the connection. */
export async function sendRaw(url: string, bytes: string | Buffer): Promise<RawReply> {
  const socket = openSocket(url);
  const chunks: Buffer[] = [];
  const text = await new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`the connection stayed open after: ${Buffer.concat(chunks)}`));
    }, 8_000);
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(Buffer.concat(chunks).toString('latin1'));
    });
    socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes);
  });
  const [head = '', ...rest] = text.split('\r\n\r\n');
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1] ?? 0);
  return { status, head, body: rest.join('\r\n\r\n'), text };
}

export function openSocket(url: string): Socket {
  const { hostname, port } = new URL(url);
  return connect(Number(port), hostname);
}

/** A request head with a closing connection; `lines` are further header lines. */
export const requestHead = (target: string, ...lines: readonly string[]): string =>
  [`${target} HTTP/1.1`, 'Host: localhost', 'Connection: close', ...lines, '', ''].join('\r\n');
