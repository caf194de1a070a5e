import type { IncomingHttpHeaders } from 'node:http';
import { Agent, type Dispatcher } from 'undici';
import { withoutApiKeys } from '../secret-text.ts';
import { connectFailureOf, guardedConnector } from './connector.ts';
import type { TargetPolicy } from './target.ts';
import type { Reply } from './verdict.ts';

/** One HTTP try and what came of it. */
export type Sent = Readonly<{
  reply: Reply;
  ms: number;
  /** The address of the endpoint as it was last connected to. */
  peer: string | null;
  error: string | null;
  /** The beginning of what a refusal says. */
  excerpt: string | null;
}>;

type Sending = Readonly<{
  url: URL;
  headers: Readonly<Record<string, string>>;
  body: string;
  signal?: AbortSignal;
  /** Asked right before the first byte, for which a connection may have been waited long. */
  mayBegin?: () => boolean;
}>;

export type Sender = Readonly<{
  /** Posts once; never rejects, and takes no longer than its deadline. */
  send: (sending: Sending) => Promise<Sent>;
  close: () => Promise<void>;
}>;

export type SenderOptions = Readonly<{
  policy: TargetPolicy;
  /** For connection, request, answer and its body together: one byte a second must not hold a slot. */
  timeoutMs?: number;
  /** Certificates that are trusted beside the public ones. */
  ca?: readonly string[];
  connectorOf?: typeof guardedConnector;
}>;

const TIMEOUT_MS = 15_000;
const CONNECT_TIMEOUT_MS = 5_000;
/** Connections to one host and port, whoever's subscriptions they serve. */
const CONNECTIONS_MAX = 64;
const KEEP_ALIVE_MS = 4_000;
/** What is read of an answer before the connection is cut. */
const BODY_BYTES_MAX = 16_384;
const EXCERPT_CHARACTERS_MAX = 500;
const CAUSES_MAX = 8;
const PEERS_MAX = 10_000;
const UNCONNECTED: ReadonlySet<string> = new Set(['blocked', 'dns', 'connect']);

/** Posts over kept connections that reach no address the policy denies. Follows nothing, unpacks nothing. */
export function openSender(options: SenderOptions): Sender {
  const { policy, timeoutMs = TIMEOUT_MS, ca = [], connectorOf = guardedConnector } = options;
  const peers = new Map<string, string>();
  const dial = connectorOf(policy.addresses, {
    connectTimeoutMs: Math.min(CONNECT_TIMEOUT_MS, timeoutMs),
    ca,
  });
  const agent = new Agent({
    connect: (target, callback) =>
      dial(target, (...result) => {
        const [, socket] = result;
        if (socket?.remoteAddress !== undefined) {
          // One for each origin ever called; who was forgotten is told again by the next connection.
          if (peers.size >= PEERS_MAX) peers.clear();
          peers.set(`${target.protocol}//${target.host}`, socket.remoteAddress);
        }
        callback(...result);
      }),
    connections: CONNECTIONS_MAX,
    pipelining: 1,
    keepAliveTimeout: KEEP_ALIVE_MS,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
  });
  const cuts = new WeakMap<AbortSignal, Set<() => void>>();
  return {
    async send(sending) {
      const startedAt = performance.now();
      const cutters = sending.signal === undefined ? null : cuttersOf(cuts, sending.signal);
      const answer = await new Promise<Answer>((resolve) => {
        post(agent, sending, { timeoutMs, cutters, resolve });
      });
      const { failure } = answer.reply;
      const isConnected = failure === null || !UNCONNECTED.has(failure);
      const peer = isConnected ? (peers.get(sending.url.origin) ?? null) : null;
      return { ...answer, peer, ms: Math.round(performance.now() - startedAt) };
    },
    close: () => agent.destroy(),
  };
}

type Answer = Pick<Sent, 'reply' | 'error' | 'excerpt'>;
/** Ends of requests under one signal: a listener for each would cost every delivery more than its signature. */
type Cutters = Set<() => void>;

function cuttersOf(cuts: WeakMap<AbortSignal, Cutters>, signal: AbortSignal): Cutters {
  const known = cuts.get(signal);
  if (known !== undefined) return known;
  const made: Cutters = new Set();
  cuts.set(signal, made);
  signal.addEventListener('abort', () => {
    for (const cut of made) cut();
  });
  return made;
}

