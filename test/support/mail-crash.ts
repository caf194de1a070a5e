import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RecordedEvent } from '../../src/eventlog/upcast.ts';
import { type Answer, ask, type CrashKind, exportLog } from './crash.ts';
import { findDisorder } from './log-checks.ts';
import { bootstrapKey, databasePid, type Program, startProgram } from './program.ts';
import { startSmtpSink } from './smtp-sink.ts';

const SENDERS = 5;
const ACTORS = 4;
const RETRY_MS = 25;
const COMMAND_MS = 40_000;
const SETTLE_MS = 60_000;
const CAUGHT_UP_MS = 15_000;
const LOAD_MS_MAX = 15_000;
/** Messages acknowledged in a round before its crash, and after. */
const MAILS_BEFORE = 35;
const MAILS_AFTER = 12;
/** The kill falls anywhere in this time after that. */
const MOMENT_MS = 600;
const SINK_MS = 80;
const PAGE = 1_000;
const AT_ONCE = 8;
/** How far the stamps of two processes on one machine may be apart, event loops included. */
const STAMP_MS = 200;
/** Nothing listens there. */
const DEAD = '127.0.0.1:9';

export type Random = () => number;

/** Numbers from 0 to 1 that depend on the seed alone (mulberry32). */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const upTo = (random: Random, count: number): number => Math.floor(random() * count);
const pick = <T>(random: Random, list: readonly T[]): T => list[upTo(random, list.length)] as T;

export const digestOf = (bytes: Uint8Array): string =>
  createHash('sha256').update(bytes).digest('hex');

/** As SMTP carries it: every line ends in CRLF, the last one too. */
export function withCrlf(raw: Uint8Array): Buffer {
  const text = Buffer.from(raw)
    .toString('latin1')
    .replace(/\r\n|\r|\n/g, '\r\n');
  return Buffer.from(text.endsWith('\r\n') ? text : `${text}\r\n`, 'latin1');
}

export type MadeMail = Readonly<{
  serial: number;
  kind: string;
  raw: Buffer;
  from: string;
  to: readonly string[];
}>;

const WORDS = ['Grüße', 'Привет', '日本語', 'a', 'plain', 'word', '😀', 'From the', '.', '..', '='];
const words = (random: Random, count: number): string =>
  Array.from({ length: count }, () => pick(random, WORDS)).join(' ');
const lines = (random: Random, bytes: number, line: () => string, end = '\r\n'): Buffer => {
  const parts: string[] = [];
  for (let length = 0; length < bytes; ) {
    const next = `${line()}${end}`;
    parts.push(next);
    length += Buffer.byteLength(next);
  }
  return Buffer.from(parts.join('') + (random() < 0.2 ? 'no line end' : ''));
};
const noise = (random: Random, bytes: number): Buffer =>
  Buffer.from(Uint8Array.from({ length: bytes }, () => upTo(random, 256)));

/** Bodies by what is awkward about them; each gives its own header fields, too. */
const BODIES: Readonly<Record<string, (random: Random, bytes: number) => [string, Buffer]>> = {
  utf8: (random, bytes) => [
    'Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n',
    lines(random, bytes, () => words(random, 8)),
  ],
  bytes: (random, bytes) => [
    'Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n',
    noise(random, bytes),
  ],
  long: (random, bytes) => [
    'Content-Type: text/plain; charset=utf-8\r\n',
    lines(random, bytes, () => words(random, 200 + upTo(random, 3_000))),
  ],
  dots: (random, bytes) => [
    '',
    lines(random, bytes, () => pick(random, ['.', '..', '...', '.a dot first', '', 'a dot last.'])),
  ],
  unix: (random, bytes) => ['', lines(random, bytes, () => pick(random, ['.', 'text', '']), '\n')],
  multipart(random, bytes) {
    const mark = `mark-${upTo(random, 1e9)}`;
    const attached = noise(random, Math.ceil(bytes * 0.7)).toString('base64');
    const parts = [
      `Content-Type: text/plain; charset=utf-8\r\n\r\n${words(random, 20)}`,
      `Content-Type: text/html; charset=utf-8\r\n\r\n<p onclick="x()">${words(random, 20)}</p>` +
        '<img src="https://tracker.example/1.gif"><script>alert(1)</script>',
      'Content-Type: application/pdf; name="a.pdf"\r\nContent-Transfer-Encoding: base64\r\n' +
        'Content-Disposition: attachment; filename="a.pdf"\r\n\r\n' +
        (attached.match(/.{1,76}/g) ?? []).join('\r\n'),
    ].map((part) => `--${mark}\r\n${part}\r\n`);
    return [
      `MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="${mark}"\r\n`,
      Buffer.from(`${parts.join('')}--${mark}--\r\n`),
    ];
  },
};

