import { createHash } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import type { Config } from '../config.ts';
import { CliError, unusable } from './command.ts';
import {
  begin,
  type Connection,
  describeRefusal,
  type Envelope,
  issuesIn,
  parseEnvelope,
  readText,
  UnreachableError,
} from './connection.ts';
import type { MailEnvelope } from './mail-envelope.ts';
import type { Refusal } from './mail-reader.ts';
import { serverOf } from './server.ts';
import type { Terminal } from './terminal.ts';

type OutgoingMail = Readonly<{ bytes: Buffer; envelope: MailEnvelope }>;

/** What became of a message; `item` is what the gateway has answered. */
type Sent =
  | Readonly<{ outcome: 'imported' | 'already_there'; item: unknown }>
  | Readonly<{ outcome: 'refused'; refusal: Refusal }>;

/** Hands messages in at a gateway, several at a time. */
export type MailSender = Readonly<{
  url: string;
  /** The largest message that the gateway takes. */
  bytesMax: number;
  /**
   * Hands a message in, once, however often it is called within 24 hours: the same bytes with the same
   * envelope are the same message. Waits as long as the gateway asks, and a while for one that is
   * away; rejects with a CliError when there is no use in sending further messages.
   */
  send: (mail: OutgoingMail) => Promise<Sent>;
  close: () => void;
}>;

const HAND_IN = { method: 'POST', path: '/mail/quarantine', query: {} } as const;
/** What a gateway takes unless it is set otherwise, for one whose proxy does not let it tell. */
const BYTES_MAX_DEFAULT = 52_428_800;
const LATER_TRIES = 10;
const WAIT_SECONDS_DEFAULT = 1;
const WAIT_SECONDS_MAX = 120;
/** Before each further try to reach a gateway that is away. */
const LOST_PAUSES_MS = [500, 1_000, 2_000, 4_000, 8_000] as const;
const ANSWER_MS = 120_000;
const LIMIT_ANSWER_MS = 5_000;
const LATER = [429, 503];
const UNTOLD = [408, ...LATER];
/** What proxies answer for a gateway that is away. */
const AWAY = [502, 504];

/** Runs what it is given in the order of asking, one after the other. */
type InTurn = <T>(work: () => Promise<T>) => Promise<T>;
type Way = {
  readonly connection: Connection;
  readonly terminal: Terminal;
  readonly inTurn: InTurn;
  /** Why there is no use in going on. */
  failure: CliError | null;
};

/** Opens the way to the gateway of the settings; rejects when it is not there or does not let us in. */
export async function openMailSender(
  config: Config,
  terminal: Terminal,
  concurrency: number,
): Promise<MailSender> {
  const server = serverOf(config);
  // Every request that is under way listens to it.
  setMaxListeners(0, terminal.signal);
  const Agent = server.url.startsWith('https:') ? https.Agent : http.Agent;
  const agent = new Agent({ keepAlive: true, maxSockets: concurrency });
  const connection: Connection = { server, terminal, agent };
  const way: Way = { connection, terminal, inTurn: oneAtATime(), failure: null };
  return {
    url: server.url,
    bytesMax: await askLimit(connection),
    async send(mail) {
      try {
        return await sendMail(way, mail);
      } catch (error) {
        if (error instanceof CliError) way.failure ??= error;
        throw error;
      }
    },
    close: () => agent.destroy(),
  };
}

/**
 * The gateway's limit is told in its refusal of a message that is too large: one is announced, and
 * never sent. Whether the gateway is there, takes our key, and holds mail itself, is told with it. A proxy that waits
 * for the whole message lets it tell nothing.
 */
async function askLimit(connection: Connection): Promise<number> {
  const headers = { ...MAIL_HEADERS, 'X-Mail-From': '<>', 'X-Rcpt-To': 'postmaster@localhost' };
  const response = await begin(connection, {
    ...HAND_IN,
    headers,
    body: null,
    announcedBytes: Number.MAX_SAFE_INTEGER,
    answerMs: LIMIT_ANSWER_MS,
  }).catch((error: unknown) => {
    if (error instanceof UnreachableError && error.isSilent) return null;
    throw error;
  });
  if (response === null) return BYTES_MAX_DEFAULT;
  const { statusCode = 0 } = response;
  const text = await readText(response).catch(() => '');
  response.destroy();
  if (statusCode === 413) {
    const answer = parseEnvelope(text);
    requireSpool(answer);
    return limitIn(answer) ?? BYTES_MAX_DEFAULT;
  }
  if (UNTOLD.includes(statusCode)) return BYTES_MAX_DEFAULT;
  throw describeRefusal(connection, response, text);
}

/** A gateway before a hold queue takes announcements alone: nothing could be handed in there. */
function requireSpool(answer: Envelope | null): void {
  const { store } = (answer?.data ?? {}) as { store?: string };
  if (store !== 'postfix') return;
  throw unusable(
    'Mail of this gateway is held by Postfix (MAILGUARD_QUARANTINE_STORE=postfix): nothing can be imported there.',
  );
}

