import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RecordedEvent } from '../../src/eventlog/upcast.ts';
import { findDisorder } from './log-checks.ts';
import { bootstrapKey, databasePid, isAlive, type Program, startProgram } from './program.ts';

export const CLIENTS = 16;
const RETRY_MS = 20;
const COMMAND_MS = 30_000;
const LOAD_MS_MAX = 10_000;
/** Acknowledged commands before a crash, and up to as many more. */
export const COMMANDS = 60;
const RECOVERY_MS = 30_000;
const PAGE = 1_000;

type Kind = 'api_key' | 'mail_domain';
const PATH: Readonly<Record<Kind, string>> = {
  api_key: '/auth/api-keys',
  mail_domain: '/domains',
};

/** One command as its client knows it. Its name is its own, so that what became of it can be counted. */
export type Sent = {
  readonly kind: Kind;
  readonly name: string;
  readonly idempotencyKey: string | null;
  /** The id that was answered with 201 or 202; null while nothing was acknowledged. */
  id: number | null;
};

/** Everything that the clients have seen so far. */
export type Book = {
  readonly sent: Sent[];
  /** Requests sent and answered as the bootstrap key outside `/audit`, whatever the answer. */
  requests: number;
  answers: number;
  /** Connections that broke before an answer. */
  broken: number;
  unavailable: number;
  /** What no client should ever see, in words. */
  surprises: string[];
};

export const emptyBook = (): Book => ({
  sent: [],
  requests: 0,
  answers: 0,
  broken: 0,
  unavailable: 0,
  surprises: [],
});

export const acknowledged = (book: Book): Sent[] => book.sent.filter(({ id }) => id !== null);

export type Answer = Readonly<{
  status: number;
  headers: Headers;
  data: any;
  error: string | null;
}>;