/** A message for one or two of the mail domains, of any kind, with a body of at most about so many bytes. */
export function makeMail(
  random: Random,
  { serial, domains, bytesMax }: { serial: number; domains: readonly string[]; bytesMax: number },
): MadeMail {
  const kind = pick(random, Object.keys(BODIES));
  // Most are small, a few as large as they may be.
  const bytes = Math.ceil(bytesMax * random() ** 4);
  const [fields, body] = BODIES[kind]?.(random, bytes) ?? ['', Buffer.alloc(0)];
  const targets = new Set([
    pick(random, domains),
    ...(random() < 0.2 ? [pick(random, domains)] : []),
  ]);
  const to = [...targets].flatMap((domain) =>
    Array.from({ length: random() < 0.2 ? 2 : 1 }, (_, index) => `u${serial}.${index}@${domain}`),
  );
  const from = random() < 0.1 ? '' : `sender${serial}@sender.example`;
  const subject = random() < 0.5 ? words(random, 3) : `=?utf-8?B?R3LDvMOfZQ==?= ${serial}`;
  const head =
    `From: <${from === '' ? 'postmaster@sender.example' : from}>\r\nTo: ${to.join(',\r\n ')}\r\n` +
    `Subject: mail ${serial} ${subject}\r\nMessage-ID: <${serial}@sender.example>\r\n${fields}\r\n`;
  const end = kind === 'unix' ? head.replaceAll('\r\n', '\n') : head;
  return { serial, kind, raw: Buffer.concat([Buffer.from(end), body]), from, to };
}

const serialIn = (text: string): number =>
  Number(/^Message-ID: <(\d+)@sender\.example>/m.exec(text)?.[1] ?? -1);

export type Action = 'release' | 'discard';

/** One message as those who hand it in and ask for it know it. */
export type SentMail = {
  readonly serial: number;
  readonly to: readonly string[];
  readonly digest: string;
  /** Of its bytes as SMTP carries them. */
  readonly wireDigest: string;
  /** Nobody will ask for it. */
  readonly isKept: boolean;
  /** The id that was acknowledged; null while nothing was. */
  id: string | null;
  /** What anybody asked for, noted before it was sent, and what was answered 200 or 202. */
  readonly asked: Set<Action>;
  readonly granted: Set<Action>;
};

export type SentJob = Readonly<{ id: string; serials: readonly number[] }>;

export type MailBook = {
  readonly sent: SentMail[];
  readonly jobs: SentJob[];
  readonly surprises: string[];
  broken: number;
  unavailable: number;
};

/** One recipient's copy of a message, as the mail server behind the gateway got it. */
export type Arrival = Readonly<{
  serial: number;
  /** The id in the trace field that the gateway has put before it. */
  id: string | null;
  recipient: string;
  /** Of its bytes without that field. */
  wireDigest: string;
  atMs: number;
}>;

const TRACE =
  /^Received: from quarantine by \S+ \(MailGuard\) with SMTP id ([0-9a-f-]{36});\r\n\t[^\r\n]*\r\n/;

export function arrivalsOf(raw: Buffer, to: readonly string[], atMs = Date.now()): Arrival[] {
  const text = raw.toString('latin1');
  const [trace = '', id = null] = TRACE.exec(text) ?? [];
  const serial = serialIn(text);
  const wireDigest = digestOf(raw.subarray(trace.length));
  return to.map((recipient) => ({ serial, id, recipient, wireDigest, atMs }));
}

/** A gateway's home, its mail domains and the mail servers behind them, and what everybody has seen. */
export type MailWorld = {
  /** Where the clients' requests go, which changes with every start of the program. */
  program: Program;
  readonly home: string;
  readonly random: Random;
  readonly book: MailBook;
  readonly arrivals: readonly Arrival[];
  readonly domains: readonly string[];
  readonly stop: () => Promise<void>;
};

