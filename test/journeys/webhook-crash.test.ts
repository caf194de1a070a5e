import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SLOTS } from '../../src/webhooks/running.ts';
import { cleanUp, makeHome } from '../support/program.ts';
import {
  FAULTLESS,
  judgeWebhooks,
  makeWebhookWorld,
  type Post,
  putDownKey,
  repeatsOf,
  type WebhookBook,
  type WebhookRound,
  type WebhookVerdict,
  type WebhookWorld,
  webhookCrashRound,
  webhookFigures,
} from '../support/webhook-crash.ts';

// The other kinds of crash, and the number of rounds for every release, are in webhook-crash.soak.ts.

const SEED = Number(process.env['WEBHOOK_CRASH_SEED'] ?? Date.now() % 1_000_000);

describe('kill -9 while events are delivered', () => {
  const rounds: WebhookRound[] = [];
  let world: WebhookWorld;
  beforeAll(async () => {
    world = await makeWebhookWorld(makeHome(), SEED);
  });
  afterAll(async () => {
    process.stdout.write(webhookFigures(world, rounds, SEED));
    await world.stop();
    await cleanUp();
  }, 60_000);

  it('of gateway and database loses no event, and repeats none beyond what it left in doubt', async () => {
    const round = await webhookCrashRound('both', world);
    rounds.push(round);
    expect([SEED, world.surprises.splice(0)]).toEqual([SEED, []]);
    expect([SEED, round.verdict]).toEqual([SEED, FAULTLESS]);
  }, 180_000);

  it('met posts in doubt, refusals, a replay over the whole log, and clients in mid-request', () => {
    const { posts = [], putDown = new Map(), replays = [] } = rounds.at(-1)?.book ?? {};
    expect([...putDown.values()].some(({ unknown }) => unknown > 0)).toBe(true);
    expect(posts.some(({ status }) => status === 500)).toBe(true);
    expect(replays.map(({ after }) => after)).toContain(0);
    expect(posts.some(({ replay }) => replay !== null)).toBe(true);
    expect(world.figures.broken).toBeGreaterThan(0);
  });

  it('would have been noticed, had one of its posts been missing, another or too many (control)', () => {
    const { book } = rounds.at(-1)!;
    const post = book.posts.findLast(({ replay, status }) => replay === null && status === 200)!;
    const others = book.posts.filter(
      ({ webhook, id }) => webhook !== post.webhook || id !== post.id,
    );
    expect(judgeWebhooks({ ...book, posts: others }).lost).toHaveLength(1);
    const altered = { ...post, digest: 'other' };
    expect(judgeWebhooks({ ...book, posts: [...book.posts, altered] }).altered).toHaveLength(1);
    expect(judgeWebhooks({ ...book, posts: [...book.posts, post] }).repeated).toHaveLength(1);
    expect(judgeWebhooks({ ...book, putDown: new Map() }).uncovered).not.toEqual([]);
  });
});

