import type { IncomingMessage } from 'node:http';
import { toTimestamp } from '../clock.ts';
import type { EventMeta } from '../eventlog/eventlog.ts';
import { newCommandId } from '../eventlog/handle-command.ts';
import type { LiveKey } from '../projections/live-keys.ts';
import { withoutApiKeys } from '../secret-text.ts';
import type { Context } from './context.ts';
import type { Exchange } from './exchange.ts';
import { invalid } from './input.ts';
import { revisionIn } from './revalidation.ts';
import type { Call } from './route.ts';

/** The route's own schemas have made its input, so its handler's types hold. */
export type AnyCall = Call<never, never, never>;

/** What a handler gets to know of its request. */
export function toCall(
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

/** Who is calling, as an event records it. */
export function actorOf({ key, isIngest }: Exchange): EventMeta['actor'] {
  if (key !== null) return { type: 'api_key', id: String(key.id) };
  return isIngest ? { type: 'system', id: 'ingest' } : { type: 'anonymous', id: 'anonymous' };
}

function parseIfMatch(request: IncomingMessage): bigint | null {
  const header = request.headers['if-match'];
  if (header === undefined || header === '*') return null;
  const revision = revisionIn(header);
  if (revision !== null) return revision;
  throw invalid([{ path: 'If-Match', message: 'must be one ETag as it was answered' }]);
}
