import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import type { Ordering } from '../../src/domain/webhook.ts';
import type { RecordedEvent } from '../../src/eventlog/upcast.ts';
import { PAGE_EVENTS, SLOTS } from '../../src/webhooks/running.ts';
import { ask, type CrashKind, exportLog } from './crash.ts';
import { findDisorder } from './log-checks.ts';
import { seededRandom, upTo } from './mail-crash.ts';
import { databasePid, databaseUrl, type Program, startProgram } from './program.ts';
import { type Receiver, startReceiver } from './webhook-receiver.ts';

type Random = ReturnType<typeof seededRandom>;

const COMMAND_MS = 40_000;
const LOAD_MS_MAX = 15_000;
const RETRY_MS = 25;
/** From the kill: a dead process's lease at worst (15 s), its successor's start, and a slow machine. */
const RECOVERY_MS = 45_000;
const SETTLE_MS = 90_000;
const QUIET_MS = 300;

const UPDATERS = 18;
const CREATORS = 6;
/** Mail domains that change all the time: each is a key of its own. */
const DOMAINS = 6;
/** Commands acknowledged in a round before its kill, and after deliveries are back. */
const COMMANDS_BEFORE = 200;
const COMMANDS_AFTER = 40;
/** The kill falls anywhere in this time after that, so that a backlog is under way or just over. */
const MOMENT_MS = 250;
/** How many of the subscriptions are held until shortly before it. */
const HELD_SHARE = 0.6;
/** Between the commands of one client while nobody delivers: the backlog of a wait is bounded by it. */
const LEISURE_MS = 400;
/** What an endpoint takes to answer. */
const ANSWER_MS = 2;
/** Every so many-th event of the failing endpoint is refused the first time. */
const FAILS_EVERY = 7;
/** Events of the ordered endpoint that are refused the first time in a round; it holds up its key for 5 s. */
const ORDERED_FAILURES = 1;
/** A replay goes over the whole log until that is longer than this, and then over its end. */
const REPLAY_EVENTS = 4_000;

/** Posts of one event that nobody replays, in one round: one that is refused, one that arrives, and one more a kill. */
const LIVE_POSTS_MAX = 2;
/** Between two looks at the cursors. */
const LOOK_MS = 4;
const DRAIN_TURNS = 10;

// ---- what is judged

/** A POST as its endpoint saw it; `at` and `answeredAt` count arrivals and answers of all endpoints together. */
export type Post = {
  readonly webhook: number;
  readonly id: string;
  readonly digest: string;
  readonly position: number;
  readonly sequence: number | null;
  readonly epoch: number;
  readonly key: string;
  /** The id of the replay that it says it is of. */
  readonly replay: string | null;
  readonly round: number;
  /** Which start of the gateway has sent it. */
  readonly life: number;
  readonly status: number;
  readonly at: number;
  /** By the clock of `performance`. */
  readonly atMs: number;
  answeredAt: number | null;
};

/** Which filter counts for events behind `after`. */
export type BookEpoch = Readonly<{ epoch: number; after: number; types: readonly string[] }>;

export type BookWebhook = Readonly<{
  id: number;
  name: string;
  mailDomain: string | null;
  ordering: Ordering;
  epochs: readonly BookEpoch[];
}>;

export type LoggedEvent = Readonly<{
  position: number;
  id: string;
  type: string;
  key: string;
  mailDomains: readonly string[];
}>;

/** What was put down about the posts of one event: attempts with an answer or none, and `unknown` ones. */
export type PutDown = Readonly<{ rows: number; unknown: number; digests: readonly string[] }>;

/** The end of one life of the gateway, or of its database under it. */
export type Kill = Readonly<{
  round: number;
  kind: CrashKind;
  life: number;
  atMs: number;
  /** By subscription: its cursor was committed at least twice after this time, before the kill. */
  sinceMs: ReadonlyMap<number, number>;
}>;

export type BookReplay = Readonly<{
  id: string;
  webhook: number;
  /** Its events stand behind `after`, and at `until` or before. */
  after: number;
  until: number;
  state: string;
}>;

/** Everything that one needs to know to judge deliveries. */
export type WebhookBook = Readonly<{
  /** What the API has acknowledged, as `factOf` tells events. */
  acknowledged: readonly string[];
  /** What the log holds, as `factOf` tells it. */
  facts: ReadonlySet<string>;
  events: readonly LoggedEvent[];
  /** What `*` stands for. */
  wildcard: ReadonlySet<string>;
  webhooks: readonly BookWebhook[];
  posts: readonly Post[];
  /** By `putDownKey`. */
  putDown: ReadonlyMap<string, PutDown>;
  kills: readonly Kill[];
  replays: readonly BookReplay[];
  /** Events that are still in the retry set, parked ones included. */
  retries: readonly string[];
  disorder: readonly string[];
}>;