describe('judgeWebhooks', () => {
  const EVENTS = 40;
  const AT_MS = 1_000;
  const eventOf = (position: number) => ({
    position,
    id: `e${position}`,
    type: 'mail_domain.updated',
    key: `mail_domain-${position % 2}`,
    mailDomains: [String(position % 2)],
  });
  const postOf = (position: number, changes: Partial<Post> = {}): Post => ({
    webhook: 1,
    id: `e${position}`,
    digest: `d${position}`,
    position,
    sequence: position,
    epoch: 1,
    key: `mail_domain-${position % 2}`,
    replay: null,
    round: 1,
    life: 1,
    status: 200,
    at: position * 10,
    atMs: AT_MS + position,
    answeredAt: position * 10 + 1,
    ...changes,
  });
  /** The second life, after everything else. */
  const again = (position: number, changes: Partial<Post> = {}): Post => {
    const { at, atMs } = postOf(position + EVENTS * 10);
    return postOf(position, { life: 2, at, atMs, answeredAt: at + 1, ...changes });
  };
  const bookOf = (posts: readonly Post[], changes: Partial<WebhookBook> = {}): WebhookBook => {
    const putDown = new Map<string, { rows: number; unknown: number; digests: string[] }>();
    for (const { webhook, id, replay, digest } of posts) {
      const key = putDownKey(webhook, id, replay);
      const { rows = 0, digests = [] } = putDown.get(key) ?? {};
      putDown.set(key, { rows: rows + 1, unknown: 0, digests: [...digests, digest] });
    }
    return {
      acknowledged: ['mail_domain.updated/1/t1'],
      facts: new Set(['mail_domain.updated/1/t1']),
      events: Array.from({ length: EVENTS }, (_, index) => eventOf(index + 1)),
      wildcard: new Set(['mail_domain.updated']),
      webhooks: [
        {
          id: 1,
          name: 'all',
          mailDomain: null,
          ordering: 'key',
          epochs: [{ epoch: 1, after: 0, types: ['*'] }],
        },
      ],
      posts,
      putDown,
      // Of the posts of the first life the last ten came after the last commit but one.
      kills: [
        {
          round: 1,
          kind: 'gateway',
          life: 1,
          atMs: AT_MS + EVENTS + 1,
          sinceMs: new Map([[1, AT_MS + EVENTS - 9]]),
        },
      ],
      replays: [],
      retries: [],
      disorder: [],
      ...changes,
    };
  };
  const all = Array.from({ length: EVENTS }, (_, index) => postOf(index + 1));
  const without = (position: number) => all.filter((post) => post.position !== position);
  const expectOnly = (book: WebhookBook, kind: keyof WebhookVerdict, faults = 1) => {
    const { [kind]: found, ...others } = judgeWebhooks(book);
    const { [kind]: _, ...faultless } = FAULTLESS;
    expect(found).toHaveLength(faults);
    expect(others).toEqual(faultless);
  };

  it('finds nothing where everything arrived once', () => {
    expect(judgeWebhooks(bookOf(all))).toEqual(FAULTLESS);
  });
  it('finds nothing in what a kill explains, or a refusal', () => {
    const inDoubt = [again(EVENTS - 1), again(EVENTS)];
    expect(judgeWebhooks(bookOf([...all, ...inDoubt]))).toEqual(FAULTLESS);
    const refused = [...without(EVENTS), postOf(EVENTS, { status: 500 }), again(EVENTS)];
    expect(judgeWebhooks(bookOf(refused))).toEqual(FAULTLESS);
  });
  it('reports a delivery that is missing, and the hole in the sequence', () => {
    const { lost, undense } = judgeWebhooks(bookOf(without(20)));
    expect(lost).toEqual(['all never got mail_domain.updated at 20']);
    expect(undense).toEqual(['all got no 20 in epoch 1']);
    // The last one leaves no hole.
    expectOnly(bookOf(without(EVENTS)), 'lost');
  });
  it('reports an event that was refused and never arrived', () => {
    expectOnly(bookOf([...without(EVENTS), postOf(EVENTS, { status: 500 })]), 'lost');
  });
  it('reports what was acknowledged and is not in the log', () => {
    expectOnly(bookOf(all, { facts: new Set() }), 'lost');
  });
  it('reports a body that differs, in a replay, too', () => {
    const { putDown } = bookOf(all);
    const posts = [...all, again(EVENTS, { digest: 'other' })];
    expect(judgeWebhooks(bookOf(posts)).altered).toEqual(['all got 40 with other bytes']);
    // Whatever was put down about it.
    const covered = new Map([
      ...putDown,
      [putDownKey(1, 'e40', null), { rows: 1, unknown: 1, digests: [] }],
    ]);
    expectOnly(bookOf(posts, { putDown: covered }), 'altered');
    const replayed = again(1, { digest: 'other', replay: '1' });
    expectOnly(bookOf([...all, replayed]), 'altered');
  });
  it('reports repetitions beyond the bound of their kill', () => {
    const bound = SLOTS + 10;
    const some = Array.from({ length: bound }, (_, index) => again(EVENTS - index, { at: 1e6 }));
    const atBound = bookOf([...all, ...some]);
    expect(repeatsOf(atBound)).toMatchObject([{ webhook: 1, count: bound, bound }]);
    expect(judgeWebhooks(atBound)).toEqual(FAULTLESS);
    const one = again(EVENTS - bound, { at: 1e6 });
    expectOnly(bookOf([...all, ...some, one]), 'beyond');
  });
  it('reports an event that was posted four times in one round', () => {
    const book = bookOf([...all, again(EVENTS), again(EVENTS, { life: 3 })]);
    expect(judgeWebhooks(book)).toEqual(FAULTLESS);
    const fourth = [...book.posts, again(EVENTS, { life: 4 })];
    expectOnly(bookOf(fourth), 'beyond');
  });
  it('reports a repetition that no kill explains', () => {
    expectOnly(bookOf([...all, again(EVENTS, { life: 1 })]), 'repeated');
    const database = bookOf(all).kills.map((kill) => ({ ...kill, kind: 'database' as const }));
    const posts = [...all, again(EVENTS, { life: 1 })];
    expectOnly(bookOf(posts, { kills: database }), 'repeated');
  });
  it('reports an event of somebody else, and one of a type or an epoch that was not asked for', () => {
    const [webhook] = bookOf(all).webhooks;
    const bound = bookOf([postOf(2, { sequence: 1 })], {
      events: [eventOf(1), eventOf(2)],
      webhooks: [{ ...webhook!, mailDomain: '0' }],
    });
    expect(judgeWebhooks(bound)).toEqual(FAULTLESS);
    const posts = [...bound.posts, postOf(1, { sequence: 2, position: 3 })];
    expectOnly(
      { ...bound, ...bookOf(posts, bound), posts, putDown: bookOf(posts).putDown },
      'unasked',
    );
    expectOnly(bookOf([...all, again(1, { epoch: 2, replay: '1' })]), 'unasked');
  });
  it('reports one number for two events, and numbers that are not in the order of the log', () => {
    const twice = [...without(EVENTS), postOf(EVENTS, { sequence: EVENTS - 1 })];
    expectOnly(bookOf(twice), 'undense');
    const swapped = [
      ...all.slice(0, -2),
      postOf(EVENTS - 1, { sequence: EVENTS }),
      postOf(EVENTS, { sequence: EVENTS - 1 }),
    ];
    expectOnly(bookOf(swapped), 'undense');
  });
  it('reports an event that overtook the one ahead of it in its key', () => {
    // The one ahead, 38, is answered only when 40 is there.
    const slow = all.map((one) => (one.position === 38 ? { ...one, answeredAt: 1_000 } : one));
    expectOnly(bookOf(slow), 'unordered');
    const [webhook] = bookOf(all).webhooks;
    const free = bookOf(slow, { webhooks: [{ ...webhook!, ordering: 'none' }] });
    expect(judgeWebhooks(free)).toEqual(FAULTLESS);
  });
  it('reports an event that overtook one of another key where all go in one order', () => {
    const slow = all.map((one) => (one.position === 39 ? { ...one, answeredAt: 1_000 } : one));
    const [webhook] = bookOf(all).webhooks;
    expectOnly(bookOf(slow, { webhooks: [{ ...webhook!, ordering: 'strict' }] }), 'unordered');
    // Control: of two keys it is none of the other's.
    expect(judgeWebhooks(bookOf(slow))).toEqual(FAULTLESS);
  });
  it('reports posts that nothing was put down about, or something else', () => {
    const { putDown } = bookOf(all);
    const key = putDownKey(1, 'e7', null);
    const less = new Map([...putDown].filter(([other]) => other !== key));
    expectOnly(bookOf(all, { putDown: less }), 'uncovered');
    const other = new Map([...putDown, [key, { rows: 1, unknown: 0, digests: ['other'] }]]);
    expectOnly(bookOf(all, { putDown: other }), 'uncovered');
    const inDoubt = new Map([...putDown, [key, { rows: 0, unknown: 1, digests: [] }]]);
    expect(judgeWebhooks(bookOf(all, { putDown: inDoubt }))).toEqual(FAULTLESS);
  });
  it('reports a replay without an end, one that left something out, and what is left to be tried', () => {
    const replay = { id: '1', webhook: 1, after: 0, until: 2, state: 'completed' };
    const posts = [...all, again(1, { replay: '1' }), again(2, { replay: '1' })];
    expect(judgeWebhooks(bookOf(posts, { replays: [replay] }))).toEqual(FAULTLESS);
    expectOnly(bookOf(posts, { replays: [{ ...replay, until: 3 }] }), 'undone');
    expectOnly(bookOf(posts, { replays: [{ ...replay, state: 'running' }] }), 'undone');
    expectOnly(bookOf(all, { retries: ['1: 7 retrying'] }), 'undone');
  });
});