/** Makes five mail domains behind two mail servers and a dead one. */
export async function makeMailWorld(home: string, random: Random): Promise<MailWorld> {
  const program = await startProgram(home);
  const arrivals: Arrival[] = [];
  // From the final dot on the message is there, whether the answer reaches the gateway or not.
  const onMessage = async ({ raw, to }: { raw: Buffer; to: readonly string[] }) => {
    arrivals.push(...arrivalsOf(raw, to));
    await sleep(random() * SINK_MS);
  };
  const sinks = [await startSmtpSink({ onMessage }), await startSmtpSink({ onMessage })];
  const [first = '', second = ''] = sinks.map(({ host, port }) => `${host}:${port}`);
  const routes = [[first], [second], [DEAD, first], [second, first], [first, second]];
  const domains = routes.map((_, index) => `crash${index}.example`);
  for (const [index, backend_servers] of routes.entries()) {
    const body = { name: domains[index], backend_servers };
    const answer = await ask(program, home, { method: 'POST', path: '/domains', body });
    if (answer?.status !== 201) throw new Error(`no mail domain: ${answer?.status}`);
  }
  return {
    program,
    home,
    random,
    book: { sent: [], jobs: [], surprises: [], broken: 0, unavailable: 0 },
    arrivals,
    domains,
    async stop() {
      await Promise.all(sinks.map((sink) => sink.stop()));
    },
  };
}

/** Hands a message in once; null when the connection broke before the whole answer was there. */
export async function handOver(
  program: Program,
  home: string,
  { mail, headers = {} }: { mail: MadeMail; headers?: Record<string, string> },
): Promise<Answer | null> {
  try {
    const response = await fetch(`${program.url}/api/v1/mail/quarantine`, {
      method: 'POST',
      headers: {
        'X-API-Key': bootstrapKey(home),
        'Content-Type': 'message/rfc822',
        'X-Mail-From': mail.from === '' ? '<>' : mail.from,
        'X-Rcpt-To': mail.to.join(', '),
        'X-Spam-Score': '14.7',
        ...headers,
      },
      body: new Uint8Array(mail.raw),
      signal: AbortSignal.timeout(COMMAND_MS),
    });
    const { data, error } = (await response.json()) as Pick<Answer, 'data' | 'error'>;
    return { status: response.status, headers: response.headers, data, error };
  } catch {
    return null;
  }
}

/** Repeats a request until its answer says what became of it. */
async function untilAnswered(
  book: MailBook,
  what: string,
  send: () => Promise<Answer | null>,
): Promise<Answer | null> {
  const deadline = performance.now() + COMMAND_MS;
  for (;;) {
    const answer = await send();
    if (answer === null) book.broken += 1;
    else if (answer.status === 503) book.unavailable += 1;
    else if (answer.error !== 'idempotency_in_progress') return answer;
    if (performance.now() > deadline) {
      book.surprises.push(`${what}: not answered for ${COMMAND_MS} ms (${answer?.status})`);
      return null;
    }
    await sleep(RETRY_MS);
  }
}

/** Hands a new message in until it is acknowledged. Half of them are told apart by their queue id alone. */
async function handInOne(world: MailWorld, isKept = world.random() < 0.2): Promise<void> {
  const { book, random, domains, home } = world;
  const serial = book.sent.length + 1;
  const bytesMax = random() < 0.05 ? 300_000 : 20_000;
  const mail = makeMail(random, { serial, domains, bytesMax });
  const sent: SentMail = {
    serial,
    to: mail.to,
    digest: digestOf(mail.raw),
    wireDigest: digestOf(withCrlf(mail.raw)),
    isKept,
    id: null,
    asked: new Set(),
    granted: new Set(),
  };
  book.sent.push(sent);
  const headers =
    random() < 0.5 ? { 'Idempotency-Key': `mail-${serial}` } : { 'X-Queue-Id': `QUEUE${serial}` };
  const answer = await untilAnswered(book, `mail ${serial}`, () =>
    handOver(world.program, home, { mail, headers: headers as Record<string, string> }),
  );
  if (answer === null) return;
  // 202: it is held, and whoever asks for it at once may not find it yet.
  if (answer.status === 202) await untilFound(world, String(answer.data.id));
  if (answer.status === 201 || answer.status === 202) sent.id = String(answer.data.id);
  else book.surprises.push(`mail ${serial} (${mail.kind}): ${answer.status} ${answer.error}`);
}

