import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { pipeline, Readable } from 'node:stream';
import { z } from 'zod';
import type { Scan } from '../domain/quarantine-language.ts';
import { distinctSymbols, namesToKeep, reasonOf } from '../domain/symbols.ts';
import { oneLine } from './one-line.ts';

const TIMEOUT_MS = 30_000;
const REPLY_BYTES_MAX = 4_096;
/** Mail waits for it to be listed. */
const CHECK_MS = 5_000;
const CHECK_BYTES_MAX = 1_048_576;
const SCORE_MAX = 1_000_000;
/** Only the status tells: the words "already learned" also come with a 404 that learned nothing. */
const OUTCOMES: Readonly<Record<number, Learned['outcome']>> = {
  200: 'learned',
  208: 'already_known',
  204: 'refused',
};

type Learned = Readonly<{
  /** `refused`: rspamd will not learn this message. `unavailable`: it may, another time. */
  outcome: 'learned' | 'already_known' | 'refused' | 'unavailable';
  /** Of HTTP; null when no answer came. */
  status: number | null;
  /** What was answered, or what happened instead, in one line of at most 500 characters. */
  reply: string;
}>;

type Bytes = AsyncIterable<Uint8Array> | Uint8Array;

export type Rspamd = Readonly<{
  /**
   * Teaches the classifier one message, of exactly `sizeBytes`. Never rejects: whatever goes wrong,
   * with the bytes, too, is `unavailable`. Nothing that it returns has the password in it.
   */
  learn: (kind: 'spam' | 'ham', bytes: Bytes, sizeBytes: number) => Promise<Learned>;
  /**
   * What the filter finds in a message now (`POST /checkv2`), which decides nothing. Null when it cannot tell.
   * Never rejects.
   */
  check: (from: Envelope, bytes: Bytes, sizeBytes: number) => Promise<Scan | null>;
}>;

type Envelope = Readonly<{ sender: string; recipients: readonly string[] }>;

export type RspamdOptions = Readonly<{
  /** Of the controller worker, such as `http://127.0.0.1:11334`. */
  url: string;
  /** Null for a controller that trusts the address of this host. */
  password: string | null;
  /** For the whole exchange; 30 s by default. */
  timeoutMs?: number;
}>;

/**
 * The controller of rspamd (`POST /learnspam`, `/learnham`). Throws at once for a URL or a password
 * that HTTP cannot carry, and does not repeat the password then.
 */
export function createRspamd({ url, password, timeoutMs = TIMEOUT_MS }: RspamdOptions): Rspamd {
  const base = url.endsWith('/') ? url : `${url}/`;
  const targets = { spam: new URL('learnspam', base), ham: new URL('learnham', base) };
  const checking = new URL('checkv2', base);
  // A header carries bytes, which Node takes as the characters of Latin-1.
  const secret = password === null ? null : Buffer.from(password).toString('latin1');
  if (secret !== null) http.validateHeaderValue('Password', secret);
  const tell = (text: string) =>
    oneLine(password === null || password === '' ? text : text.replaceAll(password, '[redacted]'));
  const headersOf = (sizeBytes: number) => ({
    'Content-Length': sizeBytes,
    'Content-Type': 'message/rfc822',
    ...(secret === null ? {} : { Password: secret }),
  });
  return {
    async check({ sender, recipients }, bytes, sizeBytes) {
      const signal = AbortSignal.timeout(Math.min(timeoutMs, CHECK_MS));
      const headers = { ...headersOf(sizeBytes), From: field(sender), Rcpt: recipients.map(field) };
      try {
        const response = await post({ url: checking, headers, signal }, bytes, sizeBytes);
        if (response.statusCode !== 200) return null;
        return scanIn(await readSome(response, CHECK_BYTES_MAX));
      } catch {
        return null;
      }
    },
    async learn(kind, bytes, sizeBytes) {
      const signal = AbortSignal.timeout(timeoutMs);
      const headers = headersOf(sizeBytes);
      try {
        const response = await post({ url: targets[kind], headers, signal }, bytes, sizeBytes);
        const status = response.statusCode ?? 0;
        const reply = tell(await readSome(response, REPLY_BYTES_MAX));
        return { outcome: OUTCOMES[status] ?? 'unavailable', status, reply };
      } catch (error) {
        const what = signal.aborted ? `no answer within ${timeoutMs} ms` : describe(error);
        return { outcome: 'unavailable', status: null, reply: tell(what) };
      }
    },
  };
}

/** As far as a header of HTTP can carry it; the filter does without what it cannot. */
const field = (address: string): string => address.replace(/[^\x21-\x7e]/g, '');

const Checked = z.object({
  score: z.number().min(-SCORE_MAX).max(SCORE_MAX),
  symbols: z.record(z.string(), z.object({ score: z.number() })).catch({}),
});

function scanIn(reply: string): Scan | null {
  const parsed = Checked.safeParse(JSON.parse(reply));
  if (!parsed.success) return null;
  const { score, symbols: found } = parsed.data;
  const symbols = distinctSymbols(
    Object.entries(found).map(([name, symbol]) => ({ name, score: symbol.score })),
  );
  return { score, symbols: namesToKeep(symbols), reason: reasonOf(symbols, score) };
}

type Target = Readonly<{
  url: URL;
  headers: Readonly<Record<string, string | number | string[]>>;
  signal: AbortSignal;
}>;

function post({ url, ...target }: Target, bytes: Bytes, sizeBytes: number) {
  return new Promise<IncomingMessage>((resolve, reject) => {
    const { request } = url.protocol === 'https:' ? https : http;
    // A connection of its own: one that was kept may be closed by rspamd as the message begins.
    const outgoing = request(url, { method: 'POST', agent: false, ...target });
    outgoing.on('response', resolve);
    outgoing.on('error', reject);
    const source = Readable.from(bytes instanceof Uint8Array ? [bytes] : bytes);
    pipeline(source, exactly(sizeBytes), outgoing, (error) => {
      if (error) reject(error);
    });
  });
}

/** A message that is cut short, or goes on, is not the one that was meant. */
function exactly(sizeBytes: number) {
  return async function* (chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    let sent = 0;
    for await (const chunk of chunks) {
      sent += chunk.length;
      if (sent > sizeBytes) break;
      yield chunk;
    }
    if (sent !== sizeBytes) throw new Error('the message has another size than was said');
  };
}

/** The begin of the text. The status has come already, so text that breaks off changes nothing. */
async function readSome(response: IncomingMessage, bytesMax: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      size += chunk.length;
      if (size >= bytesMax) break;
    }
  } catch {
    response.destroy();
  }
  return Buffer.concat(chunks).subarray(0, bytesMax).toString();
}

/** An error of several addresses has no message of its own. */
function describe(error: unknown): string {
  const { message, code } = error as NodeJS.ErrnoException;
  return message === '' ? String(code) : message;
}
