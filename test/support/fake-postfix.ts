import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HeldFile } from '../../src/integrations/hold-queue.ts';
import type { HelperVerb } from '../../src/integrations/postfix-helper.ts';
import { openFakeMailLog } from './fake-postfix-lines.ts';
import {
  type Arrival,
  type FakeAct,
  type FakeQueue,
  heldLine,
  listLine,
  openFakeQueue,
} from './fake-postfix-queue.ts';

/**
 * What goes wrong with an answer: it ends in its middle, and nothing was done; the same, but everything was
 * done; it never comes; the helper refuses.
 */
export type Fault = 'cut' | 'acts_and_cuts' | 'hangs' | 'refuses';

type Asked = Readonly<{ verb: string; lines: readonly string[] }>;

export type FakePostfix = Awaited<ReturnType<typeof startFakePostfix>>;

/** The postqueue of a mail server that lies down, and what is between the entries of others. */
const NOTICE = 'postqueue: warning: Mail system is down -- accessing queue directly';
const LINES_MAX = 1_000;
/** From a delivery's request to its result, and of pickup from its waking. */
const MOMENT_MS = 10;

/**
 * The privileged helper over a virtual Postfix, on a Unix socket, and the log that it writes. It is as
 * awkward as the real one: an exit status says nothing, what is released is not yet delivered, ids change.
 */