async function untilFound(world: MailWorld, id: string): Promise<void> {
  const path = `/mail/quarantine/messages/${id}`;
  const deadline = performance.now() + CAUGHT_UP_MS;
  while ((await ask(world.program, world.home, { path }))?.status !== 200) {
    if (performance.now() > deadline) {
      world.book.surprises.push(`${id} was taken, and cannot be found for ${CAUGHT_UP_MS} ms`);
      return;
    }
    await sleep(RETRY_MS);
  }
}

async function actOnOne(world: MailWorld, sent: SentMail, action: Action): Promise<void> {
  const { book, home, random } = world;
  sent.asked.add(action);
  const headers = random() < 0.5 ? { 'Idempotency-Key': `${action}-${sent.serial}` } : {};
  const path = `/mail/quarantine/messages/${sent.id}/${action}`;
  const answer = await untilAnswered(book, `${action} ${sent.serial}`, () =>
    ask(world.program, home, {
      method: 'POST',
      path,
      body: {},
      headers: headers as Record<string, string>,
    }),
  );
  if (answer?.status === 200 || answer?.status === 202) sent.granted.add(action);
  else if (answer !== null && (answer.error !== 'state_conflict' || sent.asked.size === 1)) {
    book.surprises.push(`${action} ${sent.serial}: ${answer.status} ${answer.error}`);
  }
}

async function actOnMany(
  world: MailWorld,
  some: readonly SentMail[],
  action: Action,
): Promise<void> {
  const { book, home } = world;
  for (const sent of some) sent.asked.add(action);
  const key = `bulk-${some.map(({ serial }) => serial).join('-')}`;
  const answer = await untilAnswered(book, key, () =>
    ask(world.program, home, {
      method: 'POST',
      path: '/mail/quarantine/bulk',
      body: { action, ids: some.map(({ id }) => id) },
      headers: { 'Idempotency-Key': key },
    }),
  );
  if (answer?.status !== 202) {
    book.surprises.push(`${key}: ${answer?.status} ${answer?.error}`);
    return;
  }
  book.jobs.push({ id: answer.data.job_id, serials: some.map(({ serial }) => serial) });
  for (const sent of some) sent.granted.add(action);
}

async function actOnSomething(world: MailWorld): Promise<void> {
  const { book, random } = world;
  const free = book.sent.filter(({ id, isKept, asked }) => id !== null && !isKept && !asked.size);
  const take = () => free.splice(upTo(random, free.length), 1);
  const [sent] = take();
  if (sent === undefined) return;
  const roll = random();
  if (roll < 0.4) await actOnOne(world, sent, 'release');
  else if (roll < 0.55) await actOnOne(world, sent, 'discard');
  else if (roll < 0.65) {
    // Two people who do not know of each other.
    await Promise.all([actOnOne(world, sent, 'release'), actOnOne(world, sent, 'discard')]);
  } else {
    const some = [sent, ...Array.from({ length: 2 + upTo(random, 5) }, take).flat()];
    await actOnMany(world, some, roll < 0.9 ? 'release' : 'discard');
  }
}

function startMailLoad(world: MailWorld): { stop: () => Promise<void> } {
  let isOver = false;
  const repeat = async (work: () => Promise<void>) => {
    while (!isOver) {
      await work();
      await sleep(world.random() * 2 * RETRY_MS);
    }
  };
  const clients = Promise.all([
    ...Array.from({ length: SENDERS }, () => repeat(() => handInOne(world))),
    ...Array.from({ length: ACTORS }, () => repeat(() => actOnSomething(world))),
  ]);
  return {
    // Everybody goes on until the command they are at is answered.
    async stop() {
      isOver = true;
      await clients;
    },
  };
}

const acknowledgedMails = ({ sent }: MailBook): SentMail[] => sent.filter(({ id }) => id !== null);

