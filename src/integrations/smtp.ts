import assert from 'node:assert/strict';
import { addAbortSignal, pipeline, Readable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import DataStream from 'nodemailer/lib/smtp-connection/data-stream.js';
import { oneLine } from './one-line.ts';
import { type Reply, type SmtpConnection, SmtpLost } from './smtp-connection.ts';
import { isDone, openSession, type SessionTimeouts, type SmtpSession } from './smtp-session.ts';
import { formatSmtpTarget, type SmtpTarget } from './smtp-target.ts';

/** `replyMs` is also how long a server may take for the next piece of a message. */
export type SmtpTimeouts = SessionTimeouts &
  Readonly<{
    /** To answer for the whole message. */
    dataReplyMs: number;
  }>;

/** Those of RFC 5321 4.5.3.2, but for the connection, which a working network makes in seconds. */
const TIMEOUTS: SmtpTimeouts = {
  connectMs: 30_000,
  greetingMs: 300_000,
  replyMs: 300_000,
  dataReplyMs: 600_000,
};
/** For one message as a whole, however steadily the server takes its bytes. */
const TRANSFER_MS_MAX = 3_600_000;
/** What ends a message, but for the CRLF before it. */
const END = Buffer.from('.\r\n');

/**
 * What became of one recipient. `accepted`: the server has taken the message over. `refused`: it
 * never will. `deferred`: no server has taken it, and a later call may succeed. `unknown`: the whole
 * message was sent and no answer came, so that a later call may deliver it twice.
 */
type RecipientResult = Readonly<{
  address: string;
  outcome: 'accepted' | 'deferred' | 'refused' | 'unknown';
  /** Of the reply; null when there was none. */
  code: number | null;
  /** The reply with its code, or what happened instead, in one line of at most 500 characters. */
  reply: string;
  /** `host:port` that said so; null when no server was asked. */
  server: string | null;
}>;

/** In the order of the envelope. */
export type DeliveryResult = Readonly<{ recipients: readonly RecipientResult[] }>;

export type DeliveryOptions = Readonly<{
  /** What this client calls itself in EHLO: a host name or an address literal. */
  name: string;
  /** Header fields put before the message, each ending in CRLF. */
  prepend?: string;
  /** By default 30 s to connect, 5 min for the greeting and for a reply, 10 min after the data. */
  timeouts?: Partial<SmtpTimeouts>;
  /** Aborting drops the connection at once; a message that was sent as a whole is then `unknown`. */
  signal?: AbortSignal;
}>;

type Envelope = Readonly<{ from: string; to: readonly string[] }>;
type Recipient = { -readonly [member in keyof RecipientResult]: RecipientResult[member] };
type Verdict = Pick<Recipient, 'outcome' | 'code' | 'reply'>;

type Job = {
  readonly envelope: Envelope;
  readonly open: () => Promise<AsyncIterable<Uint8Array>>;
  readonly options: DeliveryOptions;
  readonly timeouts: SmtpTimeouts;
  /** A server has, or may have, the whole message. */
  isHandedOver: boolean;
};

type Transaction = Readonly<{ job: Job; server: string; unsettled: Set<Recipient> }>;

/**
 * Gives a message to the first of `targets` that takes it, in one SMTP transaction at a time
 * (RFC 5321), and says for each recipient what became of it. A recipient goes on to the next target
 * while it is deferred: by a lost connection, a timeout, 4yz, or a server that takes no mail at all;
 * 5yz for a recipient, the sender or the message is final. Line ends leave as CRLF, whatever they
 * were; every other byte leaves as it is. `from` may be empty, for the null sender.
 *
 * No server can make it throw. It throws an AssertionError for addresses that SMTP cannot carry;
 * and what `open` or its bytes threw, or the reason of `signal`, while no server has been given the
 * whole message. After that, what cannot go on is deferred.
 */
export async function deliver(
  targets: readonly SmtpTarget[],
  envelope: Envelope,
  open: () => Promise<AsyncIterable<Uint8Array>>,
  options: DeliveryOptions,
): Promise<DeliveryResult> {
  check(envelope, options);
  const timeouts = { ...TIMEOUTS, ...options.timeouts };
  const job: Job = { envelope, open, options, timeouts, isHandedOver: false };
  const nobody = {
    outcome: 'deferred',
    code: null,
    reply: 'no server to ask',
    server: null,
  } as const;
  const recipients: Recipient[] = envelope.to.map((address) => ({ address, ...nobody }));
  options.signal?.throwIfAborted();
  for (const target of targets) {
    const open = recipients.filter(({ outcome }) => outcome === 'deferred');
    if (open.length === 0) break;
    if (options.signal?.aborted === true && job.isHandedOver) break;
    await transact(job, target, open);
    const isOver = recipients.every(({ outcome }) => outcome !== 'deferred');
    if (!isOver && !job.isHandedOver) options.signal?.throwIfAborted();
  }
  return { recipients };
}

async function transact(job: Job, target: SmtpTarget, open: readonly Recipient[]): Promise<void> {
  const { options, timeouts } = job;
  const transaction = { job, server: formatSmtpTarget(target), unsettled: new Set(open) };
  let session: SmtpSession | null = null;
  try {
    const { name, signal } = options;
    session = await openSession(target, { name, signal, timeouts });
    await sendTo(transaction, session, open);
    session.connection.quit();
  } catch (error) {
    session?.connection.destroy();
    if (!(error instanceof SmtpLost) && !job.isHandedOver) throw error;
    const verdict =
      error instanceof SmtpLost ? lost(error) : deferred('the message is not readable');
    settle(transaction, transaction.unsettled, verdict);
  }
}

async function sendTo(
  transaction: Transaction,
  { connection, extensions }: SmtpSession,
  open: readonly Recipient[],
): Promise<void> {
  const { replyMs } = transaction.job.timeouts;
  const { from } = transaction.job.envelope;
  const carried = extensions.has('SMTPUTF8') ? [...open] : carriedInAscii(transaction, open);
  if (carried.length === 0) return;
  const isInternational = [from, ...carried.map(({ address }) => address)].some(isNotAscii);
  const parameters = [
    ...(extensions.has('8BITMIME') ? [' BODY=8BITMIME'] : []),
    ...(isInternational ? [' SMTPUTF8'] : []),
  ].join('');
  const mail = await connection.ask(`MAIL FROM:<${from}>${parameters}`, replyMs);
  if (!isDone(mail)) {
    settle(transaction, carried, byCode(mail));
    return;
  }

  const accepted: Recipient[] = [];
  for (const recipient of carried) {
    const reply = await connection.ask(`RCPT TO:<${recipient.address}>`, replyMs);
    if (reply.code === 421) throw new SmtpLost('the server is closing', reply);
    if (isDone(reply)) accepted.push(recipient);
    else settle(transaction, [recipient], byCode(reply));
  }
  if (accepted.length === 0) return;
  const data = await connection.ask('DATA', replyMs);
  if (data.code >= 400) {
    settle(transaction, accepted, byCode(data));
    return;
  }
  // Anything else is an answer to something else, and lines of the message would be commands.
  if (data.code !== 354) throw new SmtpLost('the server does not ask for the message', data);
  await sendMessage(transaction, connection, accepted);
}

/** RFC 6531 3.2: addresses that are not ASCII cannot be given to a server without SMTPUTF8. */
function carriedInAscii(transaction: Transaction, open: readonly Recipient[]): Recipient[] {
  const { from } = transaction.job.envelope;
  const isCarried = ({ address }: Recipient) => !isNotAscii(from) && !isNotAscii(address);
  const reply = 'the server does not take internationalised addresses (SMTPUTF8)';
  const others = open.filter((recipient) => !isCarried(recipient));
  settle(transaction, others, { outcome: 'refused', code: null, reply });
  return open.filter(isCarried);
}

async function sendMessage(
  transaction: Transaction,
  connection: SmtpConnection,
  recipients: readonly Recipient[],
): Promise<void> {
  const { job } = transaction;
  if (!(await sendData(job, connection))) {
    const reply = await connection.read(job.timeouts.replyMs);
    connection.destroy();
    settle(transaction, recipients, byCode(reply));
    return;
  }
  job.isHandedOver = true;
  try {
    await connection.write(END, job.timeouts.replyMs);
    const reply = await connection.read(job.timeouts.dataReplyMs);
    settle(transaction, recipients, afterData(reply));
  } catch (error) {
    const reply = oneLine(`no answer to the whole message: ${String(error)}`);
    settle(transaction, recipients, { outcome: 'unknown', code: null, reply });
    throw error;
  }
}

/**
 * Sends everything but the `END`, without which no server may deliver (RFC 5321 4.1.1.4). False when
 * the server has answered before, or the connection is lost.
 */
async function sendData(job: Job, connection: SmtpConnection): Promise<boolean> {
  const { replyMs } = job.timeouts;
  const message = Readable.from(await job.open());
  const stuffed = new DataStream();
  stuffed.write(job.options.prepend ?? '');
  pipeline(message, stuffed, () => undefined);
  // A message that comes no further must not keep a connection that is gone.
  addAbortSignal(connection.lost, stuffed);
  const timer = setTimeout(connection.destroy, TRANSFER_MS_MAX);
  try {
    let held: Buffer = Buffer.alloc(0);
    for await (const chunk of stuffed) {
      await connection.write(held, replyMs);
      if (connection.hasReply()) return false;
      held = chunk as Buffer;
    }
    assert(held.subarray(-END.length).equals(END), 'the end of the data is sent apart');
    await connection.write(held.subarray(0, -END.length), replyMs);
  } catch (error) {
    if (connection.isOpen()) throw error;
    return false;
  } finally {
    clearTimeout(timer);
  }
  // What the network has told by now is heard before the point of no return.
  await nextTurn();
  return connection.isOpen() && !connection.hasReply();
}

function settle(transaction: Transaction, recipients: Iterable<Recipient>, verdict: Verdict): void {
  for (const recipient of recipients) {
    Object.assign(recipient, verdict, { server: transaction.server });
    transaction.unsettled.delete(recipient);
  }
}

function byCode(reply: Reply): Verdict {
  const outcome = reply.code >= 500 && reply.code < 600 ? 'refused' : 'deferred';
  return { outcome, code: reply.code, reply: textOf(reply) };
}

function afterData(reply: Reply): Verdict {
  if (isDone(reply)) return { outcome: 'accepted', code: reply.code, reply: textOf(reply) };
  if (reply.code >= 400 && reply.code < 600) return byCode(reply);
  // It is no answer to a message, so it says nothing of this one.
  return { outcome: 'unknown', code: reply.code, reply: textOf(reply) };
}

const deferred = (text: string): Verdict => ({
  outcome: 'deferred',
  code: null,
  reply: oneLine(text),
});

const lost = ({ reply, message }: SmtpLost): Verdict =>
  reply === null
    ? deferred(message)
    : { outcome: 'deferred', code: reply.code, reply: textOf(reply) };

const textOf = ({ code, lines }: Reply): string => oneLine([code, ...lines].join(' '));

const isNotAscii = (address: string): boolean => /\P{ASCII}/u.test(address);

/** Callers have checked this; a slip would let an address say SMTP commands, or a name. */
function check({ from, to }: Envelope, { name, prepend = '' }: DeliveryOptions): void {
  for (const address of [from, ...to]) {
    assert(!/[\p{Cc}\p{Zl}\p{Zp}]/u.test(address), 'an address has no control characters');
    const unquoted = address.replace(/"(?:[^"\\]|\\.)*"/g, '');
    assert(!/[<>\s]/.test(unquoted), 'an address has no brackets or spaces outside quotes');
  }
  assert(!to.includes(''), 'a recipient has an address');
  assert(/^[!-~]+$/.test(name), 'the name in EHLO is one word of ASCII');
  assert(/^(?:[^\r\n]+\r\n)*$/.test(prepend), 'header fields end in CRLF');
}
