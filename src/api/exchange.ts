import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { LiveKey } from '../projections/live-keys.ts';
import { holdsApiKey } from '../secret-text.ts';
import type { AnyRoute } from './route.ts';

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
