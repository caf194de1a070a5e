import assert from 'node:assert/strict';
import net from 'node:net';
import tls from 'node:tls';
import type { SmtpTarget } from './smtp-target.ts';

/** All lines of one reply; the longest that servers send, to EHLO, is about 1 KiB. */
const REPLY_BYTES_MAX = 16_384;
/** Replies that wait to be read; an honest server sends at most one more than it was asked for. */
const REPLIES_WAITING_MAX = 4;
const QUIT_MS = 2_000;
/** The service is closing (RFC 5321 3.8). */
const CLOSING = 421;
const REPLY_LINE = /^(\d{3})(?:([ -])(.*))?$/s;

/** A whole reply (RFC 5321 4.2): its code, and its lines without the codes. */
export type Reply = Readonly<{ code: number; lines: readonly string[] }>;

/**
 * The connection ended, or was ended because the server was too slow, made no sense, or had said
 * in `reply` that it will not go on.
 */
export class SmtpLost extends Error {
  readonly reply: Reply | null;

  constructor(message: string, reply: Reply | null = null) {
    super(message);
    this.name = 'SmtpLost';
    this.reply = reply;
  }
}

/**
 * One SMTP connection, of which one thing at a time may be asked. Every wait ends after its
 * milliseconds, however slowly the server talks, and then the connection is closed. All functions
 * but `quit` and `destroy` reject with `SmtpLost` alone, and go on doing so.
 */
export type SmtpConnection = Readonly<{
  /** The next reply; one that arrived before the connection was lost can still be read. */
  read: (ms: number) => Promise<Reply>;
  /** Sends a line and reads its reply; that may be a 421, which a server says at any time. */
  ask: (line: string, ms: number) => Promise<Reply>;
  /** Resolves when the operating system has the bytes, or when a reply has arrived. */
  write: (bytes: Uint8Array, ms: number) => Promise<void>;
  /** A reply waits to be read. */
  hasReply: () => boolean;
  isOpen: () => boolean;
  /** Aborted when the connection is open no more. */
  lost: AbortSignal;
  /** Goes on in TLS (RFC 3207), with whatever certificate the server has (RFC 7435). */
  secure: (servername: string, ms: number) => Promise<void>;
  /** Says good-bye and closes, without waiting. */
  quit: () => void;
  /** Closes at once: a server never sees more of an unfinished message. */
  destroy: () => void;
}>;

type Wire = {
  socket: net.Socket;
  /** The line, and the lines of a reply, that have not ended yet. */
  partial: string;
  lines: string[];
  sizeBytes: number;
  replies: Reply[];
  failure: SmtpLost | null;
  readonly lost: AbortController;
  onReply: () => void;
  onFailure: (failure: SmtpLost) => void;
};

const ignore = () => undefined;

/** Connects within `ms`, name resolution included, trying each address of a host. */
export async function connectSmtp(
  target: SmtpTarget,
  { ms, signal }: Readonly<{ ms: number; signal: AbortSignal | undefined }>,
): Promise<SmtpConnection> {
  const socket = net.connect({ host: target.host, port: target.port });
  socket.setNoDelay(true);
  const wire: Wire = {
    socket,
    partial: '',
    lines: [],
    sizeBytes: 0,
    replies: [],
    failure: null,
    lost: new AbortController(),
    onReply: ignore,
    onFailure: ignore,
  };
  const abort = () => fail(wire, 'given up');
  if (signal?.aborted === true) abort();
  signal?.addEventListener('abort', abort, { once: true });
  socket.once('close', () => signal?.removeEventListener('abort', abort));
  attach(wire, socket);
  await within(wire, ms, (done) => socket.once('connect', done));
  return {
    read: (limitMs) => read(wire, limitMs),
    ask: (line, limitMs) => ask(wire, line, limitMs),
    write: (bytes, limitMs) => write(wire, bytes, limitMs),
    hasReply: () => wire.replies.length > 0,
    isOpen: () => wire.failure === null,
    lost: wire.lost.signal,
    secure: (servername, limitMs) => secure(wire, servername, limitMs),
    quit: () => quit(wire),
    destroy: () => fail(wire, 'closed'),
  };
}

function attach(wire: Wire, socket: net.Socket): void {
  socket.on('data', (chunk: Buffer) => take(wire, chunk));
  socket.on('error', (error: NodeJS.ErrnoException) => fail(wire, error.code ?? error.message));
  socket.on('end', () => fail(wire, 'the server closed the connection'));
  socket.on('close', () => fail(wire, 'the connection was closed'));
}