async function untilMore(book: MailBook, more: number): Promise<void> {
  const wanted = acknowledgedMails(book).length + more;
  const deadline = performance.now() + LOAD_MS_MAX;
  while (acknowledgedMails(book).length < wanted && performance.now() < deadline) await sleep(5);
}

/** What a quiet gateway, its disk and the mail servers behind it hold. */
export type FoundMail = Readonly<{
  items: readonly Readonly<{ id: string; serial: number; state: string }>[];
  events: readonly RecordedEvent[];
  jobs: readonly Readonly<{ id: string; state: string; outcomes: readonly (string | null)[] }>[];
  /** Digests of downloaded bodies by message id, as far as they were downloaded. */
  bodies: ReadonlyMap<string, string>;
  /** Digests of the files in the spool by message id. */
  files: ReadonlyMap<string, string>;
  incoming: readonly string[];
  arrivals: readonly Arrival[];
}>;

const spoolOf = (home: string): string => join(home, 'spool');
const incomingOf = (home: string): string[] => readdirSync(join(spoolOf(home), 'incoming'));

function readSpool(home: string): Map<string, string> {
  const files = new Map<string, string>();
  for (const shard of readdirSync(spoolOf(home))) {
    if (shard === 'incoming') continue;
    for (const name of readdirSync(join(spoolOf(home), shard))) {
      const bytes = readFileSync(join(spoolOf(home), shard, name));
      files.set(name.replace(/\.eml$/, ''), digestOf(bytes));
    }
  }
  return files;
}

/** Every message there is, whatever its state. */
export async function listMail(
  program: Program,
  home: string,
  query = 'state=any',
  limit = PAGE,
): Promise<any[]> {
  const items: any[] = [];
  let cursor = '';
  for (;;) {
    const path = `/mail/quarantine?${query}&limit=${limit}${cursor}`;
    const answer = await ask(program, home, { path });
    if (answer?.status !== 200) throw new Error(`cannot list ${path}: ${answer?.status}`);
    items.push(...answer.data);
    if (answer.headers.get('x-has-more') !== 'true') return items;
    cursor = `&cursor=${answer.headers.get('x-next-cursor')}`;
  }
}

/** A job with all of its items. */
export async function readJob(program: Program, home: string, id: string): Promise<any> {
  const answer = await ask(program, home, { path: `/mail/quarantine/bulk/${id}?limit=1000` });
  if (answer?.status !== 200) throw new Error(`no job ${id}: ${answer?.status} ${answer?.error}`);
  return answer.data;
}

/** The digest of a body as its API gives it; null when it has none. */
export async function downloadBody(
  program: Program,
  home: string,
  id: string,
): Promise<string | null> {
  const response = await fetch(`${program.url}/api/v1/mail/quarantine/messages/${id}/body`, {
    headers: { 'X-API-Key': bootstrapKey(home) },
  });
  const bytes = new Uint8Array(await response.arrayBuffer());
  return response.status === 200 ? digestOf(bytes) : null;
}

