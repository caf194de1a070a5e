import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { toTimestamp } from '../clock.ts';
import { acceptedScopes, permits } from '../domain/access.ts';
import { DomainError } from '../domain/errors.ts';
import { type EventMeta, subjectOf } from '../eventlog/eventlog.ts';
import { newCommandId } from '../eventlog/handle-command.ts';
import { isConnectionError, unavailable } from '../eventlog/unavailable.ts';
import type { LiveKey } from '../projections/live-keys.ts';
import { holdsApiKey, withoutApiKeys } from '../secrets.ts';
import { requireAcceptable } from './accept.ts';
import { headersOf, sendData, setHeaders, toEnvelope, toKept } from './answer.ts';
import { authenticate, checkIngestPassword } from './authenticate.ts';
import { hasBody, readBody, takeIn } from './body.ts';
import type { Context } from './context.ts';
import { announceDeprecation, setSunset } from './deprecation.ts';
import { describeError, JSON_TYPE, retryAfterOf, sendEnvelope, sendText } from './envelope.ts';
import { STATUS } from './error-status.ts';
import { idempotent } from './idempotency.ts';
import { invalid, parseInput, parseQuery } from './input.ts';
import { rateLimitHeaders } from './rate-limiter.ts';
import { statusFor, tagOf } from './revalidation.ts';
import type { Answer, AnyRoute, Call, Taken } from './route.ts';
import type { Outcome } from './use-windows.ts';

/** One request on its way: what is known of it so far. */
export type Exchange = {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly requestId: string;
  readonly address: string;
  readonly startedAt: number;
  key: LiveKey | null;
  isIngest: boolean;
  route: AnyRoute | null;
};

const REQUEST_ID = /^[A-Za-z0-9._-]{1,128}$/;

/** Begins an exchange: its id is the caller's own where that is sane. */
export function beginExchange(
  request: IncomingMessage,
  response: ServerResponse,
  address: string,
): Exchange {
  const given = request.headers['x-request-id'];
  const isSane = typeof given === 'string' && REQUEST_ID.test(given) && !holdsApiKey(given);
  const requestId = isSane ? given : randomUUID();
  response.setHeader('X-Request-Id', requestId);
  return {
    request,
    response,
    requestId,
    address,
    startedAt: performance.now(),
    key: null,
    isIngest: false,
    route: null,
  };
}

/** Runs one route for one request: permit, parse, handle, envelope. Never rejects. */
export async function runRoute(
  context: Context,
  route: AnyRoute,
  exchange: Exchange,
  params: unknown,
): Promise<void> {
  exchange.route = route;
  announceDeprecation(context, route, exchange.response);
  const { request } = exchange;
  let taken: Taken | null = null;
  try {
    permit(context, route, exchange);
    requireAcceptable(route, request);
    const input = parseInput(route, {
      params,
      query: parseQuery(request),
      body: await readBody(route, request),
    });
    taken = await takeIn(context, route, request);
    const call = toCall(context, exchange, { ...input, taken: taken?.body });
    const told = taken?.fingerprint ?? call.body;
    if (route.method === 'post') await runIdempotently(context, route, exchange, { call, told });
    else await sendAnswer(context, route, exchange, await route.handle(context, call));
  } catch (error) {
    sendError(context, exchange, error);
  } finally {
    await taken?.release().catch((error: unknown) => {
      context.logger.warn({ err: error }, 'a body could not be forgotten');
    });
  }
}

/** Answers a refusal; what is none is logged whole and told to nobody. */
export function sendError(context: Context, exchange: Exchange, thrown: unknown): void {
  const error = isConnectionError(thrown) ? unavailable() : thrown;
  const { request, response, requestId } = exchange;
  const { status, envelope } = describeError(error);
  if (status === 500) {
    context.logger.error({ err: thrown, request_id: requestId }, 'a request failed on a bug');
  }
  if (response.headersSent) {
    // Too late for a status: an answer that is cut must not look complete.
    response.destroy();
    return;
  }
  if (status === 403) refuseScope(context, exchange, error);
  const retryAfter = retryAfterOf(error);
  if (retryAfter !== null) response.setHeader('Retry-After', String(retryAfter));
  // What is left of a body that was not read must not be taken for the next request.
  const isLeft = hasBody(request) && (!request.complete || status === STATUS.payload_too_large);
  if (isLeft) response.setHeader('Connection', 'close');
  countUse(context, exchange, status);
  sendEnvelope(request, response, status, envelope);
}