function fail(wire: Wire, message: string): void {
  wire.socket.destroy();
  if (wire.failure !== null) return;
  wire.failure = new SmtpLost(message);
  wire.onFailure(wire.failure);
  wire.lost.abort();
}

/** Ends with `done`, with the connection, or after so many milliseconds, whatever comes first. */
async function within(wire: Wire, ms: number, start: (done: () => void) => void): Promise<void> {
  const timer = setTimeout(() => fail(wire, `no answer within ${ms} ms`), ms);
  try {
    await new Promise<void>((resolve, reject) => {
      wire.onFailure = reject;
      if (wire.failure === null) start(resolve);
      else reject(wire.failure);
    });
  } finally {
    clearTimeout(timer);
    wire.onFailure = ignore;
    wire.onReply = ignore;
  }
}

async function read(wire: Wire, ms: number): Promise<Reply> {
  const waitForReply = (done: () => void) => {
    wire.onReply = done;
  };
  if (wire.replies.length === 0) await within(wire, ms, waitForReply);
  const reply = wire.replies.shift();
  assert(reply !== undefined, 'one caller at a time reads');
  return reply;
}

async function ask(wire: Wire, line: string, ms: number): Promise<Reply> {
  const [unasked] = wire.replies;
  if (unasked === undefined) wire.socket.write(`${line}\r\n`);
  else if (unasked.code !== CLOSING) {
    // It would be taken for the reply to this line, and the reply to this line for the next one's.
    wire.replies = [];
    fail(wire, 'a reply that nobody asked for');
  }
  return await read(wire, ms);
}

async function write(wire: Wire, bytes: Uint8Array, ms: number): Promise<void> {
  await within(wire, ms, (done) => {
    // A server that has answered may read no further, so its reply ends the wait, too.
    wire.onReply = done;
    wire.socket.write(bytes, (error) => {
      if (error) fail(wire, error.message);
      else done();
    });
  });
}

async function secure(wire: Wire, servername: string, ms: number): Promise<void> {
  // What came in clear behind the reply to STARTTLS was put there by somebody else (RFC 3207 6).
  Object.assign(wire, { partial: '', lines: [], sizeBytes: 0, replies: [] });
  const plain = wire.socket;
  plain.removeAllListeners('data');
  await within(wire, ms, (done) => {
    const name = net.isIP(servername) === 0 ? { servername } : {};
    const options = { socket: plain, rejectUnauthorized: false, ...name };
    wire.socket = tls.connect(options, done);
    attach(wire, wire.socket);
  });
}

function quit(wire: Wire): void {
  const { socket } = wire;
  if (wire.failure !== null || socket.destroyed) return;
  socket.removeAllListeners('data');
  socket.resume();
  socket.end('QUIT\r\n');
  const timer = setTimeout(() => socket.destroy(), QUIT_MS);
  socket.once('close', () => clearTimeout(timer));
}

/** Cuts what arrives into replies. Bytes stay bytes (latin1) until a reply is whole. */
function take(wire: Wire, chunk: Buffer): void {
  wire.sizeBytes += chunk.length;
  if (wire.sizeBytes > REPLY_BYTES_MAX) fail(wire, 'the reply is too long');
  const [first = '', ...others] = chunk.toString('latin1').split('\n');
  const lines = [wire.partial + first, ...others];
  wire.partial = lines.pop() ?? '';
  for (const line of lines) {
    if (wire.failure === null) takeLine(wire, line.endsWith('\r') ? line.slice(0, -1) : line);
  }
}

function takeLine(wire: Wire, line: string): void {
  const [, code, separator, text] = REPLY_LINE.exec(line) ?? [];
  if (code === undefined) {
    fail(wire, `this is no SMTP reply: ${decode(line)}`);
    return;
  }
  wire.lines.push(decode(text ?? ''));
  if (separator === '-') return;
  wire.replies.push({ code: Number(code), lines: wire.lines });
  wire.lines = [];
  wire.sizeBytes = wire.partial.length;
  if (wire.replies.length > REPLIES_WAITING_MAX) fail(wire, 'replies that nobody asked for');
  else wire.onReply();
}

/** UTF-8 where it is that, else each byte for itself. */
function decode(bytes: string): string {
  const text = Buffer.from(bytes, 'latin1').toString('utf8');
  return text.includes('\uFFFD') ? bytes : text;
}