/** Does something to each, a few at once. */
export async function forEachOf<T>(
  list: readonly T[],
  work: (item: T) => Promise<void>,
  atOnce = AT_ONCE,
): Promise<void> {
  const rest = [...list];
  const worker = async () => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

/** Waits until the read models show everything that is in the log. */
async function untilCaughtUp({ program, book }: MailWorld): Promise<void> {
  const deadline = performance.now() + CAUGHT_UP_MS;
  for (;;) {
    const response = await fetch(`${program.url}/readyz`).catch(() => null);
    const answer: any = await response?.json().catch(() => null);
    const { ready, projections = [] } = answer?.data ?? {};
    if (ready === true && projections.every((one: any) => one.lag_events === '0')) return;
    if (performance.now() > deadline) {
      book.surprises.push(`the read models stay behind: ${JSON.stringify(answer)}`);
      return;
    }
    await sleep(20);
  }
}

/** Waits until nothing that was asked for is under way; says what still is when that takes too long. */
async function settle(world: MailWorld): Promise<void> {
  const { home, book, program } = world;
  const deadline = performance.now() + SETTLE_MS;
  for (;;) {
    await untilCaughtUp(world);
    const states = 'release_requested,discard_requested,reject_requested';
    const open = await listMail(program, home, `state=${states}`);
    const jobs = await Promise.all(book.jobs.map(({ id }) => readJob(program, home, id)));
    const running = jobs.filter(({ ended_at }) => ended_at === null);
    if (open.length + running.length === 0) return untilCaughtUp(world);
    if (performance.now() > deadline) {
      book.surprises.push(`not settled: ${JSON.stringify([open, running]).slice(0, 2_000)}`);
      return;
    }
    await sleep(100);
  }
}

/** Reads everything; bodies are downloaded of messages with serials after `since`. */
async function readMailWorld(
  { program, home, book, arrivals }: MailWorld,
  since: number,
): Promise<FoundMail> {
  const listed = await listMail(program, home);
  const items = listed.map(({ id, message_id, state }) => ({
    id: String(id),
    serial: serialIn(`Message-ID: ${message_id}`),
    state: String(state),
  }));
  const bodies = new Map<string, string>();
  const isDownloaded = ({ serial, state }: { serial: number; state: string }) =>
    serial > since && state !== 'discarded';
  await forEachOf(items.filter(isDownloaded), async ({ id }) => {
    bodies.set(id, (await downloadBody(program, home, id)) ?? 'no body');
  });
  const jobs = await Promise.all(book.jobs.map(({ id }) => readJob(program, home, id)));
  return {
    items,
    bodies,
    events: await exportLog(program, home),
    jobs: jobs.map(({ job_id, state, items: done }) => ({
      id: String(job_id),
      state: String(state),
      outcomes: done.map(({ outcome }: { outcome: string | null }) => outcome),
    })),
    files: readSpool(home),
    incoming: incomingOf(home),
    arrivals: [...arrivals],
  };
}

/** What is wrong, in words, by kind; every list is empty when nothing is. */
export type MailVerdict = Readonly<{
  /** Acknowledged, and not there exactly once. */
  lost: readonly string[];
  /** Other bytes than were sent: downloaded, in the spool, or delivered. */
  altered: readonly string[];
  /** Files without a message that has them, messages without their file, leftovers of the intake. */
  stray: readonly string[];
  /** Acknowledged actions and jobs that did not end as was asked. */
  undone: readonly string[];
  /** Released, and one of its recipients never got it. */
  undelivered: readonly string[];
  /** Delivered again though nothing in its history says that it may have been. */
  unexplained: readonly string[];
  /** Delivered or removed though nobody asked for that. */
  unasked: readonly string[];
  disorder: readonly string[];
}>;

export const FAULTLESS: MailVerdict = {
  lost: [],
  altered: [],
  stray: [],
  undone: [],
  undelivered: [],
  unexplained: [],
  unasked: [],
  disorder: [],
};

/** Compares what everybody was told and has got with what is there. */
export function judgeMail(book: MailBook, found: FoundMail): MailVerdict {
  const itemsOf = groupBy(found.items, ({ serial }) => serial);
  const arrivalsAt = groupBy(found.arrivals, ({ serial }) => serial);
  const eventsOf = groupBy(found.events, ({ resource }) => `${resource.type}/${resource.id}`);
  const faults: Record<keyof MailVerdict, string[]> = {
    lost: [],
    altered: [],
    stray: findStrays(found),
    undone: findUnended(book, found),
    undelivered: [],
    unexplained: [],
    unasked: [],
    disorder: findDisorder(found.events),
  };
  for (const sent of book.sent) {
    const { serial, id } = sent;
    const items = itemsOf.get(serial) ?? [];
    const [item] = items;
    if (items.length > 1 || (id !== null && (items.length === 0 || item?.id !== id))) {
      faults.lost.push(`mail ${serial} (${id}) is there as ${items.map((one) => one.id)}`);
    }
    if (item === undefined) continue;
    const history = eventsOf.get(`quarantined_message/${item.id}`) ?? [];
    const added = history.filter(({ type }) => type === 'quarantine.added').length;
    if (added !== 1) faults.lost.push(`mail ${serial} was added ${added} times in the log`);
    for (const digest of [found.bodies.get(item.id), found.files.get(item.id)]) {
      if (digest !== undefined && digest !== sent.digest) {
        faults.altered.push(`mail ${serial} has other bytes than were sent`);
      }
    }
    const arrived = arrivalsAt.get(serial) ?? [];
    faults.altered.push(...findAltered(sent, item.id, arrived));
    faults.undone.push(...findUndone(sent, item.state));
    faults.unasked.push(...findUnasked(sent, item.state, arrived));
    faults.unexplained.push(...findUnexplained(sent, history, arrived));
    if (item.state !== 'released') continue;
    for (const recipient of sent.to) {
      if (arrived.some((one) => one.recipient === recipient)) continue;
      faults.undelivered.push(`mail ${serial} never reached ${recipient}`);
    }
  }
  const known = new Set(book.sent.map(({ serial }) => serial));
  for (const { serial, recipient } of found.arrivals) {
    if (!known.has(serial)) faults.unasked.push(`${recipient} got a mail that nobody sent`);
  }
  return faults;
}

function groupBy<T, K>(list: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of list) {
    const group = groups.get(keyOf(item));
    if (group === undefined) groups.set(keyOf(item), [item]);
    else group.push(item);
  }
  return groups;
}