/** What is wrong, in words, by kind; every list is empty when nothing is. */
export type WebhookVerdict = Readonly<{
  /** Acknowledged, and not in the log; or in the log, and not posted to one who is to have it. */
  lost: readonly string[];
  /** Posted to one who is not to have it. */
  unasked: readonly string[];
  /** One id with different bytes. */
  altered: readonly string[];
  /** Sequences with a hole, twice for different events, or not in the order of the log. */
  undense: readonly string[];
  /** Of an ordered endpoint: posted before the one ahead of it had arrived. */
  unordered: readonly string[];
  /** Posted again though it had arrived and nobody was killed in between. */
  repeated: readonly string[];
  /** More repetitions than a kill explains, or more posts of one event than there may be. */
  beyond: readonly string[];
  /** Posts that nothing was put down about. */
  uncovered: readonly string[];
  /** Replays that did not end or left something out, and what is still to be tried again. */
  undone: readonly string[];
  disorder: readonly string[];
}>;

export const FAULTLESS: WebhookVerdict = {
  lost: [],
  unasked: [],
  altered: [],
  undense: [],
  unordered: [],
  repeated: [],
  beyond: [],
  uncovered: [],
  undone: [],
  disorder: [],
};

export const putDownKey = (webhook: number, id: string, replay: string | null): string =>
  `${webhook}/${id}/${replay ?? ''}`;

/** Compares what endpoints have seen with what they were to see, and with what was put down about it. */
export function judgeWebhooks(book: WebhookBook): WebhookVerdict {
  const ofWebhook = groupBy(book.posts, ({ webhook }) => webhook);
  const faults: Record<keyof WebhookVerdict, string[]> = {
    lost: book.acknowledged
      .filter((fact) => !book.facts.has(fact))
      .map((fact) => `${fact} was acknowledged and is not in the log`),
    unasked: [],
    altered: [],
    undense: [],
    unordered: [],
    repeated: [],
    beyond: findBeyond(book),
    uncovered: findUncovered(book),
    undone: [
      ...book.retries.map((text) => `still to be tried again: ${text}`),
      ...findUnreplayed(book),
    ],
    disorder: [...book.disorder],
  };
  for (const webhook of book.webhooks) {
    const posts = ofWebhook.get(webhook.id) ?? [];
    faults.lost.push(...findLost(book, webhook, posts));
    faults.unasked.push(...findUnasked(book, webhook, posts));
    faults.altered.push(...findAltered(webhook, posts));
    faults.undense.push(...findUndense(webhook, posts));
    faults.repeated.push(...findRepeated(webhook, posts));
    if (webhook.ordering !== 'none') faults.unordered.push(...findUnordered(book, webhook, posts));
  }
  return faults;
}

/** Events that a subscription is to have, each with the epoch that counts for it; null before its first. */
export function expectedOf(
  { events, wildcard }: Pick<WebhookBook, 'events' | 'wildcard'>,
  { epochs, mailDomain }: BookWebhook,
): { event: LoggedEvent; epoch: BookEpoch | null }[] {
  const matches = (event: LoggedEvent, types: readonly string[]) =>
    (types.includes('*') ? wildcard.has(event.type) : types.includes(event.type)) &&
    (mailDomain === null || event.mailDomains.includes(mailDomain));
  return events
    .map((event) => ({
      event,
      epoch: epochs.findLast(({ after }) => after < event.position) ?? null,
    }))
    .filter(({ event, epoch }) => matches(event, (epoch ?? epochs[0])?.types ?? []));
}

const isLive = ({ replay }: Post): boolean => replay === null;
const isWell = ({ status }: Post): boolean => status < 300;

function findLost(book: WebhookBook, webhook: BookWebhook, posts: readonly Post[]): string[] {
  const arrived = new Set(posts.filter(isWell).map(({ id }) => id));
  return expectedOf(book, webhook)
    .filter(({ event, epoch }) => epoch !== null && !arrived.has(event.id))
    .map(({ event }) => `${webhook.name} never got ${event.type} at ${event.position}`);
}

function findUnasked(book: WebhookBook, webhook: BookWebhook, posts: readonly Post[]): string[] {
  const epochs = new Map(expectedOf(book, webhook).map(({ event, epoch }) => [event.id, epoch]));
  return posts
    .filter(({ id, replay, epoch }) => {
      const due = epochs.get(id);
      // From before its first epoch it gets what it asks for alone, which is a replay.
      return due === undefined || (due?.epoch ?? 0) !== epoch || (due === null && replay === null);
    })
    .map(({ position, epoch }) => `${webhook.name} got ${position} of epoch ${epoch}, unasked`);
}

function findAltered({ name }: BookWebhook, posts: readonly Post[]): string[] {
  const digests = new Map<string, string>();
  return posts
    .filter(({ id, digest }) => {
      const known = digests.get(id);
      if (known === undefined) digests.set(id, digest);
      return known !== undefined && known !== digest;
    })
    .map(({ position }) => `${name} got ${position} with other bytes`);
}

