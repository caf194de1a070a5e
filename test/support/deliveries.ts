import { randomUUID } from 'node:crypto';
import { expect } from 'vitest';
import type { EventToAppend } from '../../src/eventlog/eventlog.ts';
import { anEvent } from './events.ts';
import type { TestClock, TestGateway } from './gateway.ts';
import type { Receiver } from './webhook-receiver.ts';
import { eventually, look, type Made, subscribe } from './webhooks.ts';

const TYPE = 'quarantine.content_read';

/** A subscription to what `happen` makes, unless said otherwise. */
export const subscribeTo = (
  t: TestGateway,
  { url }: Pick<Receiver, 'url'>,
  fields: object = {},
): Promise<Made> => subscribe(t, { url, event_types: [TYPE], ...fields });

type Happening = { key?: (n: number) => string } & Partial<EventToAppend>;

/** Appends events that a subscriber may have and nothing else follows from; their ids, in order. */
export async function happen(
  t: TestGateway,
  count: number,
  { key = () => randomUUID(), ...fields }: Happening = {},
): Promise<readonly string[]> {
  const events = Array.from({ length: count }, (_, n) => ({
    stream: `quarantined_message_reads-${key(n)}`,
    event: anEvent({
      type: TYPE,
      resource: { type: 'quarantined_message', id: randomUUID() },
      data: { what: 'body' },
      ...fields,
    }),
  }));
  // Taken in in the order of the calls, many in one commit.
  const { log } = t.gateway.context;
  await Promise.all(
    events.map(({ stream, event }) => log.append({ stream, expected: 'any', events: [event] })),
  );
  return events.map(({ event }) => event.eventId);
}

export const statsOf = (t: TestGateway, { id }: Made) => look(t, id, '/stats');
export const viewOf = (t: TestGateway, { id }: Made) => look(t, id);
export const attemptsOf = (t: TestGateway, { id }: Made, eventId: string) =>
  look(t, id, `/deliveries/${eventId}/attempts`);

/** Waits until nothing is under way: what was answered has been taken in. */
export const idle = (t: TestGateway, one: Made) =>
  eventually(
    () => statsOf(t, one),
    (stats) => expect(stats.in_flight).toBe(0),
  );

/**
 * Lets time pass once nothing is under way: what is answered after a leap would begin its wait only then, and
 * the leap would be spent on nothing.
 */
export async function pass(t: TestGateway, one: Made, clock: TestClock, ms: number): Promise<void> {
  await idle(t, one);
  clock.advance(ms);
}

/** What was recorded about a subscription, oldest first. */
export async function notesOf(t: TestGateway, { id }: Made, type: string): Promise<any[]> {
  const { body } = await t.send('GET', `/audit/logs?resource=webhook:${id}&action=${type}`);
  return body.data;
}

/** The sequences that have arrived, each once, in ascending order. */
export const sequencesOf = (receiver: Receiver): number[] =>
  [...new Set(receiver.received.map(({ payload }) => payload.sequence as number))].sort(
    (a, b) => a - b,
  );

export const oneTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n + 1);