type Ending = Readonly<{
  timeoutMs: number;
  cutters: Cutters | null;
  resolve: (answer: Answer) => void;
}>;

/** One request by undici's own events, without the streams and signals that it would make of them. */
function post(agent: Agent, sending: Sending, { timeoutMs, cutters, resolve }: Ending): void {
  const { url, headers, body, signal, mayBegin } = sending;
  let controller: Dispatcher.DispatchController | null = null;
  let head: Extract<Reply, { failure: null }> | null = null;
  const chunks: Buffer[] = [];
  let bytes = 0;
  let isOver = false;
  const finish = (answer: Answer) => {
    if (isOver) return;
    isOver = true;
    clearTimeout(timer);
    cutters?.delete(cut);
    resolve(answer);
    // Whatever is still under way, or was about to begin, has no taker any more.
    controller?.abort(new Error('over'));
  };
  const tell = (reply: Extract<Reply, { failure: null }>) =>
    finish({ reply, error: null, excerpt: isWell(reply) ? null : toExcerpt(chunks) });
  const fail = (error: unknown, isLate: boolean) => {
    // A refusal has been said: what becomes of its words changes nothing.
    if (head !== null && !isWell(head)) tell(head);
    else finish(asFailure(error, isLate));
  };
  const timer = setTimeout(() => fail(null, true), timeoutMs);
  const cut = () => fail(null, false);
  cutters?.add(cut);
  agent.dispatch(
    { origin: url.origin, path: url.pathname + url.search, method: 'POST', headers, body },
    {
      onRequestStart(started) {
        controller = started;
        const isCalledOff = isOver || signal?.aborted === true || mayBegin?.() === false;
        if (isCalledOff) started.abort(new Error('over'));
      },
      onResponseStart(_, status, fields) {
        // Those below 200 come before the answer.
        if (status < 200) return;
        head = {
          ...{ status, failure: null },
          retryAfter: headerOf(fields, 'retry-after'),
          wish: headerOf(fields, 'webhook-delivery'),
        };
      },
      onResponseData(_, chunk) {
        bytes += chunk.length;
        if (head !== null && !isWell(head)) chunks.push(chunk);
        if (head !== null && bytes >= BODY_BYTES_MAX) tell(head);
      },
      onResponseEnd() {
        // Done: its connection serves the next one.
        controller = null;
        if (head !== null) tell(head);
      },
      onResponseError(_, error) {
        fail(error, false);
      },
    },
  );
}

const isWell = ({ status }: Readonly<{ status: number }>) => status >= 200 && status < 300;

function headerOf(fields: IncomingHttpHeaders, name: string): string | null {
  const value = fields[name];
  return (Array.isArray(value) ? value[0] : value) ?? null;
}

/** Text of somebody else's that can be stored and shown. */
function toExcerpt(chunks: readonly Buffer[]): string | null {
  const text = Buffer.concat(chunks).subarray(0, BODY_BYTES_MAX).toString('utf8');
  const shown = withoutApiKeys(text)
    .replace(/[\p{Cc}\p{Cs}]+/gu, ' ')
    .trim();
  return shown === '' ? null : shown.slice(0, EXCERPT_CHARACTERS_MAX);
}

function asFailure(error: unknown, isLate: boolean): Answer {
  const code = (error as { code?: unknown } | null)?.code;
  const isTimeout = isLate || code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT';
  const failure = connectFailureOf(error) ?? (isTimeout ? 'timeout' : 'no_answer');
  return {
    reply: { status: null, failure },
    error: isTimeout ? 'ETIMEDOUT' : codeOf(error),
    excerpt: null,
  };
}

/** What the system calls it. Its words would tell names and addresses, which go when the webhook goes. */
function codeOf(error: unknown): string | null {
  let found: string | null = null;
  let current = error;
  for (let depth = 0; depth < CAUSES_MAX && current instanceof Error; depth += 1) {
    const { code } = current as NodeJS.ErrnoException;
    if (typeof code === 'string' && /^[A-Z][A-Z0-9_]{1,63}$/.test(code)) found = code;
    current = current.cause;
  }
  return found;
}
