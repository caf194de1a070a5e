import type { DisableCause } from '../domain/webhook.ts';
import type { ConnectFailure } from './connector.ts';
import { parseRetryAfter } from './schedule.ts';

/** What came back, or why nothing did. */
export type Reply =
  | Readonly<{
      status: number;
      retryAfter: string | null;
      /** The receiver's `webhook-delivery` header. */
      wish: string | null;
      failure: null;
    }>
  | Readonly<{ status: null; failure: ConnectFailure | 'no_answer' }>;

/** What a reply means for the event and for the subscription. */
export type Verdict = Readonly<{
  outcome: string;
  /** `hold`: it is as if it had not been tried. `park`: never again by itself. */
  event: 'delivered' | 'retry' | 'hold' | 'park';
  /** How the endpoint fares; `gone_bad` needs no second opinion. */
  health: 'well' | 'ill' | 'gone_bad' | 'unsaid';
  disable: DisableCause | null;
  /** The receiver asks for quiet. */
  quietMs: number | null;
}>;

/** For a receiver that is busy and does not say for how long. */
const QUIET_MS = 30_000;

const verdict = (
  outcome: string,
  event: Verdict['event'],
  health: Verdict['health'],
  more: Partial<Pick<Verdict, 'disable' | 'quietMs'>> = {},
): Verdict => ({ outcome, event, health, disable: null, quietMs: null, ...more });

/**
 * Judges a reply as Standard Webhooks 1.0.0 ("Deliverability and reliability") recommends: 2xx alone is
 * success, 410 ends it, 429 and a 503 that says when ask for quiet, redirects are failures. Nothing but
 * 410 is final at once, since a 404 may be a deployment.
 */
export function judge(reply: Reply, nowMs: number): Verdict {
  if (reply.failure !== null) return judgeFailure(reply.failure);
  const { status, retryAfter, wish } = reply;
  if (status >= 200 && status < 300) {
    const disable = wish === 'disable' ? ('receiver' as const) : null;
    return verdict('delivered', 'delivered', 'well', { disable });
  }
  if (status === 410) return verdict('gone', 'hold', 'unsaid', { disable: 'gone' });
  if (wish === 'abort-message') return verdict('aborted_by_receiver', 'park', 'unsaid');
  const quietMs = parseRetryAfter(retryAfter, nowMs);
  if (status === 429) {
    return verdict('rate_limited', 'hold', 'unsaid', { quietMs: quietMs ?? QUIET_MS });
  }
  if (status === 503 && quietMs !== null) return verdict('busy', 'hold', 'unsaid', { quietMs });
  return verdict(status < 400 ? 'redirect' : 'http_error', 'retry', 'ill');
}

function judgeFailure(failure: ConnectFailure | 'no_answer'): Verdict {
  switch (failure) {
    case 'blocked':
      return verdict(failure, 'hold', 'unsaid', { disable: 'config' });
    case 'certificate':
      // Nothing is sent to who cannot be told; the next event would fare no better.
      return verdict(failure, 'hold', 'gone_bad');
    default:
      return verdict(failure, 'retry', 'ill');
  }
}