function findUndense({ name }: BookWebhook, posts: readonly Post[]): string[] {
  const faults: string[] = [];
  const numbered = posts.filter(({ sequence }) => sequence !== null);
  for (const [epoch, some] of groupBy(numbered, (post) => post.epoch)) {
    const bySequence = groupBy(some, ({ sequence }) => sequence ?? 0);
    let last = 0;
    for (let sequence = 1; sequence <= bySequence.size; sequence += 1) {
      const same = bySequence.get(sequence) ?? [];
      const [first] = same;
      if (first === undefined) {
        faults.push(`${name} got no ${sequence} in epoch ${epoch}`);
        // One hole shifts all that follows; naming it once is enough.
        break;
      }
      if (same.some(({ id }) => id !== first.id)) faults.push(`${name} got two ${sequence}`);
      if (first.position <= last) faults.push(`${name} got ${sequence} out of the log's order`);
      last = first.position;
    }
  }
  return faults;
}

/**
 * Of each key (in strict order: of all) events arrive first in their order, and none is posted before the one
 * ahead of it was answered well. A kill makes no exception: what is sent again has arrived before.
 */
function findUnordered(book: WebhookBook, webhook: BookWebhook, posts: readonly Post[]): string[] {
  const faults: string[] = [];
  const live = groupBy(posts.filter(isLive), ({ id }) => id);
  const due = expectedOf(book, webhook).filter(({ epoch }) => epoch !== null);
  const queueOf = (key: string) => (webhook.ordering === 'strict' ? 'all' : key);
  for (const [key, some] of groupBy(due, ({ event }) => queueOf(event.key))) {
    let clearedAt = -1;
    let ahead = 0;
    for (const { event } of some) {
      const tries = live.get(event.id) ?? [];
      const firstAt = tries[0]?.at ?? Number.POSITIVE_INFINITY;
      if (firstAt < clearedAt) {
        faults.push(`${webhook.name} got ${event.position} of ${key} before ${ahead} had arrived`);
      }
      const well = tries.find((post) => isWell(post) && post.answeredAt !== null);
      // One that is not there is lost, which is told elsewhere.
      if (well !== undefined) [clearedAt, ahead] = [well.answeredAt ?? 0, event.position];
    }
  }
  return faults;
}

/** Pairs of posts of which the second was not needed: the first had been taken, or nobody could know. */
function repetitions(posts: readonly Post[]): { earlier: Post; later: Post }[] {
  const pairs: { earlier: Post; later: Post }[] = [];
  const last = new Map<string, Post>();
  for (const later of posts) {
    const key = putDownKey(later.webhook, later.id, later.replay);
    const earlier = last.get(key);
    if (earlier !== undefined && isWell(earlier)) pairs.push({ earlier, later });
    last.set(key, later);
  }
  return pairs;
}

function findRepeated({ name }: BookWebhook, posts: readonly Post[]): string[] {
  return repetitions(posts)
    .filter(({ earlier, later }) => earlier.life === later.life)
    .map(({ later }) => `${name} got ${later.position} again in one life of the gateway`);
}

export type Repeats = Readonly<{
  kill: Kill;
  webhook: number;
  count: number;
  bound: number;
  /** How long before the kill the earliest of them had arrived. */
  oldestMs: number;
}>;

/**
 * What each kill has made each endpoint see again, beside what it may.
 *
 * A kill of the gateway leaves in doubt what was in flight, at most SLOTS, and results that were not committed.
 * Results are put down one statement after the other, each with all that there were when it began, and it begins
 * when the one before has ended (at the latest FLUSH_MS after the oldest result). So what the last statement that
 * was committed did not hold came after the one before it:
 *
 *   bound = SLOTS + min(posts of this endpoint since the last commit but one, marks)
 *
 * The commits are watched from outside (`watchCommits`), so that the bound follows the rate of this very moment.
 * Marks are the code's own limit, whatever the rate: nothing is posted without one, they are given by that
 * statement, too, a page at a time when less than half a page is left, so since it began at most one and a half
 * pages could go for the cursor, as many for each replay, and SLOTS of what is tried again.
 * A kill of the database alone leaves nothing in doubt: the gateway knows, and puts it down later.
 */
export function repeatsOf(book: Pick<WebhookBook, 'kills' | 'posts' | 'webhooks'>): Repeats[] {
  const pairs = groupBy(
    repetitions(book.posts).filter(({ earlier, later }) => earlier.life !== later.life),
    // A post in doubt may outlive several kills unsent: it belongs to the first.
    ({ earlier }) => `${earlier.webhook}/${earlier.life}`,
  );
  const posts = groupBy(book.posts, ({ webhook, life }) => `${webhook}/${life}`);
  return book.kills
    .filter(({ kind }) => kind !== 'database')
    .flatMap((kill) =>
      book.webhooks.map(({ id }) => {
        const key = `${id}/${kill.life}`;
        const some = posts.get(key) ?? [];
        const since = kill.sinceMs.get(id) ?? Number.NEGATIVE_INFINITY;
        // Those of earlier rounds were seen to be put down.
        const recent = some.filter((p) => p.atMs >= since && p.round === kill.round).length;
        const lanes = 1 + new Set(some.flatMap(({ replay }) => replay ?? [])).size;
        const bound = SLOTS + Math.min(recent, lanes * 1.5 * PAGE_EVENTS + SLOTS);
        const again = pairs.get(key) ?? [];
        const oldestMs = Math.max(0, ...again.map(({ earlier }) => kill.atMs - earlier.atMs));
        return { kill, webhook: id, count: again.length, bound, oldestMs };
      }),
    );
}