export async function startFakePostfix() {
  const dir = mkdtempSync(join(tmpdir(), 'mailguard-fake-postfix-'));
  const socket = join(dir, 'helper.sock');
  const log = openFakeMailLog(join(dir, 'mail.log'));
  const queue = openFakeQueue(log);
  const faults = openFaults();
  const asked: Asked[] = [];
  const hidden = new Map<string, number>();
  const between = new Map<string, () => void>();
  const before = new Map<string, () => void>();
  const settings = new Map([
    ['queue_directory', '/var/spool/postfix'],
    ['maximal_queue_lifetime', '5d'],
    ['enable_long_queue_ids', 'yes'],
    ['hash_queue_names', 'deferred, defer'],
    ['maillog_file', ''],
    ['myhostname', 'mx.test.example'],
    ['mail_version', '3.7.11'],
  ]);
  let isFlickering = false;
  const timers = new Set<NodeJS.Timeout>();
  const soon = (work: () => void) => {
    const timer = setTimeout(() => {
      timers.delete(timer);
      work();
    }, MOMENT_MS);
    timers.add(timer);
  };
  const answer = createAnswers({
    queue,
    settings,
    soon,
    isFlickering: () => isFlickering,
    takeHidden(id) {
      const left = hidden.get(id) ?? 0;
      hidden.set(id, left - 1);
      return left > 0;
    },
    takeBetween: (verb) => takeFrom(between, verb),
  });
  const door = createDoor(socket, async (request) => {
    const [verb = '', ...rest] = request.split('\n');
    const end = rest.indexOf('.');
    const lines = rest.slice(0, end);
    asked.push({ verb, lines });
    const fault = faults.take(verb);
    takeFrom(before, verb);
    if (end === -1) return 'mailguard: the request was cut\nend 64\n';
    if (fault === 'hangs') return null;
    if (fault === 'refuses') return 'mailguard: postconf failed\nend 64\n';
    const isActing = ['release', 'requeue', 'discard', 'bounce', 'deliver'].includes(verb);
    if (fault === 'cut' && isActing) return '';
    const text = answer(verb, lines);
    return fault === null ? text : text.slice(0, text.lastIndexOf('end ') - 3);
  });
  await door.open();
  const fileOf = ({ queueId, size, mtime }: ReturnType<FakeQueue['arrive']>): HeldFile => ({
    queueId,
    file: { size, mtime },
  });
  return {
    socket,
    mailLog: log.path,
    log,
    /** What was asked of the helper, in its order. */
    asked: asked as readonly Asked[],
    delivered: queue.delivered,
    settings,
    arrive: (arrival?: Arrival): HeldFile => fileOf(queue.arrive(arrival)),
    /** Another message under the id of one that has gone without a word. */
    reuse(queueId: string, arrival: Arrival = {}): HeldFile {
      const text = 'Subject: Quite another\n\nA message that nobody may touch.\n';
      return fileOf(queue.arrive({ text, ...arrival, queueId }));
    },
    /** What an administrator types at the console. */
    console: (verb: FakeAct, queueId: string): readonly string[] =>
      queue.postsuper(verb, [queueId]),
    /** How a recipient's server answers from now on. */
    answer: (address: string, result: 'sent' | 'deferred' | 'bounced') =>
      queue.results.set(address.toLowerCase(), result),
    runQueue: () => queue.run(),
    pickup: () => queue.pickup(),
    /** Takes a file away, and neither its queue nor the log says so. */
    lose: (queueId: string) => queue.messages.delete(queueId),
    /** In which queue a message is; null: in none. */
    queueOf: (queueId: string) => queue.messages.get(queueId)?.queue ?? null,
    file: (queueId: string): HeldFile | null => {
      const message = queue.messages.get(queueId);
      return message === undefined ? null : fileOf(message);
    },
    /** From now on `list` tells a message twice, and leaves one out. */
    flicker: (isOn = true) => {
      isFlickering = isOn;
    },
    /** The next looks into the hold queue miss this file, as when it moves. */
    hide: (queueId: string, looks: number) => hidden.set(queueId, looks),
    /** Does something at the moment that the helper is asked for a verb, once. */
    before: (verb: HelperVerb, work: () => void) => before.set(verb, work),
    /** Does something between the helper's comparison of files and its act, once. */
    between: (verb: HelperVerb, work: () => void) => between.set(verb, work),
    fail: faults.add,
    heal: faults.clear,
    down: door.close,
    up: door.open,
    async stop() {
      for (const timer of timers) clearTimeout(timer);
      await door.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function takeFrom(works: Map<string, () => void>, verb: string): void {
  const work = works.get(verb);
  works.delete(verb);
  work?.();
}

type AnswerDeps = Readonly<{
  queue: FakeQueue;
  settings: ReadonlyMap<string, string>;
  soon: (work: () => void) => void;
  isFlickering: () => boolean;
  takeHidden: (queueId: string) => boolean;
  takeBetween: (verb: string) => void;
}>;

const ID = '(?:[0-9A-F]{6,20}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{11,30})';
const FILE_LINE = new RegExp(`^${ID} \\d{1,15} \\d{1,12}\\.\\d{1,10}$`);
const ID_LINE = new RegExp(`^${ID}$`);

/** The answers of the helper, whole; in the letters of Latin-1, which are bytes. */
function createAnswers(deps: AnswerDeps): (verb: string, lines: readonly string[]) => string {
  const { queue, settings, soon } = deps;
  const answered = (lines: readonly string[], status = 0) =>
    [...lines, `end ${status}`, ''].join('\n');
  const refused = (why: string) => answered([`mailguard: ${why}`], 64);

  function list(): string[] {
    const lines = [...queue.messages.values()].map(listLine);
    const [first] = lines;
    if (!deps.isFlickering() || first === undefined) return lines;
    return [first, NOTICE, ...lines.slice(0, Math.max(1, lines.length - 1))];
  }
  function act(verb: FakeAct, lines: readonly string[]): string {
    const held = new Map(queue.held().map((message) => [message.queueId, heldLine(message)]));
    const same: string[] = [];
    const others = lines.flatMap((line) => {
      const [id = ''] = line.split(' ');
      const there = held.get(id);
      if (there === undefined) return [`mailguard: ${id}: not held`];
      if (there !== line) return [`mailguard: ${id}: differs`];
      same.push(id);
      return [];
    });
    deps.takeBetween(verb);
    const said = queue.postsuper(verb, same);
    // The helper wakes pickup, which is at work a moment later.
    if (verb === 'requeue') soon(queue.pickup);
    return answered([...others, ...said]);
  }
  function message(line: string): string {
    const found = queue.held().find((one) => heldLine(one) === line);
    if (found === undefined) return answered([], 1);
    return `${found.text.endsWith('\n') ? found.text : `${found.text}\n`}end 0\n`;
  }

  return (verb, lines) => {
    if (lines.length > LINES_MAX) return refused(`more than ${LINES_MAX} lines`);
    const isBare = verb === 'settings' || verb === 'held' || verb === 'list';
    if (isBare && lines.length > 0) return refused('this verb takes no lines');
    if (!isBare && lines.length === 0) return refused('no message given');
    const form = verb === 'deliver' ? ID_LINE : FILE_LINE;
    if (!lines.every((line) => form.test(line))) return refused('a line is not of the right form');
    switch (verb) {
      case 'settings':
        return answered([...settings].map(([name, value]) => `${name} = ${value}`));
      case 'held':
        return answered(
          queue.held().flatMap((one) => (deps.takeHidden(one.queueId) ? [] : [heldLine(one)])),
        );
      case 'list':
        return answered(list());
      case 'message':
        return lines.length === 1
          ? message(lines[0] ?? '')
          : refused('this verb takes one message');
      case 'release':
      case 'requeue':
      case 'discard':
      case 'bounce':
        return act(verb, lines);
      case 'deliver':
        soon(() => queue.run(lines));
        return answered([]);
      default:
        return refused('no such verb');
    }
  };
}

function openFaults() {
  let faults: { fault: Fault; verb: string | null; times: number }[] = [];
  return {
    /** For the next so many requests of a verb, or of any. */
    add(fault: Fault, verb: HelperVerb | null = null, times = 1): void {
      faults.push({ fault, verb, times });
    },
    clear(): void {
      faults = [];
    },
    take(verb: string): Fault | null {
      const found = faults.find((one) => one.times > 0 && (one.verb === null || one.verb === verb));
      if (found === undefined) return null;
      found.times -= 1;
      return found.fault;
    },
  };
}

/** A Unix socket that can be shut and opened again; what answers null leaves its client waiting. */
function createDoor(path: string, answer: (request: string) => Promise<string | null>) {
  const sockets = new Set<Socket>();
  let server: Server | null = null;
  function serve(socket: Socket): void {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('end', async () => {
      const text = await answer(Buffer.concat(chunks).toString('latin1'));
      if (text !== null) socket.end(text, 'latin1');
    });
  }
  return {
    async open(): Promise<void> {
      if (server !== null) return;
      rmSync(path, { force: true });
      server = createServer({ allowHalfOpen: true }, serve).listen(path);
      await once(server, 'listening');
    },
    async close(): Promise<void> {
      const open = server;
      server = null;
      if (open === null) return;
      for (const socket of sockets) socket.destroy();
      await once(open.close(), 'close');
      rmSync(path, { force: true });
    },
  };
}
