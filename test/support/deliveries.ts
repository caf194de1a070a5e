import { randomUUID } from 'node:crypto';
import { expect } from 'vitest';
import type { EventToAppend } from '../../src/eventlog/eventlog.ts';
import { anEvent } from './events.ts';
import type { TestClock, TestGateway } from './gateway.ts';
import type { Receiver } from './webhook-receiver.ts';

export const TYPE = 'quarantine.content_read';

export type Subscribed = Readonly<{ id: number; secret: string }>;

/** A subscription to what `happen` makes, unless said otherwise. */
export async function subscribe(
  t: TestGateway,
  receiver: Pick<Receiver, 'url'>,
  fields: object = {},
): Promise<Subscribed> {
  const body = { url: receiver.url, event_types: [TYPE], ...fields };
  const made = await t.send('POST', '/webhooks', { body });
  if (made.status !== 201) throw new Error(`not made: ${made.status} ${made.text}`);
  return made.body.data;
}

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

/** Waits until a check holds; its last failure is the test's. */
export async function eventually<T>(check: () => T | Promise<T>, timeoutMs = 15_000): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

export const statsOf = async (t: TestGateway, { id }: Subscribed) =>
  (await t.send('GET', `/webhooks/${id}/stats`)).body.data;

export const viewOf = async (t: TestGateway, { id }: Subscribed) =>
  (await t.send('GET', `/webhooks/${id}`)).body.data;

export const attemptsOf = async (t: TestGateway, { id }: Subscribed, eventId: string) =>
  (await t.send('GET', `/webhooks/${id}/deliveries/${eventId}/attempts`)).body.data;

/** Waits until nothing is under way: what was answered has been taken in. */
export const idle = (t: TestGateway, one: Subscribed): Promise<void> =>
  eventually(async () => expect((await statsOf(t, one)).in_flight).toBe(0));

/**
 * Lets time pass once nothing is under way: what is answered after a leap would begin its wait only then, and
 * the leap would be spent on nothing.
 */
export async function pass(
  t: TestGateway,
  one: Subscribed,
  clock: TestClock,
  ms: number,
): Promise<void> {
  await idle(t, one);
  clock.advance(ms);
}

/** What was recorded about a subscription, oldest first. */
export async function notesOf(t: TestGateway, { id }: Subscribed, type: string): Promise<any[]> {
  const { body } = await t.send('GET', `/audit/logs?resource=webhook:${id}&action=${type}`);
  return body.data;
}

/** Everything that was made has been delivered and put down. */
export async function caughtUp(t: TestGateway, one: Subscribed): Promise<void> {
  await eventually(async () =>
    expect(await statsOf(t, one)).toMatchObject({
      oldest_waiting_at: null,
      retrying: 0,
      in_flight: 0,
    }),
  );
}

/** The sequences that have arrived, each once, in ascending order. */
export const sequencesOf = (receiver: Receiver): number[] =>
  [...new Set(receiver.received.map(({ payload }) => payload.sequence as number))].sort(
    (a, b) => a - b,
  );

export const oneTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n + 1);