const WITH_FILE = ['held', 'release_failed', 'released'];

function findStrays({ items, files, incoming }: FoundMail): string[] {
  const wanted = new Set(
    items.filter(({ state }) => WITH_FILE.includes(state)).map(({ id }) => id),
  );
  return [
    ...[...files.keys()].filter((id) => !wanted.has(id)).map((id) => `${id} has a file left`),
    ...[...wanted].filter((id) => !files.has(id)).map((id) => `${id} has no file`),
    ...incoming.map((name) => `incoming/${name} is left`),
  ];
}

const JOB_ENDS = ['released', 'discarded', 'under_way'];

function findUnended({ jobs }: MailBook, found: FoundMail): string[] {
  const faults: string[] = [];
  for (const { id, serials } of jobs) {
    const job = found.jobs.find((one) => one.id === id);
    if (job?.state !== 'completed') faults.push(`job ${id} is ${job?.state ?? 'not there'}`);
    const outcomes = job?.outcomes.filter((outcome) => outcome !== null) ?? [];
    if (outcomes.length !== serials.length) {
      faults.push(`job ${id} has ${outcomes.length} outcomes for ${serials.length} messages`);
    }
    // Nobody else asks for these, so there was nothing to refuse; what became of those that a job left
    // under way is checked with the message itself.
    const odd = outcomes.filter((outcome) => !JOB_ENDS.includes(outcome));
    if (odd.length > 0) faults.push(`job ${id} has the outcomes ${odd}`);
  }
  const ended = found.events.filter(({ type }) => type === 'quarantine.bulk_ended').length;
  if (ended !== jobs.length) faults.push(`${ended} of ${jobs.length} jobs have ended in the log`);
  const open = found.items.filter(({ state }) => state.endsWith('_requested'));
  return [...faults, ...open.map(({ serial, state }) => `mail ${serial} stays ${state}`)];
}

const ENDS: Readonly<Record<Action, string>> = { release: 'released', discard: 'discarded' };

function findUndone({ serial, granted, asked }: SentMail, state: string): string[] {
  const faults = [...granted]
    .filter((action) => ENDS[action] !== state)
    .map((action) => `mail ${serial} is ${state} though ${action} was acknowledged`);
  if (asked.size > 0 && granted.size === 0) faults.push(`mail ${serial}: nobody got their way`);
  return faults;
}

function findUnasked(
  { serial, asked }: SentMail,
  state: string,
  arrived: readonly Arrival[],
): string[] {
  const mayBe = ['held', ...[...asked].map((action) => ENDS[action])];
  const faults = mayBe.includes(state) ? [] : [`mail ${serial} is ${state}, unasked`];
  if (arrived.length === 0 || (asked.has('release') && state !== 'discarded')) return faults;
  return [...faults, `mail ${serial} (${state}) was delivered, unasked`];
}

function findAltered(sent: SentMail, id: string, arrived: readonly Arrival[]): string[] {
  const faults = arrived
    .filter(({ wireDigest }) => wireDigest !== sent.wireDigest)
    .map(({ recipient }) => `mail ${sent.serial} reached ${recipient} with other bytes`);
  const foreign = arrived.filter((one) => one.id !== id || !sent.to.includes(one.recipient));
  return [...faults, ...foreign.map((one) => `mail ${sent.serial} came as ${JSON.stringify(one)}`)];
}

