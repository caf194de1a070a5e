import { eventIdOf, newCommandId } from '../../dist/eventlog/handle-command.js';

/** What an event is about and by whom, where a benchmark cares; the rest is the same for all. */
const DEFAULTS = { actor: 10, type: 'message.held', mailDomain: 1 };
const NAMES = ['offer', 'invoice', 'newsletter', 'report', 'reminder', 'agenda', 'contract'];

/**
 * The n-th event: a committed line of some 490 bytes and three digests (138 bytes more), for three personal
 * values that the log keeps apart: the caller's address, the user agent, and a subject line.
 */
export function anEvent(n, { actor, type, mailDomain, resource = n } = {}) {
  const subject = `Re: ${NAMES[n % NAMES.length]} no. ${n} as discussed on the phone`;
  return {
    eventId: eventIdOf(newCommandId(), '', 0),
    type: type ?? DEFAULTS.type,
    schemaVersion: 1,
    resource: { type: 'message', id: String(resource) },
    mailDomains: [String(mailDomain ?? DEFAULTS.mailDomain)],
    data: { score: n % 100 },
    personal: [{ name: 'subject', value: subject, class: 'content' }],
    names: null,
    meta: {
      actor: { type: 'operator', id: String(actor ?? DEFAULTS.actor) },
      source: {
        node: 'n1',
        ip: `192.0.2.${n % 250}`,
        userAgent: 'Mozilla/5.0 (X11; Linux x86_64)',
      },
      requestId: null,
      correlationId: `c-${n}`,
      causationId: null,
      outcome: 'success',
      occurredAt: '2026-05-01T07:42:13.000000Z',
    },
  };
}

/** An event that only gives a subject its name, as readers will see it. */
export function namingEvent(type, id, name) {
  return {
    ...anEvent(id),
    type: 'bench.named',
    resource: { type, id: String(id) },
    mailDomains: [],
    personal: [],
    names: { name },
  };
}

/** Commands that each append one event to a stream of its own. */
export function someCommands(from, count) {
  return Array.from({ length: count }, (_, i) => {
    const n = from + i;
    return {
      stream: `message-${n}`,
      expected: 'none',
      events: [anEvent(n, { actor: 10 + (n % 50), mailDomain: 1 + (n % 20) })],
    };
  });
}