function limitIn(answer: Envelope | null): number | null {
  const { bytes_max: told } = (answer?.data ?? {}) as { bytes_max?: number };
  const limit = told ?? Number(/at most (\d+) bytes/.exec(answer?.message ?? '')?.[1]);
  return Number.isSafeInteger(limit) ? limit : null;
}

const MAIL_HEADERS = { Accept: 'application/json', 'Content-Type': 'message/rfc822' } as const;

async function sendMail(way: Way, mail: OutgoingMail): Promise<Sent> {
  const headers = headersOf(mail);
  const first = await tryOnce(way, mail, headers);
  if (!('laterSeconds' in first)) return first;
  // What is to come later comes one by one, or those who wait would use up each other's turn.
  return way.inTurn(async () => {
    let answer = first;
    for (let tries = 1; tries < LATER_TRIES; tries += 1) {
      await pause(way, answer.laterSeconds * 1_000);
      const next = await tryOnce(way, mail, headers);
      if (!('laterSeconds' in next)) return next;
      answer = next;
    }
    throw new CliError(`${answer.why}, also after ${LATER_TRIES} tries`);
  });
}

type Later = Readonly<{ laterSeconds: number; why: string }>;
type Headers = Readonly<Record<string, string>>;

/** One answer of the gateway, which may be away for a while. */
async function tryOnce(way: Way, { bytes }: OutgoingMail, headers: Headers): Promise<Sent | Later> {
  const { connection } = way;
  for (let lost = 0; ; lost += 1) {
    try {
      const request = { ...HAND_IN, headers, body: bytes, answerMs: ANSWER_MS };
      const response = await begin(connection, request);
      const text = await readText(response);
      const { statusCode = 0 } = response;
      if (!AWAY.includes(statusCode)) return toSent(connection, response, text);
      throw new UnreachableError(`A proxy answers ${statusCode} for the gateway.`);
    } catch (error) {
      const pauseMs = LOST_PAUSES_MS[lost];
      if (!(error instanceof UnreachableError) || pauseMs === undefined) throw error;
      await pause(way, pauseMs);
    }
  }
}

/** Waits, unless it is known by now that waiting is in vain. */
async function pause(way: Way, ms: number): Promise<void> {
  throwIfInVain(way);
  await way.terminal.pause(ms);
  throwIfInVain(way);
}

function throwIfInVain({ failure }: Way): void {
  if (failure !== null) throw failure;
}

function toSent(
  connection: Connection,
  response: http.IncomingMessage,
  text: string,
): Sent | Later {
  const { statusCode: status = 0, headers } = response;
  const answer = parseEnvelope(text);
  const isDone = status >= 200 && status < 300;
  if (status === 401 || (answer === null && (isDone || status < 400))) {
    throw describeRefusal(connection, response, text);
  }
  if (isDone) {
    const isReplay = headers['idempotency-replayed'] === 'true';
    return { outcome: isReplay ? 'already_there' : 'imported', item: answer?.data ?? null };
  }
  const refusal = toRefusal(status, answer);
  const isBusy = refusal.reason === 'idempotency_in_progress';
  if (!LATER.includes(status) && !isBusy) return { outcome: 'refused', refusal };
  const asked = Number(headers['retry-after'] ?? WAIT_SECONDS_DEFAULT);
  const isSane = asked >= 0 && asked <= WAIT_SECONDS_MAX;
  const laterSeconds = isSane ? asked : WAIT_SECONDS_MAX;
  return { laterSeconds, why: `${refusal.reason}: ${refusal.why}` };
}

function toRefusal(status: number, answer: Envelope | null): Refusal {
  const issues = issuesIn(answer?.data);
  const said = issues.length > 0 ? issues.join('; ') : answer?.message;
  return { reason: answer?.error ?? `http_${status}`, why: said ?? `the answer is ${status}` };
}

function headersOf({ bytes, envelope }: OutgoingMail): Headers {
  const { sender, recipients, score, reason, symbols } = envelope;
  const told = {
    'X-Mail-From': sender === '' ? '<>' : sender,
    'X-Rcpt-To': JSON.stringify(recipients),
    ...(score === null ? {} : { 'X-Spam-Score': String(score) }),
    ...(reason === null ? {} : { 'X-Quarantine-Reason': reason }),
    ...(symbols.length === 0 ? {} : { 'X-Spam-Symbols': symbols.join(', ') }),
  };
  const identity = createHash('sha256').update(JSON.stringify(told)).update('\0').update(bytes);
  const latin1 = Object.entries(told).map(([name, value]) => [name, toHeader(value)] as const);
  return {
    ...MAIL_HEADERS,
    ...Object.fromEntries(latin1),
    'Idempotency-Key': `import-${identity.digest('hex')}`,
  };
}

/** The bytes of UTF-8, as Node wants them. */
const toHeader = (text: string): string => Buffer.from(text, 'utf8').toString('latin1');

function oneAtATime(): InTurn {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const result = last.then(work, work);
    last = result.catch(() => undefined);
    return result;
  };
}
