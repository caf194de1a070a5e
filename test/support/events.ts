import { randomUUID } from 'node:crypto';
import type { EventMeta, EventToAppend } from '../../src/eventlog/eventlog.ts';

export const meta: EventMeta = {
  actor: { type: 'api_key', id: '1' },
  source: { node: 'node-1', ip: '192.0.2.7', userAgent: 'curl/8.0' },
  requestId: 'req-1',
  correlationId: 'cor-1',
  causationId: null,
  outcome: 'success',
  occurredAt: '2026-05-01T07:42:13.000000Z',
};

/** An event that is complete and dull; override what the test is about. */
export function anEvent(overrides: Partial<EventToAppend> = {}): EventToAppend {
  return {
    eventId: randomUUID(),
    type: 'test.happened',
    schemaVersion: 1,
    resource: { type: 'test', id: '1' },
    mailDomains: [],
    data: { note: 'plain' },
    personal: [],
    names: null,
    meta,
    ...overrides,
  };
}