/** Asks the program; null when the connection broke before the whole answer was there. */
export async function ask(
  program: Program,
  home: string,
  request: Readonly<{
    method?: string;
    path: string;
    body?: unknown;
    headers?: Record<string, string>;
  }>,
): Promise<Answer | null> {
  try {
    const response = await fetch(`${program.url}/api/v1${request.path}`, {
      method: request.method ?? 'GET',
      headers: {
        'X-API-Key': bootstrapKey(home),
        ...(request.body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...request.headers,
      },
      ...(request.body === undefined ? {} : { body: JSON.stringify(request.body) }),
    });
    const { data, error } = (await response.json()) as Pick<Answer, 'data' | 'error'>;
    return { status: response.status, headers: response.headers, data, error };
  } catch {
    return null;
  }
}

/** Sends one command once, and notes what came back. */
export async function sendCommand(
  program: Program,
  home: string,
  { book, sent }: Readonly<{ book: Book; sent: Sent }>,
): Promise<Answer | null> {
  const { kind, name, idempotencyKey } = sent;
  const body =
    kind === 'api_key'
      ? { name, scope: 'read-only' }
      : { name, backend_servers: ['mx.example:25'] };
  book.requests += 1;
  const answer = await ask(program, home, {
    method: 'POST',
    path: PATH[kind],
    body,
    headers: idempotencyKey === null ? {} : { 'Idempotency-Key': idempotencyKey },
  });
  if (answer === null) {
    book.broken += 1;
    return null;
  }
  book.answers += 1;
  if (answer.status === 201 || answer.status === 202) {
    const id = Number(answer.data.id);
    if (sent.id !== null && sent.id !== id) {
      book.surprises.push(`${name}: acknowledged as ${sent.id}, then as ${id}`);
    }
    sent.id = id;
  } else if (answer.status === 503) {
    book.unavailable += 1;
    if (!/^[1-9]\d*$/.test(answer.headers.get('retry-after') ?? '')) {
      book.surprises.push(`${name}: 503 without Retry-After`);
    }
  } else {
    book.surprises.push(`${name}: ${answer.status} ${answer.error}`);
  }
  return answer;
}

let serial = 0;

function nextCommand(): Sent {
  serial += 1;
  const kind = randomInt(2) === 0 ? 'api_key' : 'mail_domain';
  const name = kind === 'api_key' ? `key ${serial}` : `d${serial}.example.com`;
  return { kind, name, idempotencyKey: randomInt(2) === 0 ? null : `idem-${serial}`, id: null };
}

export type Load = Readonly<{
  book: Book;
  /** From here on the clients speak to this one. */
  turnTo: (program: Program) => void;
  /** Lets every client finish the command it is at, and ends. */
  stop: () => Promise<void>;
}>;

/**
 * Sixteen clients that create keys and mail domains, half of them with an `Idempotency-Key`. A command with
 * one is sent again until it is acknowledged; one without is sent once, as nobody knows what became of it.
 */
export function startLoad(first: Program, home: string, book: Book): Load {
  let program = first;
  let isOver = false;
  const client = async () => {
    while (!isOver) {
      const sent = nextCommand();
      book.sent.push(sent);
      const deadline = performance.now() + COMMAND_MS;
      await sendCommand(program, home, { book, sent });
      while (sent.id === null && sent.idempotencyKey !== null && !isOver) {
        if (performance.now() > deadline) {
          book.surprises.push(`${sent.name}: not acknowledged for ${COMMAND_MS} ms`);
          break;
        }
        await sleep(RETRY_MS);
        await sendCommand(program, home, { book, sent });
      }
      if (sent.id === null) await sleep(RETRY_MS);
    }
  };
  const clients = Promise.all(Array.from({ length: CLIENTS }, client));
  return {
    book,
    turnTo: (next) => {
      program = next;
    },
    async stop() {
      isOver = true;
      await clients;
    },
  };
}

/** Lets the load go on until that many more commands are acknowledged: a slow machine takes longer. */
export async function untilAcknowledged(book: Book, more: number): Promise<void> {
  const wanted = acknowledged(book).length + more;
  const deadline = performance.now() + LOAD_MS_MAX;
  while (acknowledged(book).length < wanted && performance.now() < deadline) await sleep(5);
}

/** What a run of the program holds, as its own API tells it. */
export type Found = Readonly<{
  events: readonly RecordedEvent[];
  /** Ids by name. */
  objects: Readonly<Record<Kind, ReadonlyMap<string, readonly number[]>>>;
}>;

/** Reads everything: the whole log as evidence, and every key and mail domain. */
export async function readEverything(program: Program, home: string): Promise<Found> {
  return {
    events: await exportLog(program, home),
    objects: {
      api_key: await listAll(program, home, PATH.api_key),
      mail_domain: await listAll(program, home, PATH.mail_domain),
    },
  };
}

/** The committed lines of the whole log, by the export that ends with a trailer. */
export async function exportLog(program: Program, home: string): Promise<RecordedEvent[]> {
  const response = await fetch(`${program.url}/api/v1/audit/logs?form=evidence`, {
    headers: { 'X-API-Key': bootstrapKey(home), Accept: 'application/x-ndjson' },
  });
  const lines = (await response.text()).trimEnd().split('\n');
  const trailer = JSON.parse(lines.pop() ?? '{}') as { trailer?: { count: number } };
  if (trailer.trailer?.count !== lines.length) throw new Error('the export was cut');
  return lines.map((line) => (JSON.parse(line) as { line: RecordedEvent }).line);
}

async function listAll(program: Program, home: string, path: string) {
  const ids = new Map<string, number[]>();
  let cursor = '';
  for (;;) {
    const answer = await ask(program, home, { path: `${path}?limit=${PAGE}${cursor}` });
    if (answer?.status !== 200) throw new Error(`cannot list ${path}: ${answer?.status}`);
    for (const { id, name } of answer.data as { id: number; name: string }[]) {
      ids.set(name, [...(ids.get(name) ?? []), id]);
    }
    if (answer.headers.get('x-has-more') !== 'true') return ids;
    cursor = `&cursor=${answer.headers.get('x-next-cursor')}`;
  }
}

export type Verdict = Readonly<{
  /** Acknowledged commands whose object or event is not there. */
  lost: readonly string[];
  /** Commands that left more than one object or event. */
  duplicates: readonly string[];
  /** Holes, and whatever else is wrong with the log's order. */
  disorder: readonly string[];
}>;

/** Compares what the clients were told with what is there. */
export function judge(sent: readonly Sent[], { events, objects }: Found): Verdict {
  const created = new Map<string, number>();
  for (const { type, resource } of events) {
    if (type !== 'api_key.created' && type !== 'mail_domain.created') continue;
    const subject = `${resource.type}:${resource.id}`;
    created.set(subject, (created.get(subject) ?? 0) + 1);
  }
  const lost: string[] = [];
  const duplicates: string[] = [];
  for (const { kind, name, id } of sent) {
    const ids = objects[kind].get(name) ?? [];
    if (ids.length > 1) duplicates.push(`${name} is there ${ids.length} times`);
    for (const one of ids) {
      const count = created.get(`${kind}:${one}`) ?? 0;
      if (count > 1) duplicates.push(`${name} was created ${count} times`);
      if (count === 0) lost.push(`${name} (${one}) has no event`);
    }
    if (id !== null && !ids.includes(id)) lost.push(`${name} (${id}) is not there`);
    if (id !== null && !created.has(`${kind}:${id}`)) lost.push(`${name} (${id}) has no event`);
  }
  return { lost, duplicates, disorder: findDisorder(events) };
}

export type CrashKind = 'gateway' | 'database' | 'both';
export const CRASH_KINDS: readonly CrashKind[] = ['gateway', 'database', 'both'];

export type RoundResult = Readonly<{
  kind: CrashKind;
  verdict: Verdict;
  events: number;
  /** Milliseconds from the kill until the program served again. */
  recoveryMs: number;
  program: Program;
}>;

/**
 * One crash: load, kill -9 of the gateway, of its database, or of both, and back. Every unfinished command
 * with an Idempotency-Key is then sent once more; a sample of finished ones too.
 */
export async function crashRound(
  kind: CrashKind,
  at: Readonly<{ program: Program; home: string; book: Book }>,
): Promise<RoundResult> {
  const { home, book } = at;
  let { program } = at;
  const before = book.sent.length;
  const load = startLoad(program, home, book);
  await untilAcknowledged(book, COMMANDS + randomInt(COMMANDS));
  const database = databasePid(home);
  if (database === null) throw new Error('the database is not running');

  const begin = performance.now();
  if (kind !== 'gateway') process.kill(database, 'SIGKILL');
  if (kind !== 'database') {
    program.kill('SIGKILL');
    await program.ended();
    program = await startProgram(home);
    load.turnTo(program);
    const isAdopted = databasePid(home) === database;
    if (isAdopted !== (kind === 'gateway')) {
      book.surprises.push(
        `after kill -9 of ${kind} the database was ${isAdopted ? '' : 'not '}adopted`,
      );
    }
  }
  await untilServing(program, at, book);
  const recoveryMs = Math.round(performance.now() - begin);
  await untilAcknowledged(book, COMMANDS / 4);
  await load.stop();

  await sendAgain(program, home, { book, since: before });
  const found = await readEverything(program, home);
  const verdict = judge(book.sent, found);
  return { kind, verdict, events: found.events.length, recoveryMs, program };
}

/** Waits until the program answers a write; while it does not it must say so properly and stay alive. */
async function untilServing(
  program: Program,
  { home }: { home: string },
  book: Book,
): Promise<void> {
  const deadline = performance.now() + RECOVERY_MS;
  for (;;) {
    if (program.hasEnded()) throw new Error(`the gateway ended:\n${program.output()}`);
    const sent = { kind: 'mail_domain', name: `probe${book.sent.length}.example.com` } as const;
    const probe: Sent = { ...sent, idempotencyKey: null, id: null };
    book.sent.push(probe);
    await sendCommand(program, home, { book, sent: probe });
    if (probe.id !== null) return;
    if (performance.now() > deadline) {
      throw new Error(`not serving after ${RECOVERY_MS} ms:\n${program.output()}`);
    }
    await sleep(5);
  }
}

const SAMPLE = 10;

/** Each Idempotency-Key that is not acknowledged yet, and a few that are: one object, the same answer. */
async function sendAgain(
  program: Program,
  home: string,
  { book, since }: Readonly<{ book: Book; since: number }>,
): Promise<void> {
  const keyed = book.sent.slice(since).filter(({ idempotencyKey }) => idempotencyKey !== null);
  const finished = keyed.filter(({ id }) => id !== null).slice(0, SAMPLE);
  for (const sent of finished) {
    const answer = await sendCommand(program, home, { book, sent });
    if (answer?.headers.get('idempotency-replayed') !== 'true') {
      book.surprises.push(`${sent.name}: not replayed but ${answer?.status ?? 'broken'}`);
    }
    if (answer?.data?.key !== undefined)
      book.surprises.push(`${sent.name}: its key was told twice`);
  }
  for (const sent of keyed.filter(({ id }) => id === null)) {
    await sendCommand(program, home, { book, sent });
    if (sent.id === null) book.surprises.push(`${sent.name}: its key cannot be taken over`);
  }
}

/** Waits for a process to end. */
export async function untilGone(pid: number, ms = 10_000): Promise<boolean> {
  const deadline = performance.now() + ms;
  while (isAlive(pid)) {
    if (performance.now() > deadline) return false;
    await sleep(20);
  }
  return true;
}
