import {
  commandIdOf,
  eventIdOf,
  newCommandId,
  toAppend,
} from '../../dist/eventlog/handle-command.js';
import { recipientsMember } from '../../dist/projections/quarantine.js';

const FIRST_AT_MS = Date.parse('2026-04-01T00:00:00Z');
const APART_MS = 2_000;
/** So long that no retention ends one meanwhile. */
const RETENTION_MS = 3_650 * 86_400_000;
const MAIL_DOMAINS = 20;
const SYMBOLS = 60;
const SYMBOLS_EACH = 6;
const REASONS = ['spam', 'spam', 'spam', 'phishing', 'rbl', 'policy'];
/** Commands that wait together share a transaction; what is measured afterwards is delivering. */
const IN_FLIGHT = 100;

const arrivedAtMs = (n) => FIRST_AT_MS + n * APART_MS;
const timestamp = (ms) => `${new Date(ms).toISOString().slice(0, -1)}000Z`;
const commandOf = (n) => commandIdOf(arrivedAtMs(n), `bench/webhooks/${n}`);

/** The `webhook-id` of the n-th held message, the same in every log. */
export const heldId = (n) => eventIdOf(commandOf(n), 'added', 0);

/** Appends `count` held messages, each to a stream of its own as the gateway does it. */
export async function appendHeld(log, count) {
  let next = 0;
  async function caller() {
    while (next < count) {
      const n = next;
      next += 1;
      const stream = `quarantined_message-${commandOf(n)}`;
      const { kind } = await log.append({ stream, expected: 'none', events: [heldEvent(n)] });
      if (kind !== 'appended') throw new Error(`not appended: ${kind}`);
    }
  }
  await Promise.all(Array.from({ length: IN_FLIGHT }, caller));
}

/** As `src/api/routes/quarantine-ingest.ts` records a message that was handed in. */
function heldEvent(n) {
  const mailDomain = 10 + (n % MAIL_DOMAINS);
  const at = arrivedAtMs(n);
  const data = {
    node_id: 'n1',
    queue_id: n.toString(16).toUpperCase().padStart(12, '0'),
    store: 'spool',
    size_bytes: 2_000 + ((n * 977) % 60_000),
    sha256: n.toString(16).padStart(64, '0'),
    score: (n % 2_000) / 100,
    symbols: Array.from({ length: SYMBOLS_EACH }, (_, i) => `SYMBOL_${(n + i * 11) % SYMBOLS}`),
    reason: REASONS[n % REASONS.length],
    arrived_at: timestamp(at),
    expires_at: timestamp(at + RETENTION_MS),
    recipients_of: [{ mail_domain: String(mailDomain), count: 1 }],
  };
  const subject = `Re: your invoice no. ${n} as discussed on the phone`;
  const personal = [
    { name: 'sender', value: `s${n % 20_011}@d${n % 499}.sender.example`, class: 'content' },
    { name: 'subject', value: subject, class: 'content' },
    { name: 'message_id', value: `<${n}.${at}@mail.sender.example>`, class: 'content' },
    { name: 'client_ip', value: `192.0.2.${n % 250}`, class: 'network' },
    {
      name: recipientsMember(String(mailDomain)),
      value: [`user${n % 5_000}@d${mailDomain}.example.com`],
      class: 'content',
    },
  ];
  return toAppend(
    { type: 'quarantine.added', data, personal },
    {
      resource: { type: 'quarantined_message', id: commandOf(n) },
      mailDomains: [String(mailDomain)],
      commandId: commandOf(n),
      step: 'added',
      meta: metaOf({ type: 'api_key', id: '1' }, `c-${n}`),
    },
  );
}

/** Subscribers may have it, and no read model folds it: what it costs is the log's and the deliveries' alone. */
export const SIGNAL = 'reputation.threshold_crossed';

export function signalEvent(n) {
  const host = 1 + (n % 250);
  return {
    eventId: eventIdOf(newCommandId(), '', 0),
    type: SIGNAL,
    schemaVersion: 1,
    resource: { type: 'host', id: String(host) },
    mailDomains: [],
    data: { direction: 'below', threshold: 60, score: n % 60, measured_at: timestamp(FIRST_AT_MS) },
    personal: [{ name: 'address', value: `192.0.2.${host}`, class: 'network' }],
    names: null,
    meta: metaOf({ type: 'system', id: 'reputation' }, `s-${n}`),
  };
}

const metaOf = (actor, correlationId) => ({
  actor,
  source: { node: 'n1', ip: '192.0.2.1', userAgent: 'rspamd-3.8' },
  requestId: null,
  correlationId,
  causationId: null,
  outcome: 'success',
  occurredAt: timestamp(FIRST_AT_MS),
});