function findBeyond(book: WebhookBook): string[] {
  const names = new Map(book.webhooks.map(({ id, name }) => [id, name]));
  const tooMany = repeatsOf(book)
    .filter(({ count, bound }) => count > bound)
    .map(({ kill, webhook, count, bound }) => {
      const what = `${names.get(webhook)} got ${count} again (bound ${bound})`;
      return `${what} after kill -9 of ${kill.kind} in round ${kill.round}`;
    });
  const live = groupBy(book.posts.filter(isLive), ({ webhook, id, round }) =>
    [webhook, id, round].join('/'),
  );
  for (const some of live.values()) {
    const [first] = some;
    const kills = book.kills.filter(({ round }) => round === first?.round).length;
    if (first === undefined || some.length <= LIVE_POSTS_MAX + Math.max(1, kills)) continue;
    tooMany.push(`${names.get(first.webhook)} got ${first.position} ${some.length} times`);
  }
  return tooMany;
}

function findUncovered({ posts, putDown, webhooks }: WebhookBook): string[] {
  const names = new Map(webhooks.map(({ id, name }) => [id, name]));
  const faults: string[] = [];
  for (const [key, some] of groupBy(posts, (p) => putDownKey(p.webhook, p.id, p.replay))) {
    const { rows = 0, unknown = 0, digests = [] } = putDown.get(key) ?? {};
    const [first] = some;
    if (first === undefined) continue;
    const what = `${names.get(first.webhook)} ${first.position} (replay ${first.replay})`;
    if (rows + unknown < some.length) {
      faults.push(`${what}: ${some.length} posts, ${rows} attempts and ${unknown} unknown`);
    }
    if (digests.some((digest) => digest !== first.digest)) {
      faults.push(`${what}: what was put down has the digest of other bytes`);
    }
  }
  return faults;
}

function findUnreplayed(book: WebhookBook): string[] {
  const posted = new Set(
    book.posts.map(({ webhook, id, replay }) => putDownKey(webhook, id, replay)),
  );
  return book.replays.flatMap(({ id, webhook: webhookId, after, until, state }) => {
    const webhook = book.webhooks.find((one) => one.id === webhookId);
    if (webhook === undefined) return [`replay ${id} is nobody's`];
    const missed = expectedOf(book, webhook)
      .map(({ event }) => event)
      .filter(({ position }) => position > after && position <= until)
      .filter((event) => !posted.has(putDownKey(webhookId, event.id, id)))
      .map(({ position }) => `replay ${id} of ${webhook.name} left out ${position}`);
    return state === 'completed' ? missed : [`replay ${id} is ${state}`, ...missed];
  });
}

function groupBy<T, K>(list: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of list) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
}

// ---- the program, its load and its endpoints

/** Loopback is allowed for deliveries. */
const startGateway = (home: string): Promise<Program> =>
  startProgram(home, {
    MAILGUARD_WEBHOOK_ALLOW_CIDRS: '127.0.0.0/8',
    MAILGUARD_WEBHOOK_ALLOW_HTTP: 'true',
  });

/** A subscription as the harness made it; what its endpoint does with an event depends on it alone. */
type Endpoint = Readonly<{ id: number; name: string; ordering: Ordering; receiver: Receiver }>;

/** A gateway's home, its subscriptions and their endpoints, and what everybody has seen. */
export type WebhookWorld = {
  program: Program;
  /** Counts the starts of the program. */
  life: number;
  round: number;
  /** Wall-clock time of the last kill, and when an event from after it first arrived. */
  killedAt: number;
  backAtMs: number | null;
  /** By the name of the endpoint. */
  readonly orderedFailuresLeft: Map<string, number>;
  readonly home: string;
  readonly random: Random;
  readonly endpoints: readonly Endpoint[];
  /** Ids of the mail domains that change. */
  readonly domains: readonly number[];
  readonly wildcard: ReadonlySet<string>;
  readonly posts: Post[];
  readonly acknowledged: string[];
  readonly kills: Kill[];
  readonly surprises: string[];
  readonly figures: { broken: number; unavailable: number };
  readonly stop: () => Promise<void>;
};

type Wanted = Readonly<{
  name: string;
  body: Readonly<Record<string, unknown>>;
}>;

const TYPED = ['mail_domain.updated', 'api_key.created'];
/** The other filter of the one with explicit types: each change begins an epoch. */
const TYPED_TOO = ['mail_domain.created', 'mail_domain.updated', 'sender_filter.created'];

