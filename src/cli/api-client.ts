import { randomUUID } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import type { Config } from '../config.ts';
import { CliError } from './command.ts';
import { counted } from './progress.ts';
import { type Server, serverOf } from './server-of.ts';
import { clean, say, type Terminal } from './terminal.ts';

export type Query = Readonly<Record<string, string | null>>;
type Answer = Readonly<{ data: unknown; headers: http.IncomingHttpHeaders }>;

/** A gateway's API below `/api/v1`. Every call has a time limit, and ends with the terminal's signal. */
export type Api = Readonly<{
  url: string;
  get: (path: string, query?: Query) => Promise<Answer>;
  /** Sent with an `Idempotency-Key`: a repetition by us changes nothing twice. */
  post: (path: string, body: object) => Promise<Answer>;
  /** An answer that is read as it comes, as this media type. */
  stream: (path: string, query: Query, accept: string) => Promise<http.IncomingMessage>;
}>;

/** The server could not be reached, or (`isCut`) was lost in the middle of its answer. */
export class UnreachableError extends CliError {
  readonly isCut: boolean;

  constructor(message: string, { isCut }: { isCut: boolean } = { isCut: false }) {
    super(message);
    this.isCut = isCut;
  }
}

const ANSWER_MS = 30_000;
/** A stream that is silent for this long is taken for dead. */
const SILENCE_MS = 60_000;
const WAITS_MAX = 5;
const WAIT_SECONDS_MAX = 60;

type Request = Readonly<{
  method: 'GET' | 'POST';
  path: string;
  query: Query;
  headers: Readonly<Record<string, string>>;
  body: string | null;
}>;
type Connection = Readonly<{ server: Server; terminal: Terminal }>;

/** The API of the server that the settings name, with the key that they name. */
export function openApi(config: Config, terminal: Terminal): Api {
  const connection: Connection = { server: serverOf(config), terminal };
  const get = { method: 'GET', body: null } as const;
  return {
    url: connection.server.url,
    async get(path, query = {}) {
      return readAnswer(await send(connection, { ...get, path, query, headers: JSON_ONLY }));
    },
    async post(path, body) {
      const headers = {
        ...JSON_ONLY,
        'Content-Type': 'application/json',
        'Idempotency-Key': randomUUID(),
      };
      const text = JSON.stringify(body);
      return readAnswer(
        await send(connection, { method: 'POST', path, query: {}, headers, body: text }),
      );
    },
    async stream(path, query, accept) {
      const response = await send(connection, { ...get, path, query, headers: { Accept: accept } });
      response.setTimeout(SILENCE_MS, () =>
        response.destroy(new UnreachableError(`silent for ${SILENCE_MS / 1_000} s`)),
      );
      return response;
    },
  };
}

const JSON_ONLY = { Accept: 'application/json' };

/** Sends until the answer is not "later", waiting as long as the server asks, a few times. */
async function send(connection: Connection, request: Request): Promise<http.IncomingMessage> {
  const { terminal } = connection;
  for (let waits = 0; ; waits += 1) {
    const response = await begin(connection, request);
    const { statusCode: status = 0 } = response;
    if (status >= 200 && status < 300) return response;
    const refusal = describeRefusal(connection, response, await readText(response));
    const seconds = waitSeconds(response, request);
    if (seconds === null || waits === WAITS_MAX) throw refusal;
    await say(terminal, `The server asks us to wait ${counted(seconds, 'second')}.`);
    await terminal.pause(seconds * 1_000);
  }
}

