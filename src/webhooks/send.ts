import { Agent, type Dispatcher } from 'undici';
import { withoutApiKeys } from '../secrets.ts';
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
  return {
    async send(sending) {
      const startedAt = performance.now();
      const deadline = new AbortController();
      const timer = setTimeout(() => deadline.abort(), timeoutMs);
      const stop = () => deadline.abort();
      sending.signal?.addEventListener('abort', stop);
      let answer: Answer;
      try {
        answer = await post(agent, sending, deadline.signal);
      } catch (error) {
        answer = asFailure(error, deadline.signal.aborted && sending.signal?.aborted !== true);
      } finally {
        clearTimeout(timer);
        sending.signal?.removeEventListener('abort', stop);
      }
      const peer = peers.get(sending.url.origin) ?? null;
      return { ...answer, peer, ms: Math.round(performance.now() - startedAt) };
    },
    close: () => agent.destroy(),
  };
}

type Answer = Pick<Sent, 'reply' | 'error' | 'excerpt'>;

async function post(agent: Agent, sending: Sending, signal: AbortSignal): Promise<Answer> {
  const { url, headers, body } = sending;
  const response = await agent.request({
    origin: url.origin,
    path: url.pathname + url.search,
    method: 'POST',
    headers,
    body,
    signal,
  });
  const { statusCode: status } = response;
  const reply: Reply = {
    status,
    retryAfter: headerOf(response, 'retry-after'),
    wish: headerOf(response, 'webhook-delivery'),
    failure: null,
  };
  if (status >= 200 && status < 300) {
    await response.body.dump({ limit: BODY_BYTES_MAX, signal });
    return { reply, error: null, excerpt: null };
  }
  // The status has been said: what becomes of the rest changes nothing.
  const excerpt = await readExcerpt(response.body).catch(() => null);
  return { reply, error: null, excerpt };
}

const headerOf = ({ headers }: Dispatcher.ResponseData, name: string): string | null => {
  const value = headers[name];
  return (Array.isArray(value) ? value[0] : value) ?? null;
};

async function readExcerpt(body: Dispatcher.ResponseData['body']): Promise<string | null> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes >= BODY_BYTES_MAX) break;
    }
  } catch {
    // What was read until here is shown.
  }
  return toExcerpt(Buffer.concat(chunks).subarray(0, BODY_BYTES_MAX).toString('utf8'));
}

/** Text of somebody else's that can be stored and shown. */
function toExcerpt(text: string): string | null {
  const shown = withoutApiKeys(text)
    .replace(/[\p{Cc}\p{Cs}]+/gu, ' ')
    .trim();
  return shown === '' ? null : shown.slice(0, EXCERPT_CHARACTERS_MAX);
}

function asFailure(error: unknown, isLate: boolean): Answer {
  const code = (error as { code?: unknown }).code;
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
