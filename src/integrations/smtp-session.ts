import { connectSmtp, type Reply, type SmtpConnection, SmtpLost } from './smtp-connection.ts';
import type { SmtpTarget } from './smtp-target.ts';

/** How long a server may take for each step, in milliseconds from its begin to its whole answer. */
export type SessionTimeouts = Readonly<{
  /** To resolve the name and to connect. */
  connectMs: number;
  /** To greet, and to agree on TLS. */
  greetingMs: number;
  /** To answer a command. */
  replyMs: number;
}>;

/** A server that has been greeted and can be given a message. */
export type SmtpSession = Readonly<{
  connection: SmtpConnection;
  /** The keywords of EHLO in capitals; none after HELO. */
  extensions: ReadonlySet<string>;
}>;

type Options = Readonly<{
  /** What this client calls itself in EHLO. */
  name: string;
  timeouts: SessionTimeouts;
  signal: AbortSignal | undefined;
}>;

/**
 * Connects and says EHLO, or HELO to a server that knows no better (RFC 5321 3.2). TLS is used when
 * it is offered, and done without when it fails (opportunistic, RFC 7435): a second connection then
 * stays in clear. Rejects with `SmtpLost` alone, with the reply of a server that takes no mail.
 */
export async function openSession(target: SmtpTarget, options: Options): Promise<SmtpSession> {
  const session = await greet(target, options);
  if (!session.extensions.has('STARTTLS')) return session;
  try {
    return await secure(session, target, options);
  } catch (error) {
    session.connection.destroy();
    if (options.signal?.aborted === true) throw error;
    return await greet(target, options);
  }
}

async function greet(target: SmtpTarget, options: Options): Promise<SmtpSession> {
  const { connectMs, greetingMs } = options.timeouts;
  const connection = await connectSmtp(target, { ms: connectMs, signal: options.signal });
  try {
    const greeting = await connection.read(greetingMs);
    if (greeting.code !== 220) throw notNow(greeting);
    return { connection, extensions: await introduce(connection, options) };
  } catch (error) {
    connection.quit();
    throw error;
  }
}

async function introduce(connection: SmtpConnection, options: Options): Promise<Set<string>> {
  const { replyMs } = options.timeouts;
  const ehlo = await connection.ask(`EHLO ${options.name}`, replyMs);
  if (isDone(ehlo)) return extensionsOf(ehlo);
  if (ehlo.code < 500) throw notNow(ehlo);
  const helo = await connection.ask(`HELO ${options.name}`, replyMs);
  if (!isDone(helo)) throw notNow(helo);
  return new Set();
}

async function secure(
  session: SmtpSession,
  target: SmtpTarget,
  options: Options,
): Promise<SmtpSession> {
  const { connection } = session;
  const reply = await connection.ask('STARTTLS', options.timeouts.replyMs);
  if (reply.code !== 220) return session;
  await connection.secure(target.host, options.timeouts.greetingMs);
  // What was said in clear may have been forged, so it is asked for again (RFC 3207 4.2).
  return { connection, extensions: await introduce(connection, options) };
}

/** The reply says that what was asked is done (2yz). */
export const isDone = ({ code }: Reply): boolean => code >= 200 && code < 300;

function extensionsOf({ lines }: Reply): Set<string> {
  return new Set(lines.slice(1).map((line) => (line.split(/[ =]/)[0] ?? '').toUpperCase()));
}

const notNow = (reply: Reply): SmtpLost => new SmtpLost('the server takes no mail now', reply);
