import { randomUUID } from 'node:crypto';
import type http from 'node:http';
import type { Config } from '../config.ts';
import { CliError } from './command.ts';
import {
  begin,
  type Connection,
  describeRefusal,
  parseEnvelope,
  type Query,
  type Request,
  readText,
  UnreachableError,
} from './connection.ts';
import { counted } from './numbers.ts';
import { serverOf } from './server.ts';
import { say, type Terminal } from './terminal.ts';

type Answer = Readonly<{ data: unknown; headers: http.IncomingHttpHeaders }>;

/** An answer as it came, a refusal too. */
export type Told = Answer & Readonly<{ status: number; error: string | null; message: string }>;
/** `key`: to ask as somebody else. */
export type Asked = Pick<Request, 'method' | 'path'> &
  Readonly<{ query?: Query; body?: object; key?: string }>;

/** A gateway's API below `/api/v1`. Every call has a time limit, and ends with the terminal's signal. */
export type Api = Readonly<{
  url: string;
  get: (path: string, query?: Query) => Promise<Answer>;
  /** Sent with an `Idempotency-Key`: a repetition by us changes nothing twice. */
  post: (path: string, body: object) => Promise<Answer>;
  /** For callers to whom a refusal is an answer like others. */
  ask: (asked: Asked) => Promise<Told>;
  /** An answer that is read as it comes, as this media type. */
  stream: (path: string, query: Query, accept: string) => Promise<http.IncomingMessage>;
}>;

/** A stream that is silent for this long is taken for dead. */
const SILENCE_MS = 60_000;
const WAITS_MAX = 5;
const WAIT_SECONDS_MAX = 60;

/** The API of the server that the settings name, with the key that they name. */
export function openApi(config: Config, terminal: Terminal): Api {
  const connection: Connection = { server: serverOf(config), terminal };
  return {
    url: connection.server.url,
    async get(path, query = {}) {
      return readAnswer(await send(connection, toRequest({ method: 'GET', path, query })));
    },
    async post(path, body) {
      return readAnswer(await send(connection, toRequest({ method: 'POST', path, body })));
    },
    async ask(asked) {
      const response = await sendUntilNow(connection, toRequest(asked));
      const { statusCode: status = 0, headers } = response;
      return { status, headers, ...(await readEnvelope(response)) };
    },
    async stream(path, query, accept) {
      const get = { method: 'GET', path, query, body: null } as const;
      const response = await send(connection, { ...get, headers: { Accept: accept } });
      response.setTimeout(SILENCE_MS, () =>
        response.destroy(new UnreachableError(`silent for ${SILENCE_MS / 1_000} s`)),
      );
      return response;
    },
  };
}

function toRequest({ method, path, query = {}, body, key }: Asked): Request {
  const headers = {
    Accept: 'application/json',
    ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
    ...(method === 'POST' ? { 'Idempotency-Key': randomUUID() } : {}),
  };
  const text = body === undefined ? null : JSON.stringify(body);
  return { method, path, query, headers, body: text, ...(key === undefined ? {} : { key }) };
}

/** The answer to a request that was granted. */
async function send(connection: Connection, request: Request): Promise<http.IncomingMessage> {
  const response = await sendUntilNow(connection, request);
  const { statusCode: status = 0 } = response;
  if (status >= 200 && status < 300) return response;
  throw describeRefusal(connection, response, await readText(response));
}

/** Sends until the answer is not "later", waiting as long as the server asks, a few times. */
async function sendUntilNow(
  connection: Connection,
  request: Request,
): Promise<http.IncomingMessage> {
  const { terminal } = connection;
  for (let waits = 0; ; waits += 1) {
    const response = await begin(connection, request);
    const seconds = waitSeconds(response, request);
    if (seconds === null || waits === WAITS_MAX) return response;
    await readText(response);
    await say(terminal, `The server asks us to wait ${counted(seconds, 'second')}.`);
    await terminal.pause(seconds * 1_000);
  }
}

async function readAnswer(response: http.IncomingMessage): Promise<Answer> {
  const { data } = await readEnvelope(response);
  return { data, headers: response.headers };
}

async function readEnvelope(response: http.IncomingMessage) {
  const envelope = parseEnvelope(await readText(response));
  if (envelope === null) throw new CliError('The answer is not one of MailGuard: check the URL.');
  return envelope;
}

/** How long to wait before the same again, or null when that is no use or too long. */
function waitSeconds(response: http.IncomingMessage, { method }: Request): number | null {
  const { statusCode, headers } = response;
  // Of a change that met a 503 nobody knows whether it was made.
  const isLater = statusCode === 429 || (statusCode === 503 && method === 'GET');
  const seconds = Number(headers['retry-after']);
  return isLater && seconds >= 0 && seconds <= WAIT_SECONDS_MAX ? seconds : null;
}
