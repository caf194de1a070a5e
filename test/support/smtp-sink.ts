import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { SMTPServer, type SMTPServerError } from 'smtp-server';

const WAIT_MS = 10_000;

export type SunkMessage = Readonly<{
  from: string;
  to: readonly string[];
  /** As it was sent, without the dots that SMTP adds. */
  raw: Buffer;
  isSecure: boolean;
  /** The parameters of MAIL FROM, such as `{ BODY: '8BITMIME' }`. */
  parameters: Readonly<Record<string, string | true>>;
}>;

export type SmtpSink = Readonly<{
  host: string;
  port: number;
  messages: readonly SunkMessage[];
  /** Resolves with the messages once there are so many. */
  waitFor: (count: number) => Promise<readonly SunkMessage[]>;
  stop: () => Promise<void>;
}>;

export type SmtpSinkOptions = Readonly<{
  port?: number;
  /** What is answered to a recipient instead of 250. */
  refuse?: (recipient: string) => Readonly<{ code: number; text: string }> | null;
  /** Is awaited before the message is accepted; what it throws is the reply. */
  onMessage?: (message: SunkMessage) => unknown;
  /** Offers STARTTLS, with a certificate that nobody trusts. */
  isTlsOffered?: boolean;
  isUtf8Hidden?: boolean;
  /** The greatest message, in bytes, as the server says in its SIZE. */
  bytesMax?: number;
}>;

/**
 * A real SMTP server that takes everything, and keeps it in memory. It greets after 100 ms, to notice
 * those who talk too early, which cannot be turned off.
 */
export async function startSmtpSink(options: SmtpSinkOptions = {}): Promise<SmtpSink> {
  const messages: SunkMessage[] = [];
  const server = new SMTPServer({
    disabledCommands: options.isTlsOffered === true ? ['AUTH'] : ['AUTH', 'STARTTLS'],
    hideSMTPUTF8: options.isUtf8Hidden ?? false,
    ...(options.bytesMax === undefined ? {} : { size: options.bytesMax }),
    disableReverseLookup: true,
    maxAllowedUnauthenticatedCommands: false,
    onRcptTo({ address }, _session, done) {
      const refusal = options.refuse?.(address) ?? null;
      done(refusal === null ? null : smtpError(refusal.text, refusal.code));
    },
    onData(stream, session, done) {
      const chunks: Buffer[] = [];
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('end', async () => {
        if (stream.sizeExceeded) return done(smtpError('5.3.4 Message too big', 552));
        const { mailFrom, rcptTo } = session.envelope;
        const message = {
          from: mailFrom === false ? '' : mailFrom.address,
          to: rcptTo.map(({ address }) => address),
          raw: Buffer.concat(chunks),
          isSecure: session.secure,
          parameters: mailFrom === false || mailFrom.args === false ? {} : mailFrom.args,
        };
        try {
          await options.onMessage?.(message);
        } catch (error) {
          return done(error as SMTPServerError);
        }
        messages.push(message);
        done();
      });
    },
  });
  server.on('error', () => undefined);
  server.listen(options.port ?? 0, '127.0.0.1');
  await once(server.server, 'listening');
  return {
    host: '127.0.0.1',
    port: (server.server.address() as AddressInfo).port,
    messages,
    async waitFor(count) {
      const until = performance.now() + WAIT_MS;
      while (messages.length < count) {
        if (performance.now() > until) throw new Error(`${messages.length} of ${count} messages`);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      return messages;
    },
    stop: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** An error by whose code the server answers. */
export function smtpError(text: string, code: number): SMTPServerError {
  return Object.assign(new Error(text), { responseCode: code });
}