/** What says that a try may have been delivered though nobody knows. */
function isDoubt({ type, data }: RecordedEvent): boolean {
  if (type === 'quarantine.release_interrupted') return true;
  const { results = [] } = data as { results?: readonly { outcome: string }[] };
  return results.some(({ outcome }) => outcome === 'unknown');
}

function findUnexplained(
  { serial }: SentMail,
  history: readonly RecordedEvent[],
  arrived: readonly Arrival[],
): string[] {
  const doubts = history.filter(isDoubt).map(({ recorded_at }) => Date.parse(recorded_at));
  const faults: string[] = [];
  for (const [recipient, copies] of groupBy(arrived, (one) => one.recipient)) {
    const stamps = copies.map(({ atMs }) => atMs).sort((a, b) => a - b);
    for (const [index, later] of stamps.entries()) {
      const earlier = stamps[index - 1];
      if (earlier === undefined) continue;
      const isExplained = doubts.some((at) => at >= earlier - STAMP_MS && at <= later + STAMP_MS);
      if (!isExplained) faults.push(`mail ${serial} reached ${recipient} again`);
    }
  }
  return faults;
}

/** Copies that came on top of the first one of each recipient. */
export function doublesIn(arrivals: readonly Arrival[]): number {
  return arrivals.length - new Set(arrivals.map((one) => `${one.serial}/${one.recipient}`)).size;
}

export type MailRound = Readonly<{
  found: FoundMail;
  verdict: MailVerdict;
  /** Milliseconds from the kill until a message was taken again. */
  recoveryMs: number;
}>;

/** One crash: load, kill -9 at any moment, back, more load; then everybody waits for the end of what they began. */
export async function mailCrashRound(kind: CrashKind, world: MailWorld): Promise<MailRound> {
  const { program, book, home, random } = world;
  const since = book.sent.length;
  const load = startMailLoad(world);
  await untilMore(book, MAILS_BEFORE);
  await sleep(random() * MOMENT_MS);
  const database = databasePid(home);
  if (database === null) throw new Error('the database is not running');

  const begin = performance.now();
  if (kind !== 'gateway') process.kill(database, 'SIGKILL');
  if (kind !== 'database') {
    program.kill('SIGKILL');
    await program.ended();
    const next = await startProgram(home);
    // Nobody knows the new one yet, so this is what the old one has left.
    if (existsSync(spoolOf(home))) {
      book.surprises.push(...incomingOf(home).map((name) => `incoming/${name} outlived a start`));
    }
    world.program = next;
  }
  await handInOne(world, true);
  const recoveryMs = Math.round(performance.now() - begin);
  await untilMore(book, MAILS_AFTER);
  await load.stop();
  await settle(world);
  if (world.program.hasEnded()) throw new Error(`the gateway ended:\n${world.program.output()}`);
  const found = await readMailWorld(world, since);
  return { found, verdict: judgeMail(book, found), recoveryMs };
}

/** One line for whoever runs the test. */
export function mailFigures(
  { book, arrivals }: MailWorld,
  rounds: readonly MailRound[],
  seed: number,
): string {
  const last = rounds.at(-1);
  const count = (kind: keyof MailVerdict) =>
    rounds.reduce((sum, { verdict }) => sum + verdict[kind].length, 0);
  const released = last?.found.items.filter(({ state }) => state === 'released').length ?? 0;
  const discarded = last?.found.items.filter(({ state }) => state === 'discarded').length ?? 0;
  return (
    `mail crash: seed ${seed}, rounds ${rounds.length}, messages ${acknowledgedMails(book).length}, ` +
    `released ${released}, discarded ${discarded}, jobs ${book.jobs.length}, ` +
    `delivered twice ${doublesIn(arrivals)} (unexplained ${count('unexplained')}), lost ${count('lost')}, ` +
    `events ${last?.found.events.length ?? 0}, broken requests ${book.broken}, answers 503 ${book.unavailable}, ` +
    `slowest recovery ${Math.max(0, ...rounds.map(({ recoveryMs }) => recoveryMs))} ms\n`
  );
}