/** Starts the program, makes mail domains and six subscriptions, each with an endpoint of its own. */
export async function makeWebhookWorld(home: string, seed: number): Promise<WebhookWorld> {
  const program = await startGateway(home);
  const domains: number[] = [];
  for (let index = 0; index < DOMAINS; index += 1) {
    const body = { name: `hot${index}.example`, backend_servers: ['mx.example:25'] };
    const answer = await ask(program, home, { method: 'POST', path: '/domains', body });
    if (answer?.status !== 201) throw new Error(`no mail domain: ${answer?.status}`);
    domains.push(Number(answer.data.id));
  }
  const types = await ask(program, home, { path: '/webhook-event-types' });
  if (types?.status !== 200) throw new Error(`no event types: ${types?.status}`);
  const endpoints: Endpoint[] = [];
  const world: WebhookWorld = {
    program,
    life: 1,
    round: 0,
    killedAt: Number.POSITIVE_INFINITY,
    backAtMs: null,
    orderedFailuresLeft: new Map(),
    home,
    random: seededRandom(seed),
    endpoints,
    domains,
    wildcard: new Set(
      (types.data as { type: string; wildcard: boolean }[])
        .filter(({ wildcard }) => wildcard)
        .map(({ type }) => type),
    ),
    posts: [],
    acknowledged: [],
    kills: [],
    surprises: [],
    figures: { broken: 0, unavailable: 0 },
    async stop() {
      world.program.kill('SIGKILL');
      await world.program.ended();
      await Promise.all(endpoints.map(({ receiver }) => receiver.close()));
    },
  };
  const wanted: readonly Wanted[] = [
    { name: 'everything', body: { event_types: ['*'], start: 'earliest' } },
    { name: 'typed', body: { event_types: TYPED } },
    { name: 'bound', body: { event_types: ['*'], mail_domain: domains[0] } },
    { name: 'ordered', body: { event_types: ['*'], ordering: 'key' } },
    { name: 'strict', body: { event_types: ['*'], ordering: 'strict' } },
    { name: 'failing', body: { event_types: ['*'] } },
  ];
  for (const one of wanted) endpoints.push(await makeEndpoint(world, one));
  return world;
}

async function makeEndpoint(world: WebhookWorld, { name, body }: Wanted): Promise<Endpoint> {
  const receiver = await startReceiver();
  const ordering = (body['ordering'] ?? 'none') as Ordering;
  const answer = await ask(world.program, world.home, {
    method: 'POST',
    path: '/webhooks',
    // Not before everything that its endpoint is sent is noted.
    body: { url: receiver.url, enabled: false, ...body },
  });
  if (answer?.status !== 201) throw new Error(`no webhook: ${answer?.status} ${answer?.error}`);
  const id = Number(answer.data.id);
  const seen = new Set<string>();
  receiver.behave(async (received) => {
    const { payload, digest, headers } = received;
    const isFirst = !seen.has(received.id);
    seen.add(received.id);
    const post: Post = {
      webhook: id,
      id: received.id,
      digest,
      position: Number(payload.log.position),
      sequence: payload.sequence,
      epoch: payload.epoch,
      key: payload.key,
      replay: (headers['webhook-replay'] as string | undefined) ?? null,
      round: world.round,
      life: world.life,
      status: isFirst && isRefused(world, name, payload.sequence) ? 500 : 200,
      at: nextTick(),
      atMs: received.atMs,
      answeredAt: null,
    };
    world.posts.push(post);
    if (payload.id !== received.id) world.surprises.push(`${name}: ${payload.id} has another id`);
    if (Date.parse(payload.timestamp) > world.killedAt) world.backAtMs ??= received.atMs;
    // The body is told by its digest from here on.
    receiver.received.length = 0;
    await sleep(ANSWER_MS);
    post.answeredAt = nextTick();
    return { status: post.status };
  });
  await command(world, `/webhooks/${id}/resume`, {});
  return { id, name, ordering, receiver };
}

let tick = 0;
const nextTick = (): number => {
  tick += 1;
  return tick;
};

function isRefused(world: WebhookWorld, name: string, sequence: number | null): boolean {
  if (name === 'failing') return sequence !== null && sequence % FAILS_EVERY === 0;
  const left = world.orderedFailuresLeft.get(name) ?? 0;
  if (left === 0 || world.random() > 0.02) return false;
  world.orderedFailuresLeft.set(name, left - 1);
  return true;
}

let serial = 0;

/** Sends a command until its answer says what became of it; null when the load is over first. */
async function sendUntilAnswered(
  world: WebhookWorld,
  isOver: () => boolean,
  request: Readonly<{ method: string; path: string; body: unknown }>,
) {
  serial += 1;
  const headers = { 'Idempotency-Key': `crash-${serial}` };
  const deadline = performance.now() + COMMAND_MS;
  for (;;) {
    const answer = await ask(world.program, world.home, { ...request, headers });
    if (answer === null) world.figures.broken += 1;
    else if (answer.status === 503) world.figures.unavailable += 1;
    else if (answer.error !== 'idempotency_in_progress') {
      if (answer.status < 300) return answer;
      world.surprises.push(`${request.method} ${request.path}: ${answer.status} ${answer.error}`);
      return null;
    }
    if (isOver()) return null;
    if (performance.now() > deadline) {
      world.surprises.push(`${request.method} ${request.path}: no answer for ${COMMAND_MS} ms`);
      return null;
    }
    await sleep(RETRY_MS);
  }
}

