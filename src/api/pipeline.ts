import { acceptedScopes } from '../domain/access.ts';
import type { DomainError } from '../domain/errors.ts';
import { subjectOf } from '../eventlog/eventlog.ts';
import { isConnectionError, unavailable } from '../eventlog/unavailable.ts';
import { requireAcceptable } from './accept.ts';
import { headersOf, setHeaders, toKept, toText } from './answer.ts';
import { hasBody, readBody, takeIn } from './body.ts';
import { type AnyCall, actorOf, toCall } from './call.ts';
import type { Context } from './context.ts';
import { announceDeprecation } from './deprecation.ts';
import { describeError, JSON_TYPE, retryAfterOf, sendEnvelope, sendText } from './envelope.ts';
import { STATUS } from './error-status.ts';
import type { Exchange } from './exchange.ts';
import { idempotent } from './idempotency.ts';
import { parseInput, parseQuery } from './input.ts';
import { permit } from './permit.ts';
import { requireReadableTags, revalidate } from './revalidation.ts';
import type { Answer, AnyRoute, Taken } from './route.ts';
import type { Outcome } from './use-windows.ts';

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
    if (route.method === 'get') requireReadableTags(request);
    const input = parseInput(route, {
      params,
      query: parseQuery(request),
      body: await readBody(route, request),
    });
    taken = await takeIn(context, route, request);
    const call = toCall(context, exchange, { ...input, taken: taken?.body });
    const told = taken?.fingerprint ?? call.body;
    if (route.method === 'post') await runIdempotently(context, route, exchange, { call, told });
    else sendAnswer(context, route, exchange, await route.handle(context, call));
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
    sendAnswer(context, route, exchange, answer);
  } catch (error) {
    const { status, envelope } = describeError(isConnectionError(error) ? unavailable() : error);
    await use.keep({ status, headers: {}, envelope, subject: null }).catch(() => undefined);
    throw error;
  } finally {
    use.done();
  }
}

function sendAnswer(
  context: Context,
  route: AnyRoute,
  exchange: Exchange,
  answer: Answer<unknown>,
): void {
  const { request, response } = exchange;
  if (answer === 'streamed') {
    countUse(context, exchange, 200);
    return;
  }
  const shown = toText(route, request, answer);
  const data = 'data' in answer ? answer : null;
  if (context.validateReplies && data !== null && shown.status < 300) route.reply.parse(data.data);
  if (data !== null) setHeaders(response, headersOf(data));
  const revision = data?.revision ?? null;
  const status = revalidate(route, exchange, { ...shown, revision });
  countUse(context, exchange, status);
  sendText(request, response, status, shown);
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