/** A refusal for want of authority names the scopes that have it, and is an event. */
function refuseScope(context: Context, exchange: Exchange, error: unknown): void {
  const { code, details } = error as DomainError;
  const { key, route, response, address } = exchange;
  if (key !== null) context.activity.denied(code, key, address);
  if (route === null || route.permission.operation === 'public') return;
  const { operation, reach } = route.permission;
  const given = details as { accepted_scopes?: string[] } | null;
  const scopes = given?.accepted_scopes ?? acceptedScopes(operation, reach);
  response.setHeader('X-Accepted-Scopes', scopes.join(', '));
}

/** Order: key, its state, its addresses, scope, bucket. A refused request has cost the bucket nothing. */
function permit(context: Context, route: AnyRoute, exchange: Exchange): void {
  if (route.permission.operation === 'public') return;
  const { operation, reach } = route.permission;
  const { request, response, address } = exchange;
  if (route.takesIngestPassword === true && permitIngest(context, exchange)) return;
  const arrival = { nowMs: context.clock.nowMs(), address };
  const { key, refusal } = authenticate(request, context.liveKeys, arrival);
  if (refusal !== null) {
    context.activity.denied(refusal, key, address);
    response.setHeader('WWW-Authenticate', 'ApiKey realm="mailguard"');
    // The same answer for every reason: a guesser learns nothing.
    throw new DomainError('unauthorized', 'A valid API key is needed in X-API-Key.');
  }
  exchange.key = key;
  context.activity.seen(key);
  if (!permits(key.principal, operation, reach)) {
    throw new DomainError('scope_forbidden', 'The scope of this key does not allow that.');
  }
  const taken = context.limiter.take(key);
  const [policy, limit] = rateLimitHeaders(key.principal.rateLimitPerMinute, taken);
  response.setHeader('RateLimit-Policy', policy);
  response.setHeader('RateLimit', limit);
  if (key.status === 'rotated' && key.graceUntilMs !== null) {
    setSunset(response, key.graceUntilMs);
  }
  if (taken.allowed) return;
  context.activity.denied('rate_limited', key, address);
  throw new DomainError('rate_limited', 'Too many requests; see Retry-After.', {
    retry_after_seconds: taken.retryAfterSeconds,
  });
}

/** True for the ingest password; a wrong one is refused, and none leaves the request to its key. */
function permitIngest({ config, activity }: Context, exchange: Exchange): boolean {
  const verdict = checkIngestPassword(exchange.request, config.ingestPassword);
  if (verdict === 'absent') return false;
  exchange.isIngest = verdict === 'right';
  if (exchange.isIngest) return true;
  activity.denied('ingest_password', null, exchange.address);
  exchange.response.setHeader('WWW-Authenticate', 'Basic realm="mailguard ingest"');
  throw new DomainError('unauthorized', 'This is not the ingest password.');
}

/** The route's own schemas have made its input, so its handler's types hold. */
type AnyCall = Call<never, never, never>;

function toCall(
  context: Context,
  exchange: Exchange,
  input: Readonly<{ params: unknown; query: unknown; body: unknown; taken: unknown }>,
): AnyCall {
  const { request, response, key, isIngest } = exchange;
  return {
    ...(input as { params: never; query: never; body: never; taken: unknown }),
    isIngest,
    // Handlers of public routes have no caller and do not look for one.
    key: key as LiveKey,
    principal: key?.principal as LiveKey['principal'],
    meta: metaOf(context, exchange),
    commandId: newCommandId(),
    ifMatch: parseIfMatch(request),
    request,
    response,
  };
}

