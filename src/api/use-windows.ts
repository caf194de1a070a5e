import { createHash } from 'node:crypto';
import { toTimestamp } from '../clock.ts';
import { apiKeyUsageStream } from '../domain/api-key.ts';
import type { DomainEvent } from '../domain/decider.ts';
import type { AppendCommand } from '../eventlog/eventlog.ts';
import { commandIdOf, toAppend } from '../eventlog/handle-command.ts';

export type Outcome = 'success' | 'denied' | 'rate_limited' | 'client_error' | 'server_error';
export type UseKind = 'requests' | 'audit_reads';

type Counted = {
  from: number;
  to: number;
  first: number;
  last: number;
  addresses: string[];
  /** Of the key then: it may be gone when the window is over. */
  mailDomain: number | null;
};
export type UseWindow = Counted & {
  type: 'used';
  keyId: number;
  kind: UseKind;
  requests: number;
  byOutcome: Partial<Record<Outcome, number>>;
};
export type DenialWindow = Counted & {
  type: 'denied';
  keyId: number | null;
  reason: string;
  count: number;
};
export type Window = UseWindow | DenialWindow;

const ADDRESSES_MAX = 20;
/** The window in which surplus denials are counted. */
export const OVERFLOW = 'overflow';

/** The aligned stretch of time around `now`, with nothing counted. */
export function emptyWindow(now: number, lengthMs: number, mailDomain: number | null): Counted {
  const from = now - (now % lengthMs);
  return { from, to: from + lengthMs, first: now, last: now, addresses: [], mailDomain };
}

/** Notes a request in a window; of addresses the first twenty are kept. */
export function note(window: Window, now: number, address: string): void {
  window.last = now;
  if (window.addresses.length < ADDRESSES_MAX && !window.addresses.includes(address)) {
    window.addresses.push(address);
  }
}

/** What a window counts: there is one open per slot. */
export function slotOf(window: Window): string {
  if (window.type === 'used') return useSlot(window.keyId, window.kind);
  return denialSlot(window.reason, window.keyId, window.addresses[0] ?? '');
}

export const useSlot = (keyId: number, kind: UseKind): string => `${keyId}/${kind}`;
export const denialSlot = (reason: string, keyId: number | null, network: string): string =>
  reason === OVERFLOW ? `denied/${OVERFLOW}` : `denied/${reason}/${keyId ?? network}`;

/** Holds the first request, so that a process that begins anew in the same minute makes another. */
export const idOf = (window: Window): string =>
  createHash('sha256')
    .update(`${slotOf(window)}/${window.first}`)
    .digest('base64url');

/** The append of a finished window; the same window again is a duplicate. */
export function toAppendCommand(window: Window, node: string): AppendCommand {
  const { keyId, mailDomain } = window;
  const id = idOf(window);
  const event = toAppend(toFact(window), {
    resource: { type: 'api_key', id: keyId === null ? 'unknown' : `${keyId}` },
    mailDomains: mailDomain === null ? [] : [`${mailDomain}`],
    commandId: commandIdOf(window.first, id),
    meta: {
      actor:
        keyId === null
          ? { type: 'anonymous', id: 'anonymous' }
          : { type: 'api_key', id: `${keyId}` },
      source: { node, ip: null, userAgent: null },
      requestId: null,
      correlationId: id,
      causationId: null,
      outcome: window.type === 'denied' ? 'denied' : 'success',
      occurredAt: at(window.last),
    },
  });
  return { stream: apiKeyUsageStream(keyId ?? 'unknown'), expected: 'any', events: [event] };
}

function toFact(window: Window): DomainEvent {
  const times = {
    from: at(window.from),
    to: at(window.to),
    first: at(window.first),
    last: at(window.last),
  };
  const personal = [{ name: 'addresses', value: window.addresses, class: 'network' as const }];
  if (window.type === 'denied') {
    const data = { reason: window.reason, ...times, count: window.count };
    return { type: 'api_key.denied', data, personal };
  }
  const { kind, requests, byOutcome } = window;
  const data = { kind, ...times, requests, by_outcome: byOutcome };
  return { type: 'api_key.used', data, personal };
}

const at = (ms: number): string => toTimestamp(new Date(ms));
