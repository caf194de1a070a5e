import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import { prepareEvent } from '../../src/projections/webhook-payload.ts';
import type { WebhookRow } from '../../src/projections/webhooks.ts';
import { addressPolicy } from '../../src/webhooks/addresses.ts';
import type { DeliveryDeps } from '../../src/webhooks/running.ts';
import type { Sent } from '../../src/webhooks/send.ts';
import { createSlots } from '../../src/webhooks/slots.ts';
import { anEvent } from './events.ts';

/** One POST that is under way until the test answers it. */
export type Post = Readonly<{ url: string; answer: (status: number) => void }>;

/** A statement as a pool was asked for it. */
export type Asked = Readonly<{ text: string; values: readonly unknown[] }>;
/** The rows that a statement answers with; null for what the test has no say in. */
export type Answering = (asked: Asked) => Promise<readonly object[] | null> | object[] | null;

export const A_ROW: WebhookRow = {
  ...{ id: 1, revision: 1n, status: 'active', cause: null, url: 'http://127.0.0.1:9999/a' },
  ...{ description: null, mailDomain: null, ordering: 'none', failingSince: null },
  epochs: [{ epoch: 1, after: 0n, eventTypes: ['*'], skips: false }],
  secrets: [{ fingerprint: '00000001', until: null }],
  ...{ createdAt: '2026-05-01T00:00:00Z', updatedAt: '2026-05-01T00:00:00Z' },
};

export const A_CURSOR = {
  ...{ webhookId: A_ROW.id, token: 1n, breaker: {}, quietUntil: null },
  place: { epoch: 1, position: 0n, sequence: 0, sentTo: 0n, isClean: false },
};

/** A database of which a test says what it answers; it has nothing else, and takes everything that is put down. */
export function handMadePool(answering: Answering): pg.Pool {
  const query = async (asked: string | Asked, values: readonly unknown[] = []) => {
    const call = typeof asked === 'string' ? { text: asked, values } : asked;
    const rows = await answering(call);
    return { rows: rows ?? (call.text.includes('as moved from moved') ? [{ moved: 1 }] : []) };
  };
  return { query } as unknown as pg.Pool;
}

/** What a subscription works with, with nobody at the other end: whatever it waits for is the test's to give. */
export function handMadeDeliveries(answering: Answering = () => null) {
  const log = memoryEventLog();
  const posts: Post[] = [];
  let head = 0n;
  const deps = {
    ...{ log, pool: handMadePool(answering), nodeId: 'test', slots: createSlots() },
    tail: { head: () => head, read: () => null, prepare: prepareEvent },
    sender: {
      send: ({ url }: { url: URL }) =>
        new Promise<Sent>((resolve) => {
          const rest = { ms: 1, peer: null, error: null, excerpt: null };
          const answer = (status: number) =>
            resolve({ ...rest, reply: { status, retryAfter: null, wish: null, failure: null } });
          posts.push({ url: url.href, answer });
        }),
    },
    policy: { addresses: addressPolicy(['127.0.0.0/8']), allowHttp: true },
    clock: { now: () => new Date(), nowMs: () => Date.now() },
    random: () => 0,
    secretsOf: async () => new Map(),
    // Longer than any test: what nobody wakes is found out.
    lookMs: 600_000,
    ...{ holdsLease: () => true, lapses: () => 1 },
    onAttempt: () => undefined,
    logger: { warn: () => undefined, error: () => undefined },
  } as unknown as DeliveryDeps;
  return {
    deps,
    posts,
    /** Appends events that every subscription is to have. */
    async happen(count: number): Promise<void> {
      for (let n = 0; n < count; n += 1) {
        const id = randomUUID();
        const event = anEvent({
          ...{ type: 'quarantine.content_read', data: { what: 'body' } },
          resource: { type: 'quarantined_message', id },
        });
        await log.append({ stream: `quarantined_message-${id}`, expected: 'any', events: [event] });
      }
      head = (await log.head()).position;
    },
  };
}
