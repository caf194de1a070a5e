import { expect, vi } from 'vitest';
import type { Reply, TestGateway } from './gateway.ts';
import type { Received, Receiver } from './webhook-receiver.ts';

/** A subscription as it was made, with the secret that was told once. */
export type Made = Readonly<{ id: number; secret: string; [member: string]: any }>;

/** Subscribes; throws when it was not made. */
export async function subscribe(t: TestGateway, body: object, key?: string): Promise<Made> {
  const reply = await t.send('POST', '/webhooks', {
    body: { event_types: ['mail_domain.created'], ...body },
    ...(key === undefined ? {} : { key }),
  });
  if (reply.status !== 201) throw new Error(`not made: ${reply.status} ${reply.text}`);
  return reply.body.data;
}

/** What a path below one subscription answers; throws when it is not 200. */
export async function look(t: TestGateway, id: number, path = '', key?: string): Promise<any> {
  const reply = await t.send('GET', `/webhooks/${id}${path}`, key === undefined ? {} : { key });
  if (reply.status !== 200) throw new Error(`${reply.status} ${reply.text}`);
  return reply.body.data;
}

const EVENTUALLY_MS = 15_000;

/**
 * Waits until what is looked at is as it shall be: results are put down a moment after they came. The last look's
 * failure is the test's.
 */
export async function eventually<T>(
  lookAt: () => Promise<T> | T,
  wanted: (value: T) => void = () => undefined,
): Promise<T> {
  const deadline = performance.now() + EVENTUALLY_MS;
  for (;;) {
    try {
      const value = await lookAt();
      wanted(value);
      return value;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** Waits until everything that a subscription has so far is delivered and put down. */
export const caughtUp = (t: TestGateway, id: number) =>
  eventually(
    () => look(t, id, '/stats'),
    (stats) =>
      expect([stats.oldest_waiting_at, stats.retrying, stats.in_flight]).toEqual([null, 0, 0]),
  );

/** Status and code of an answer, for one line of an assertion. */
export const told = ({ status, body }: Reply) => [status, body.error];

/** Where problems were, by path. */
export const issuesOf = ({ body }: Reply): string[] =>
  (body.data?.issues ?? []).map(({ path }: { path: string }) => path);

/** Verifies as an independent library would have done when it came, whatever the test's clock was then. */
export function verifyThen({ verify }: Receiver, secret: string, received: Received): void {
  const now = Number(received.headers['webhook-timestamp']) * 1_000;
  vi.useFakeTimers({ now, toFake: ['Date'] });
  try {
    verify(secret, received);
  } finally {
    vi.useRealTimers();
  }
}
