import { DomainError } from '../domain/errors.ts';
import type { ApiKeyDenied, ApiKeyUsed } from '../domain/events.ts';
import type { EventLog, StoredEvent } from '../eventlog/eventlog.ts';
import { openDisclosures } from '../eventlog/personal.ts';
import { readLine } from '../eventlog/upcast.ts';

/** Use of one key in one stretch of time, `[from, to)` in milliseconds. */
export type ActivityWindow = Readonly<{
  from: number;
  to: number;
  requests: number;
  denied: number;
  rate_limited: number;
  addresses: readonly string[];
}>;

/** A window becomes an event when it is over, an hour's at most this much after its beginning. */
const RECORDED_LATE_MS = 2 * 3_600_000;
const PAGE_EVENTS = 5_000;
const EVENTS_MAX = 100_000;
const WINDOWS_MAX = 1_500;
const JOINED_MS = [3_600_000, 86_400_000] as const;
const ADDRESSES_MAX = 100;

const NO_USE_REASONS = new Set(['revoked', 'rotated', 'expired', 'inactive', 'address']);

/** Refusals of a key that was not let in; those of one that was are in its windows of use already. */
export const countsAsDenied = (reason: string): boolean => NO_USE_REASONS.has(reason);

/**
 * The recorded windows of a key that touch `[from, to)`, in order, read from the log itself. More than
 * are useful are joined to hours, then days. Throws when the range holds more than can be read at once.
 */
export async function readKeyActivity(
  log: EventLog,
  keyId: number,
  { from, to }: Readonly<{ from: number; to: number }>,
): Promise<readonly ActivityWindow[]> {
  const head = (await log.head()).position;
  const end = await log.positionBefore(new Date(to + RECORDED_LATE_MS).toISOString());
  const until = end < head ? end : head;
  const filter = {
    resources: [`api_key:${keyId}`],
    types: ['api_key.used', 'api_key.denied'],
  };
  let after = await log.positionBefore(new Date(from).toISOString());
  const windows: ActivityWindow[] = [];
  let events = 0;
  while (after < until) {
    const page = await log.readAll({ after, until, filter, limit: PAGE_EVENTS });
    events += page.events.length;
    if (events > EVENTS_MAX) {
      throw new DomainError('validation_failed', 'That is too much at once.', {
        issues: [{ path: 'from', message: 'ask for a shorter time' }],
      });
    }
    for (const event of page.events) {
      const window = toWindow(event);
      if (window !== null && window.to > from && window.from < to) windows.push(window);
    }
    after = page.scannedTo;
  }
  return join(windows.sort((a, b) => a.from - b.from));
}

function toWindow({ line, disclosures }: StoredEvent): ActivityWindow | null {
  const event = readLine(line) as unknown as ApiKeyUsed | ApiKeyDenied;
  const addresses = openDisclosures(disclosures).get('addresses');
  const common = {
    from: Date.parse(event.data.from),
    to: Date.parse(event.data.to),
    addresses: Array.isArray(addresses) ? addresses.map(String) : [],
  };
  if (event.type === 'api_key.denied') {
    if (!countsAsDenied(event.data.reason)) return null;
    return { ...common, requests: 0, denied: event.data.count, rate_limited: 0 };
  }
  const { requests, by_outcome } = event.data;
  return {
    ...common,
    requests,
    denied: by_outcome['denied'] ?? 0,
    rate_limited: by_outcome['rate_limited'] ?? 0,
  };
}

function join(windows: readonly ActivityWindow[]): readonly ActivityWindow[] {
  let joined = windows;
  for (const lengthMs of JOINED_MS) {
    if (joined.length <= WINDOWS_MAX) return joined;
    joined = joinTo(joined, lengthMs);
  }
  return joined;
}

function joinTo(windows: readonly ActivityWindow[], lengthMs: number): ActivityWindow[] {
  const slots = new Map<number, ActivityWindow>();
  for (const window of windows) {
    const from = window.from - (window.from % lengthMs);
    const known = slots.get(from);
    slots.set(from, {
      from,
      to: from + lengthMs,
      requests: (known?.requests ?? 0) + window.requests,
      denied: (known?.denied ?? 0) + window.denied,
      rate_limited: (known?.rate_limited ?? 0) + window.rate_limited,
      addresses: [...new Set([...(known?.addresses ?? []), ...window.addresses])].slice(
        0,
        ADDRESSES_MAX,
      ),
    });
  }
  return [...slots.values()];
}