/** What an event says that an acknowledged command must have brought about. */
export function factOf({ type, resource, data }: RecordedEvent): string {
  const { settings } = data as { settings?: { tenant_id: string | null } };
  const isUpdate = type === 'mail_domain.updated';
  return `${type}/${resource.id}${isUpdate ? `/${settings?.tenant_id}` : ''}`;
}

async function updateOne(world: WebhookWorld, domain: number, isOver: () => boolean) {
  // Its own value, so that what became of it can be told.
  const tenant = `t${serial + 1}`;
  const answer = await sendUntilAnswered(world, isOver, {
    method: 'PATCH',
    path: `/domains/${domain}`,
    body: { tenant_id: tenant },
  });
  if (answer !== null) world.acknowledged.push(`mail_domain.updated/${domain}/${tenant}`);
}

async function createOne(world: WebhookWorld, isOver: () => boolean) {
  const name = `n${serial + 1}`;
  const roll = world.random();
  const [kind, path, body] =
    roll < 0.4
      ? ['api_key', '/auth/api-keys', { name, scope: 'read-only' }]
      : roll < 0.6
        ? ['mail_domain', '/domains', { name: `${name}.example`, backend_servers: [] }]
        : [
            'sender_filter',
            '/sender-filters',
            {
              kind: 'block',
              scope: 'mail_domain',
              sender: `@${name}.sender.example`,
              mail_domain: world.domains[upTo(world.random, DOMAINS)],
            },
          ];
  const answer = await sendUntilAnswered(world, isOver, {
    method: 'POST',
    path: path as string,
    body,
  });
  if (answer !== null) world.acknowledged.push(`${kind}.created/${answer.data.id}`);
}

type Load = { pauseMs: number; stop: () => Promise<void> };

/** Clients that send one command after the other. The first two change the same mail domain. */
function startLoad(world: WebhookWorld): Load {
  let hasEnded = false;
  const isOver = () => hasEnded;
  const repeat = async (work: () => Promise<void>) => {
    while (!hasEnded) {
      await work();
      await sleep(load.pauseMs * 2 * world.random());
    }
  };
  const load: Load = {
    pauseMs: 0,
    async stop() {
      hasEnded = true;
      await clients;
    },
  };
  const clients = Promise.all([
    ...Array.from({ length: UPDATERS }, (_, index) => {
      const domain = world.domains[index % DOMAINS] ?? 0;
      return repeat(() => updateOne(world, domain, isOver));
    }),
    ...Array.from({ length: CREATORS }, () => repeat(() => createOne(world, isOver))),
  ]);
  return load;
}

async function untilMore({ acknowledged }: WebhookWorld, more: number): Promise<void> {
  const wanted = acknowledged.length + more;
  const deadline = performance.now() + LOAD_MS_MAX;
  while (acknowledged.length < wanted && performance.now() < deadline) await sleep(5);
}

type Watch = Readonly<{ stop: () => Promise<Kill['sinceMs']> }>;

/** Watches from outside when each subscription puts its results down: each time its cursor is written anew. */
function watchCommits(home: string): Watch {
  const client = new pg.Client({ connectionString: databaseUrl(home) });
  client.on('error', () => undefined);
  const seen = new Map<number, { xmin: string; commits: number[] }>();
  let isOver = false;
  const running = (async () => {
    await client.connect();
    // Seen now, it was not there when this was asked before: it is not older than that.
    for (let askedMs = Number.NEGATIVE_INFINITY; !isOver; await sleep(LOOK_MS)) {
      const nextMs = performance.now();
      const { rows } = await client.query(
        'select webhook_id::int as id, xmin::text from webhook_cursors',
      );
      for (const { id, xmin } of rows) {
        const { commits = [], xmin: known } = seen.get(id) ?? {};
        if (xmin !== known) seen.set(id, { xmin, commits: [...commits.slice(-1), askedMs] });
      }
      askedMs = nextMs;
    }
    await client.end();
  })();
  return {
    async stop() {
      isOver = true;
      await running;
      return new Map(
        [...seen].map(([id, { commits }]) => [id, commits.at(-2) ?? Number.NEGATIVE_INFINITY]),
      );
    },
  };
}

// ---- one round

export type WebhookRound = Readonly<{
  kind: CrashKind;
  book: WebhookBook;
  verdict: WebhookVerdict;
  /** Milliseconds from the kill until an event from after it arrived. */
  recoveryMs: number;
  settleMs: number;
}>;

/**
 * One crash: load, kill -9 at any moment while a backlog, a replay and retries are under way, back, more load;
 * then everybody waits for the end of what was begun. `isDouble` kills the successor in its recovery, too.
 */
