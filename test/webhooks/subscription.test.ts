import { createSecretKey, type KeyObject, randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { ATTEMPT_COLUMNS } from '../../src/db/webhook-attempts.ts';
import { type WebhookCommand, webhook, webhookTarget } from '../../src/domain/webhook.ts';
import { handleCommand, newCommandId } from '../../src/eventlog/handle-command.ts';
import { FAILED_EVENTS_MAX } from '../../src/webhooks/breaker.ts';
import { type DeliveryDeps, SLOTS } from '../../src/webhooks/running.ts';
import { runSubscription, type Subscription } from '../../src/webhooks/subscription.ts';
import { meta } from '../support/events.ts';
import {
  A_CURSOR,
  A_ROW,
  type Asked,
  handMadeDeliveries,
} from '../support/hand-made-deliveries.ts';
import { holdAnswers, holdAppends, recordsType } from '../support/hold.ts';
import { eventually } from '../support/webhooks.ts';

const secretsNamed = (...fingerprints: readonly string[]): ReadonlyMap<string, KeyObject> =>
  new Map(fingerprints.map((one) => [one, createSecretKey(Buffer.from(one.repeat(4)))]));
const OLD = '00000001';
const NEW = '00000002';
/** Where outcomes stand among the values of a statement that puts things down. */
const OUTCOMES = 12 + ATTEMPT_COLUMNS.findIndex(([name]) => name === 'outcome');
/** And where the rows of retries stand. */
const KEPT = 10;
const ANOTHER_URL = 'http://127.0.0.1:9999/b';

async function command({ log }: DeliveryDeps, wanted: WebhookCommand): Promise<void> {
  const call = { ...webhookTarget(A_ROW), meta, commandId: newCommandId() };
  await handleCommand(log, webhook, { ...call, command: wanted });
}

/** A subscription that the log knows of, as it was made. */
async function runCreated(deps: DeliveryDeps): Promise<Subscription> {
  await command(deps, {
    type: 'CreateWebhook',
    data: {
      ...{ event_types: ['*'], ordering: 'none', mail_domain: null },
      ...{ start_after: '0', enabled: true, secret: OLD },
    },
    told: { url: A_ROW.url, description: null },
  });
  const row = { ...A_ROW, revision: 0n };
  const one = await runSubscription(deps, A_CURSOR, row);
  one.reload(row, secretsNamed(OLD));
  return one;
}

/** One that was created and has a post under way. */
async function onePosting() {
  const { deps, posts, happen } = handMadeDeliveries();
  const one = await runCreated(deps);
  await happen(1);
  one.wake();
  await eventually(() => expect(posts).toHaveLength(1));
  return { deps, posts, one };
}

describe('a subscription that is set anew', () => {
  it('signs with the newest secret, also when an older reading of it ends last', async () => {
    const { deps, posts, happen } = handMadeDeliveries();
    const one = await runSubscription(deps, A_CURSOR, A_ROW);
    const rotated = { ...A_ROW, revision: 2n, secrets: [{ fingerprint: NEW, until: null }] };
    one.reload(rotated, secretsNamed(OLD, NEW));
    one.reload(A_ROW, secretsNamed(OLD));
    await happen(1);
    one.wake();
    await eventually(
      () => [posts.length, one.status().inFlight],
      (seen) => expect(seen).toEqual([1, 1]),
    );
    posts[0]?.answer(200);
    await one.stop();
  });

  it.each([
    ['that it is gone', 410],
    ['that it fails', 500],
  ])('is not judged by what a former URL says: %s', async (_, status) => {
    const { deps, posts, happen } = handMadeDeliveries();
    const one = await runSubscription(deps, A_CURSOR, A_ROW);
    one.reload(A_ROW, secretsNamed(OLD));
    await happen(FAILED_EVENTS_MAX);
    one.wake();
    await eventually(() => expect(posts).toHaveLength(FAILED_EVENTS_MAX));
    one.reload({ ...A_ROW, revision: 2n, url: ANOTHER_URL }, secretsNamed(OLD));
    for (const post of posts.splice(0)) post.answer(status);
    await eventually(() => expect(posts).toHaveLength(FAILED_EVENTS_MAX));
    expect(posts.map(({ url }) => url)).toEqual(posts.map(() => ANOTHER_URL));
    expect(one.status().breaker).toBe('closed');
    for (const post of posts) post.answer(200);
    await one.stop();
  });

  it('does not send again what a former URL has taken', async () => {
    const { deps, posts, happen } = handMadeDeliveries();
    const one = await runSubscription(deps, A_CURSOR, A_ROW);
    one.reload(A_ROW, secretsNamed(OLD));
    await happen(1);
    one.wake();
    await eventually(() => expect(posts).toHaveLength(1));
    one.reload({ ...A_ROW, revision: 2n, url: ANOTHER_URL }, secretsNamed(OLD));
    posts[0]?.answer(200);
    await eventually(() => expect(one.status().position).toBe(1n));
    expect(posts).toHaveLength(1);
    await one.stop();
  });

  it('is not disabled for what was known of its former URL, when it is changed meanwhile', async () => {
    const { deps, posts, one } = await onePosting();
    const held = holdAppends(deps.log, recordsType('webhook.disabled'));
    posts.splice(0)[0]?.answer(410);
    await held.reached;
    const told = { url: ANOTHER_URL, description: null };
    await command(deps, { type: 'UpdateWebhook', changes: {}, told });
    one.reload({ ...A_ROW, revision: 1n, url: ANOTHER_URL }, secretsNamed(OLD));
    held.release();
    await eventually(() => expect(posts.map(({ url }) => url)).toEqual([ANOTHER_URL]));
    posts[0]?.answer(200);
    await one.stop();
  });

  it('goes on when it is enabled before its sender has the answer that it was disabled', async () => {
    const { deps, posts, one } = await onePosting();
    const answers = holdAnswers(deps.log, recordsType('webhook.disabled'));
    posts.splice(0)[0]?.answer(410);
    await answers.reached;
    await command(deps, { type: 'EnableWebhook', resume: 'cursor' });
    one.reload({ ...A_ROW, revision: 2n }, secretsNamed(OLD));
    answers.release();
    await eventually(() => expect(posts).toHaveLength(1));
    posts[0]?.answer(200);
    await one.stop();
  });
});

const isRetries = ({ text }: Asked) =>
  text.includes('from webhook_retries') && text.includes('order by position');
/** An event that somebody has asked for, as the database has it. */
function aRetry(position: number) {
  const now = new Date().toISOString();
  return {
    ...{ position: String(position), event_id: randomUUID(), key: 'k', epoch: 1, tries: 0 },
    ...{ sequence: String(position), due_at: now, first_failed_at: now, asked_at: now },
    ...{ state: 'retrying', is_sending: false, last_outcome: null },
  };
}
const aReplay = (until: bigint) => ({
  ...{ id: '7', webhook_id: String(A_ROW.id), after_position: '0', until_position: String(until) },
  ...{
    event_types: null,
    state: 'running',
    position: '0',
    sent_to: '0',
    delivered: '0',
    failed: '0',
  },
  ...{ created_at: A_ROW.createdAt, ended_at: null },
});
const isSettle = ({ text }: Asked) => text.includes('as moved from moved');

describe('a subscription that is stopped', () => {
  it('lets what is under way end and puts it down, also when the database fails as it is told', async () => {
    let fail = (): void => undefined;
    const failing = new Promise<never>((_, reject) => {
      fail = () => reject(new Error('Connection terminated'));
    });
    const outcomes: unknown[] = [];
    let settles = 0;
    const { deps, posts, happen } = handMadeDeliveries((asked) => {
      if (!isSettle(asked)) return null;
      settles += 1;
      // The first gives the marks; the second puts down what came of the first event.
      if (settles === 2) return failing;
      outcomes.push(...(asked.values[OUTCOMES] as unknown[]));
      return null;
    });
    const one = await runSubscription(deps, A_CURSOR, A_ROW);
    one.reload(A_ROW, secretsNamed(OLD));
    await happen(2);
    one.wake();
    await eventually(() => expect(posts).toHaveLength(2));
    posts[0]?.answer(200);
    await eventually(() => expect(settles).toBe(2));
    const stopped = one.stop();
    fail();
    await eventually(() => expect(one.status().inFlight).toBe(1));
    posts[1]?.answer(200);
    await stopped;
    expect(outcomes).toEqual(['delivered', 'delivered']);
  });
});

describe('what comes of deliveries', () => {
  it('is put down soon, also while many more are marked and the endpoint takes its time', async () => {
    const outcomes: unknown[] = [];
    const { deps, posts, happen } = handMadeDeliveries((asked) => {
      if (isSettle(asked)) outcomes.push(...(asked.values[OUTCOMES] as unknown[]));
      return null;
    });
    const one = await runSubscription(deps, A_CURSOR, A_ROW);
    one.reload(A_ROW, secretsNamed(OLD));
    const count = SLOTS * 4;
    await happen(count);
    one.wake();
    await eventually(() => expect(posts).toHaveLength(SLOTS));
    posts[0]?.answer(200);
    await eventually(() => expect(outcomes).toEqual(['delivered']));
    for (let n = 1; n < count; n += 1) {
      await eventually(() => expect(posts.length).toBeGreaterThan(n));
      posts[n]?.answer(200);
    }
    await one.stop();
  });
});

describe('an event that somebody has asked for', () => {
  it('is sent though marks were given only just, and the endpoint takes its time', async () => {
    let wanted: object[] = [];
    const { deps, posts, happen } = handMadeDeliveries((asked) =>
      isRetries(asked) ? wanted : null,
    );
    const one = await runSubscription(deps, A_CURSOR, A_ROW);
    one.reload(A_ROW, secretsNamed(OLD));
    await happen(2);
    one.wake();
    await eventually(() => expect(posts).toHaveLength(2));
    wanted = [aRetry(1)];
    one.reload(A_ROW, secretsNamed(OLD));
    await eventually(() => expect(posts).toHaveLength(3));
    for (const post of posts) post.answer(200);
    await one.stop();
  });

  it('is not marked as if it were sent, when the endpoint is found to be down meanwhile', async () => {
    let wanted: object[] = [];
    let end = (): void => undefined;
    const ended = new Promise<null>((resolve) => {
      end = () => resolve(null);
    });
    const marks: boolean[] = [];
    const { deps, posts, happen } = handMadeDeliveries((asked) => {
      if (isRetries(asked)) return wanted;
      if (!isSettle(asked)) return null;
      const kept = JSON.parse(String(asked.values[KEPT])) as { is_sending: boolean }[];
      marks.push(...kept.map((row) => row.is_sending));
      return kept.length === 1 && marks.length === 1 ? ended : null;
    });
    const one = await runSubscription(deps, A_CURSOR, A_ROW);
    one.reload(A_ROW, secretsNamed(OLD));
    await happen(FAILED_EVENTS_MAX);
    one.wake();
    await eventually(() => expect(posts).toHaveLength(FAILED_EVENTS_MAX));
    wanted = [aRetry(1)];
    one.reload(A_ROW, secretsNamed(OLD));
    await eventually(() => expect(marks).toEqual([true]));
    for (const post of posts) post.answer(500);
    await eventually(() => expect(one.status().breaker).toBe('open'));
    end();
    await eventually(() => expect(marks).toEqual([true, false]));
    await one.stop();
  });
});

describe('a subscription whose lease has lapsed, and is held again', () => {
  it('sends nothing that it had marked before the database has said that it is still its own', async () => {
    let lapses = 1;
    const { deps, posts, happen } = handMadeDeliveries((asked) =>
      // Another has taken it meanwhile.
      isSettle(asked) && lapses > 1 ? [{ moved: 0 }] : null,
    );
    const one = await runSubscription({ ...deps, lapses: () => lapses }, A_CURSOR, A_ROW);
    one.reload(A_ROW, secretsNamed(OLD));
    await happen(SLOTS * 2);
    one.wake();
    await eventually(() => expect(posts).toHaveLength(SLOTS));
    lapses += 1;
    posts[0]?.answer(200);
    await one.ended;
    expect(posts).toHaveLength(SLOTS);
  });

  it('goes on at once where it is', async () => {
    let lapses = 1;
    const { deps, posts, happen } = handMadeDeliveries();
    const one = await runSubscription({ ...deps, lapses: () => lapses }, A_CURSOR, A_ROW);
    one.reload(A_ROW, secretsNamed(OLD));
    await happen(SLOTS * 2);
    one.wake();
    await eventually(() => expect(posts).toHaveLength(SLOTS));
    lapses += 1;
    for (const post of posts.splice(0)) post.answer(200);
    await eventually(() => expect(posts).toHaveLength(SLOTS));
    for (const post of posts) post.answer(200);
    await one.stop();
  });
});

describe('a replay that is cancelled', () => {
  it('begins nothing more once that is known, also before it was looked up what is left', async () => {
    const until = BigInt(SLOTS);
    let replays: object[] = [aReplay(until)];
    let look = (): void => undefined;
    let looking: Promise<null> | null = null;
    const { deps, posts, happen } = handMadeDeliveries((asked) => {
      if (asked.text.includes('from webhook_replays')) return replays;
      return isRetries(asked) ? looking : null;
    });
    await happen(SLOTS);
    const place = { ...A_CURSOR.place, position: until, sequence: SLOTS, sentTo: until };
    const one = await runSubscription(deps, { ...A_CURSOR, place }, A_ROW);
    one.reload(A_ROW, secretsNamed(OLD));
    await eventually(() => expect(posts.length).toBeGreaterThan(1));
    const begun = posts.length;
    replays = [];
    looking = new Promise((resolve) => {
      look = () => resolve(null);
    });
    one.reload(A_ROW, secretsNamed(OLD));
    posts[0]?.answer(200);
    await eventually(() => expect(one.status().inFlight).toBe(begun - 1));
    expect(posts).toHaveLength(begun);
    look();
    for (const post of posts) post.answer(200);
    await one.stop();
  });
});