function begin({ server, terminal }: Connection, request: Request): Promise<http.IncomingMessage> {
  const url = new URL(`${server.url}/api/v1${request.path}`);
  for (const [name, value] of Object.entries(request.query)) {
    if (value !== null) url.searchParams.set(name, value);
  }
  const { certificate } = server;
  const options: https.RequestOptions = {
    method: request.method,
    headers: { ...request.headers, 'X-API-Key': server.key, 'User-Agent': 'mailguard-cli' },
    signal: terminal.signal,
    // A connection of its own: a kept one may be closed by the server just as it is used again.
    agent: false,
    ...(certificate === null
      ? {}
      : {
          ca: certificate,
          allowPartialTrustChain: true,
          // It is this machine's gateway by its very certificate, whatever name that is for.
          checkServerIdentity: () => undefined,
        }),
  };
  return new Promise((resolve, reject) => {
    const sent = (url.protocol === 'https:' ? https : http).request(url, options, resolve);
    const timer = setTimeout(
      () => sent.destroy(new Error(`no answer within ${ANSWER_MS / 1_000} s`)),
      ANSWER_MS,
    );
    sent.once('response', () => clearTimeout(timer));
    sent.once('error', (error) => {
      clearTimeout(timer);
      reject(terminal.signal.aborted ? error : unreachable(server, error));
    });
    sent.end(request.body ?? undefined);
  });
}

/** The whole text of an answer that is not streamed. */
async function readText(response: http.IncomingMessage): Promise<string> {
  const timer = setTimeout(
    () => response.destroy(new Error(`an answer took more than ${ANSWER_MS / 1_000} s`)),
    ANSWER_MS,
  );
  try {
    const chunks: Buffer[] = [];
    for await (const chunk of response) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks).toString('utf8');
  } catch (error) {
    throw new UnreachableError(`The answer was cut off: ${messageOf(error)}`);
  } finally {
    clearTimeout(timer);
  }
}

async function readAnswer(response: http.IncomingMessage): Promise<Answer> {
  const envelope = parseEnvelope(await readText(response));
  if (envelope === null) throw new CliError('The answer is not one of MailGuard: check the URL.');
  return { data: envelope.data, headers: response.headers };
}

type Envelope = Readonly<{ data: unknown; error: string | null; message: string }>;

function parseEnvelope(text: string): Envelope | null {
  try {
    const parsed: unknown = JSON.parse(text);
    const isEnvelope = typeof parsed === 'object' && parsed !== null && 'message' in parsed;
    return isEnvelope ? (parsed as Envelope) : null;
  } catch {
    return null;
  }
}

/** A refusal in one line, with the id under which the server's log knows it, then what to mend. */
function describeRefusal(
  { server }: Connection,
  response: http.IncomingMessage,
  text: string,
): CliError {
  const { statusCode: status = 0, headers } = response;
  const envelope = parseEnvelope(text);
  if (envelope === null) {
    return new CliError(`${server.url} answers ${status} and is no MailGuard: check the URL.`);
  }
  const { issues = [] } = (envelope.data ?? {}) as {
    issues?: readonly { path: string; message: string }[];
  };
  const lines = [
    `${envelope.error ?? String(status)}: ${envelope.message} ` +
      `(request id ${String(headers['x-request-id'])})`,
    ...issues.map(({ path, message }) => `- ${path} ${message}`),
    ...(status === 401 ? [NO_KEY_HINT] : []),
  ];
  return new CliError(lines.map(clean).join('\n'));
}

const NO_KEY_HINT =
  'The key is the one of MAILGUARD_API_KEY, else of the bootstrap-key file. With no key left, ' +
  '"mailguard keys create --local" makes one on the machine of the gateway.';

/** How long to wait before the same again, or null when that is no use or too long. */
function waitSeconds(response: http.IncomingMessage, { method }: Request): number | null {
  const { statusCode, headers } = response;
  // Of a change that met a 503 nobody knows whether it was made.
  const isLater = statusCode === 429 || (statusCode === 503 && method === 'GET');
  const seconds = Number(headers['retry-after']);
  return isLater && seconds >= 0 && seconds <= WAIT_SECONDS_MAX ? seconds : null;
}

function unreachable({ url }: Server, error: Error): UnreachableError {
  const reason = messageOf(error);
  const isCertificate = /certificate|CERT|altnames/i.test(reason);
  const hint = isCertificate
    ? 'NODE_EXTRA_CA_CERTS names a file of further certificates to trust.'
    : 'Does the gateway run? MAILGUARD_URL says where.';
  return new UnreachableError(`${url} cannot be reached: ${reason}. ${hint}`);
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code } = error as NodeJS.ErrnoException;
  // Where a name has several addresses, the error of all of them together has no message.
  return error.message === '' ? (code ?? error.name) : error.message;
}
