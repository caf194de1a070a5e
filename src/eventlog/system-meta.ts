import { type Clock, toTimestamp } from '../clock.ts';
import type { EventMeta } from './eventlog.ts';

/** What the system does by itself at an instant; one correlation id for all of it, unless told otherwise. */
export function systemMeta(
  { nodeId }: Readonly<{ nodeId: string }>,
  now: ReturnType<Clock['now']>,
  correlationId = `system-${now.getTime()}`,
): EventMeta {
  return {
    actor: { type: 'system', id: 'mailguard' },
    source: { node: nodeId, ip: null, userAgent: null },
    requestId: null,
    correlationId,
    causationId: null,
    outcome: 'success',
    occurredAt: toTimestamp(now),
  };
}