export async function webhookCrashRound(
  kind: CrashKind,
  world: WebhookWorld,
  isDouble = false,
): Promise<WebhookRound> {
  const { random, endpoints } = world;
  world.round += 1;
  for (const name of ['ordered', 'strict']) world.orderedFailuresLeft.set(name, ORDERED_FAILURES);
  const load = startLoad(world);
  const watch = watchCommits(world.home);
  const held = endpoints.filter(() => random() < HELD_SHARE);
  await Promise.all(held.map(({ id }) => command(world, `/webhooks/${id}/pause`, {})));
  await untilMore(world, COMMANDS_BEFORE);
  // Those that were held have a backlog at once, somebody a replay, and one other types.
  await startReplay(world, endpoints[upTo(random, endpoints.length)]?.id ?? 0);
  if (world.round % 2 === 0) await changeTypes(world);
  await Promise.all(held.map(({ id }) => command(world, `/webhooks/${id}/resume`, {})));
  await sleep(random() * MOMENT_MS);
  await crash(kind, world, watch);
  load.pauseMs = LEISURE_MS;
  if (isDouble && kind !== 'database') {
    const { posts, life } = world;
    const from = posts.length;
    await until(world, 'nothing is posted again', () => posts.length > from || life < world.life);
    const again = watchCommits(world.home);
    await sleep(random() * MOMENT_MS);
    await crash('gateway', world, again);
  }
  await until(world, 'nothing new arrives', () => world.backAtMs !== null);
  const kill = world.kills.at(-1);
  const recoveryMs = Math.round((world.backAtMs ?? 0) - (kill?.atMs ?? 0));
  load.pauseMs = 0;
  await untilMore(world, COMMANDS_AFTER);
  await load.stop();
  const begin = performance.now();
  const book = await settle(world);
  const settleMs = Math.round(performance.now() - begin);
  if (world.program.hasEnded()) throw new Error(`the gateway ended:\n${world.program.output()}`);
  noteBugs(world);
  return { kind, book, verdict: judgeWebhooks(book), recoveryMs, settleMs };
}

async function command(world: WebhookWorld, path: string, body: unknown, method = 'POST') {
  const { program, home } = world;
  const answer = await ask(program, home, { method, path, body });
  if (answer === null || answer.status >= 300) {
    throw new Error(`${method} ${path}: ${answer?.status} ${answer?.error}`);
  }
  return answer.data;
}

async function startReplay(world: WebhookWorld, id: number): Promise<void> {
  const last = Math.max(0, ...world.posts.slice(-100).map(({ position }) => position));
  const from = last > REPLAY_EVENTS ? { position: String(last - REPLAY_EVENTS) } : 'earliest';
  await command(world, `/webhooks/${id}/replays`, { from, reason: 'their database was restored' });
}

async function changeTypes(world: WebhookWorld): Promise<void> {
  const { id } = world.endpoints.find(({ name }) => name === 'typed') ?? { id: 0 };
  const event_types = world.round % 4 === 0 ? TYPED : TYPED_TOO;
  await command(world, `/webhooks/${id}`, { event_types }, 'PATCH');
}

async function crash(kind: CrashKind, world: WebhookWorld, watch: Watch): Promise<void> {
  const { home, program, round, life } = world;
  const database = databasePid(home);
  if (database === null) throw new Error('the database is not running');
  const sinceMs = await watch.stop();
  const atMs = performance.now();
  world.killedAt = Date.now();
  world.backAtMs = null;
  // Both at one moment, or the one that lives longer might learn of the other's end.
  if (kind !== 'gateway') process.kill(database, 'SIGKILL');
  if (kind !== 'database') program.kill('SIGKILL');
  world.kills.push({ round, kind, life, atMs, sinceMs });
  if (kind === 'database') return;
  await program.ended();
  // What it has sent may still lie in the sockets of its endpoints: some turns of the loop read it.
  for (let turn = 0; turn < DRAIN_TURNS; turn += 1) await sleep(LOOK_MS);
  noteBugs(world);
  world.life += 1;
  world.program = await startGateway(home);
}

/** What the program itself calls a bug. */
function noteBugs({ program, surprises }: WebhookWorld): void {
  const bugs = program.output().match(/^.*on a bug.*$/gm) ?? [];
  surprises.push(...bugs.slice(0, 3));
}

async function until(
  { program, surprises }: WebhookWorld,
  what: string,
  isSo: () => boolean,
): Promise<void> {
  const deadline = performance.now() + RECOVERY_MS;
  while (!isSo()) {
    if (program.hasEnded()) throw new Error(`the gateway ended:\n${program.output()}`);
    if (performance.now() > deadline) {
      surprises.push(`${what} for ${RECOVERY_MS} ms`);
      return;
    }
    await sleep(5);
  }
}

/** Waits until everything that is to be posted was, and is put down; the book as it is then. */
async function settle(world: WebhookWorld): Promise<WebhookBook> {
  const client = new pg.Client({ connectionString: databaseUrl(world.home) });
  await client.connect();
  try {
    const deadline = performance.now() + SETTLE_MS;
    const events = await exportLog(world.program, world.home);
    // Twice the same: a replay that the read model does not know of yet is not over.
    for (let before = -1; ; ) {
      const book = await readBook(world, client, events);
      const { lost, undone, uncovered } = judgeWebhooks(book);
      const isStill = world.posts.length === before;
      before = world.posts.length;
      if (isStill && lost.length + undone.length + uncovered.length === 0) break;
      if (performance.now() > deadline) break;
      await sleep(QUIET_MS);
    }
    // Whatever is posted of these events now is too much; of one that came since, it may be under way.
    await sleep(QUIET_MS);
    return await readBook(world, client, events);
  } finally {
    await client.end();
  }
}

