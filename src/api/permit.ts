import { permits } from '../domain/access.ts';
import { DomainError } from '../domain/errors.ts';
import { authenticate, checkIngestPassword } from './authenticate.ts';
import type { Context } from './context.ts';
import { setSunset } from './deprecation.ts';
import type { Exchange } from './exchange.ts';
import { rateLimitHeaders } from './rate-limiter.ts';
import type { AnyRoute } from './route.ts';

/**
 * Lets a request in, or throws: its key, the key's state and addresses, scope, bucket, in this order. A refused
 * request has cost the bucket nothing.
 */
export function permit(context: Context, route: AnyRoute, exchange: Exchange): void {
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