const USER_AGENT_LENGTH_MAX = 512;

function metaOf(context: Context, exchange: Exchange): EventMeta {
  const { request, requestId, address } = exchange;
  const sent = request.headers['user-agent']?.slice(0, USER_AGENT_LENGTH_MAX);
  const userAgent = sent === undefined ? null : withoutApiKeys(sent);
  return {
    actor: actorOf(exchange),
    // Header bytes come as latin1; a reader of the log gets text that UTF-8 can hold.
    source: { node: context.config.nodeId, ip: address, userAgent },
    requestId,
    correlationId: requestId,
    causationId: null,
    outcome: 'success',
    occurredAt: toTimestamp(context.clock.now()),
  };
}

function actorOf({ key, isIngest }: Exchange): EventMeta['actor'] {
  if (key !== null) return { type: 'api_key', id: String(key.id) };
  return isIngest ? { type: 'system', id: 'ingest' } : { type: 'anonymous', id: 'anonymous' };
}

function parseIfMatch(request: IncomingMessage): bigint | null {
  const header = request.headers['if-match'];
  if (header === undefined || header === '*') return null;
  const revision = /^"(\d{1,18})"$/.exec(header)?.[1];
  if (revision === undefined) {
    throw invalid([{ path: 'If-Match', message: 'must be one ETag as it was answered' }]);
  }
  return BigInt(revision);
}

async function runIdempotently(
  context: Context,
  route: AnyRoute,
  exchange: Exchange,
  { call, told }: Readonly<{ call: AnyCall; told: unknown }>,
): Promise<void> {
  const { request, response } = exchange;
  const path = (request.url ?? '').split('?')[0] ?? '';
  const principal = subjectOf(actorOf(exchange));
  const use = await idempotent(context, request, { principal, path, body: told });
  if (use.kind === 'replay') {
    setHeaders(response, { ...use.headers, 'Idempotency-Replayed': 'true' });
    countUse(context, exchange, use.status);
    sendText(request, response, use.status, { text: use.text, contentType: JSON_TYPE });
    return;
  }
  try {
    const answer = await route.handle(context, { ...call, commandId: use.commandId });
    const kept = toKept(route, answer);
    if (kept !== null) await use.keep(kept);
    await sendAnswer(context, route, exchange, answer);
  } catch (error) {
    const { status, envelope } = describeError(isConnectionError(error) ? unavailable() : error);
    await use.keep({ status, headers: {}, envelope, subject: null }).catch(() => undefined);
    throw error;
  } finally {
    use.done();
  }
}

async function sendAnswer(
  context: Context,
  route: AnyRoute,
  exchange: Exchange,
  answer: Answer<unknown>,
): Promise<void> {
  const { request, response } = exchange;
  if (answer === 'streamed') {
    countUse(context, exchange, 200);
    return;
  }
  if ('text' in answer) {
    if (route.revalidated) response.setHeader('ETag', tagOf(request, answer.text));
    const textStatus = statusFor(route, exchange, answer.status ?? 200);
    countUse(context, exchange, textStatus);
    sendText(request, response, textStatus, answer);
    return;
  }
  const { status: whole, envelope } = toEnvelope(route, answer);
  if (context.validateReplies && whole < 300) route.reply.parse(envelope.data);
  setHeaders(response, headersOf(answer));
  const status = statusFor(route, exchange, whole);
  countUse(context, exchange, status);
  sendData(route, exchange, { status, envelope });
}

/** Counted before the answer leaves, so that whoever has the answer finds the use counted. */
function countUse(context: Context, { key, route, address }: Exchange, status: number): void {
  if (key === null) return;
  const kind = route?.isAuditRead === true ? 'audit_reads' : 'requests';
  context.activity.used(key, kind, outcomeOf(status), address);
}

function outcomeOf(status: number): Outcome {
  if (status < 400) return 'success';
  if (status === 429) return 'rate_limited';
  if (status === 401 || status === 403) return 'denied';
  return status < 500 ? 'client_error' : 'server_error';
}