async function readBook(
  world: WebhookWorld,
  client: pg.Client,
  events: readonly RecordedEvent[],
): Promise<WebhookBook> {
  const retries = await client.query(
    `select webhook_id || ': ' || position || ' ' || state || ', due ' || due_at as text from webhook_retries`,
  );
  const replays = await client.query(
    `select id::text, webhook_id::int as webhook, after_position::int as after,
       until_position::int as until, state from webhook_replays`,
  );
  const putDown = await client.query(
    `select webhook_id, event_id, coalesce(replay_id::text, '') as replay,
       count(*) filter (where outcome <> 'unknown')::int as rows,
       count(*) filter (where outcome = 'unknown')::int as unknown,
       array_agg(distinct encode(body_sha256, 'hex')) filter (where body_sha256 is not null) as digests
     from webhook_attempts group by 1, 2, 3`,
  );
  const head = Number(events.at(-1)?.position ?? 0);
  return {
    acknowledged: [...world.acknowledged],
    facts: new Set(events.map(factOf)),
    events: events.map(({ position, event_id, type, stream, mail_domains }) => ({
      position: Number(position),
      id: event_id,
      type,
      key: stream,
      mailDomains: mail_domains,
    })),
    wildcard: world.wildcard,
    webhooks: world.endpoints.map(({ id, name, ordering }) => ({
      id,
      name,
      ordering,
      ...readSettings(id, events),
    })),
    // An event that is behind the export (use of a key is recorded by the minute) is the next reading's.
    posts: world.posts.filter(({ position }) => position <= head),
    putDown: new Map(
      putDown.rows.map((row) => [
        `${row.webhook_id}/${row.event_id}/${row.replay}`,
        { rows: row.rows, unknown: row.unknown, digests: row.digests ?? [] },
      ]),
    ),
    kills: [...world.kills],
    replays: replays.rows,
    retries: retries.rows.map(({ text }) => text),
    disorder: findDisorder(events),
  };
}

/** A subscription as the log tells it. */
function readSettings(
  id: number,
  events: readonly RecordedEvent[],
): Pick<BookWebhook, 'mailDomain' | 'epochs'> {
  const epochs: BookEpoch[] = [];
  let mailDomain: string | null = null;
  for (const { type, resource, position, data } of events) {
    if (resource.type !== 'webhook' || resource.id !== String(id)) continue;
    const { event_types: types, start_after: start } = data as any;
    if (type === 'webhook.created') mailDomain = (data as any).mail_domain;
    else if (type !== 'webhook.updated' || (data as any).begins_epoch !== true) continue;
    epochs.push({ epoch: epochs.length + 1, after: Number(start ?? position), types });
  }
  return { mailDomain, epochs };
}

/** One line for whoever runs the test. */
export function webhookFigures(
  { posts, kills, figures }: WebhookWorld,
  rounds: readonly WebhookRound[],
  seed: number,
): string {
  const last = rounds.at(-1)?.book;
  const repeats = last === undefined ? [] : repeatsOf(last);
  const largest = repeats.reduce<Repeats | null>(
    (most, one) => (one.count > (most?.count ?? -1) ? one : most),
    null,
  );
  const tightest = Math.max(0, ...repeats.map(({ count, bound }) => count / bound));
  const unknown = [...(last?.putDown.values() ?? [])].reduce((sum, one) => sum + one.unknown, 0);
  const count = (kind: keyof WebhookVerdict) =>
    rounds.reduce((sum, { verdict }) => sum + verdict[kind].length, 0);
  const slowest = (kinds: readonly CrashKind[]) =>
    Math.max(0, ...rounds.filter((r) => kinds.includes(r.kind)).map((r) => r.recoveryMs));
  const oldest = Math.max(0, ...repeats.map(({ oldestMs }) => oldestMs));
  const duplicates = repeats.reduce((sum, one) => sum + one.count, 0);
  return (
    `webhook crash: seed ${seed}, rounds ${rounds.length}, kills ${kills.length}, ` +
    `events ${last?.events.length ?? 0}, posts ${posts.length} ` +
    `(of replays ${posts.filter(({ replay }) => replay !== null).length}, ` +
    `refused ${posts.filter((post) => !isWell(post)).length}), ` +
    `duplicates ${duplicates} (largest per kill and subscription ${largest?.count ?? 0}, ` +
    `bound ${largest?.bound ?? SLOTS}; nearest to its bound ${Math.round(tightest * 100)} %, ` +
    `the oldest ${Math.round(oldest)} ms before its kill), ` +
    `unknown ${unknown}, lost ${count('lost')}, broken requests ${figures.broken}, ` +
    `answers 503 ${figures.unavailable}, slowest recovery ${slowest(['gateway', 'both', 'database'])} ms ` +
    `(database alone ${slowest(['database'])} ms)\n`
  );
}
