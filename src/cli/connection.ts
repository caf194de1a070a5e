import http from 'node:http';
import https from 'node:https';
import { CliError, EXIT, messageOf } from './command.ts';
import type { Server } from './server.ts';
import { clean, type Terminal } from './terminal.ts';

/** A gateway, and the connections to it. */
export type Connection = Readonly<{
  server: Server;
  terminal: Terminal;
  /**
   * Keeps connections for further requests; without one each request has its own, since a kept one
   * may be closed by the server just as it is used again.
   */
  agent?: http.Agent;
}>;

export type Query = Readonly<Record<string, string | null>>;

/** One request below `/api/v1`. */
export type Request = Readonly<{
  method: 'GET' | 'POST' | 'PATCH';
  path: string;
  query: Query;
  headers: Readonly<Record<string, string>>;
  body: string | Uint8Array | null;
  /** Announces a body of so many bytes, which is never sent: to hear what the server says to that. */
  announcedBytes?: number;
  /** The key to show; the connection's, when left out. */
  key?: string;
  /** How long the first byte of the answer may take; 30 s, when left out. */
  answerMs?: number;
}>;

/** What every JSON answer is. */
export type Envelope = Readonly<{ data: unknown; error: string | null; message: string }>;

type Loss = Readonly<{ isCut?: boolean; isSilent?: boolean }>;

/** The server could not be reached, was silent, or (`isCut`) was lost in the middle of its answer. */
export class UnreachableError extends CliError {
  readonly isCut: boolean;
  readonly isSilent: boolean;

  constructor(message: string, { isCut = false, isSilent = false }: Loss = {}) {
    super(message, EXIT.unusable);
    this.isCut = isCut;
    this.isSilent = isSilent;
  }
}

const ANSWER_MS = 30_000;

/** Sends a request, once. The answer's body has still to be read. Rejects with `UnreachableError`. */
export function begin(
  { server, terminal, agent }: Connection,
  request: Request,
): Promise<http.IncomingMessage> {
  const url = new URL(`${server.url}/api/v1${request.path}`);
  for (const [name, value] of Object.entries(request.query)) {
    if (value !== null) url.searchParams.set(name, value);
  }
  const { key = server.key, answerMs = ANSWER_MS, announcedBytes = null } = request;
  const options: https.RequestOptions = {
    method: request.method,
    headers: {
      ...request.headers,
      ...(announcedBytes === null ? {} : { 'Content-Length': String(announcedBytes) }),
      'X-API-Key': key,
      'User-Agent': 'mailguard-cli',
    },
    signal: terminal.signal,
    agent: agent ?? false,
    ...certificateOf(server),
  };
  return new Promise((resolve, reject) => {
    const sent = (url.protocol === 'https:' ? https : http).request(url, options, resolve);
    let isSilent = false;
    const timer = setTimeout(() => {
      isSilent = true;
      sent.destroy(new Error(`no answer within ${answerMs / 1_000} s`));
    }, answerMs);
    sent.once('response', () => clearTimeout(timer));
    sent.once('error', (error) => {
      clearTimeout(timer);
      reject(terminal.signal.aborted ? error : unreachable(server, error, { isSilent }));
    });
    if (announcedBytes === null) sent.end(request.body ?? undefined);
    else sent.flushHeaders();
  });
}

const certificateOf = ({ certificate }: Server): https.RequestOptions =>
  certificate === null
    ? {}
    : {
        ca: certificate,
        allowPartialTrustChain: true,
        // It is this machine's gateway by its very certificate, whatever name that is for.
        checkServerIdentity: () => undefined,
      };

/** The whole text of an answer that is not streamed. */
export async function readText(response: http.IncomingMessage): Promise<string> {
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

/** An answer as MailGuard gives them; null for anything else. */
export function parseEnvelope(text: string): Envelope | null {
  try {
    const parsed: unknown = JSON.parse(text);
    const isEnvelope = typeof parsed === 'object' && parsed !== null && 'message' in parsed;
    return isEnvelope ? (parsed as Envelope) : null;
  } catch {
    return null;
  }
}

/** What is wrong with each member of a request, as `data` of a `validation_failed` says it. */
export function issuesIn(data: unknown): readonly string[] {
  const { issues = [] } = (data ?? {}) as {
    issues?: readonly { path: string; message: string }[];
  };
  return issues.map(({ path, message }) => `${path} ${message}`);
}

/** A refusal in one line, with the id under which the server's log knows it, then what to mend. */
export function describeRefusal(
  { server }: Connection,
  response: http.IncomingMessage,
  text: string,
): CliError {
  const { statusCode: status = 0, headers } = response;
  const envelope = parseEnvelope(text);
  if (envelope === null) {
    return new CliError(`${server.url} answers ${status} and is no MailGuard: check the URL.`);
  }
  const lines = [
    `${envelope.error ?? String(status)}: ${envelope.message} ` +
      `(request id ${String(headers['x-request-id'])})`,
    ...issuesIn(envelope.data).map((issue) => `- ${issue}`),
    ...(status === 401 ? [NO_KEY_HINT] : []),
  ];
  return new CliError(lines.map(clean).join('\n'));
}

const NO_KEY_HINT =
  'The key is the one of MAILGUARD_API_KEY, else of the bootstrap-key file. With no key left, ' +
  '"mailguard keys create --local" makes one on the machine of the gateway.';

function unreachable({ url }: Server, error: Error, loss: Loss): UnreachableError {
  // What OpenSSL says of an answer in plain HTTP is three lines of its own sources.
  const isPlain = (error as NodeJS.ErrnoException).code === 'EPROTO';
  const reason = isPlain ? 'it does not speak HTTPS' : messageOf(error);
  const isCertificate = /certificate|CERT|altnames/i.test(reason);
  const hint = isCertificate
    ? 'NODE_EXTRA_CA_CERTS names a file of further certificates to trust.'
    : 'Does the gateway run? MAILGUARD_URL says where.';
  return new UnreachableError(`${url} cannot be reached: ${reason}. ${hint}`, loss);
}
