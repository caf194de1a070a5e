import { z } from 'zod';
import type { QueueFile } from '../domain/quarantine-language.ts';
import type { HelperVerb, PostfixHelper } from './postfix-helper.ts';

/** A file of the hold queue as it lies there. */
export type HeldFile = Readonly<{ queueId: string; file: QueueFile }>;

/** A message of any queue, as `postqueue -j` tells it. */
export type QueueEntry = Readonly<{
  queueName: string;
  queueId: string;
  arrivedAt: Date;
  /** Empty for the null sender. */
  sender: string;
  recipients: readonly string[];
}>;

export type HoldVerb = Extract<HelperVerb, 'release' | 'requeue' | 'discard' | 'bounce'>;

/**
 * What came of an action: `done` when its own line was printed and the file is gone; `not_held` when there was no such
 * file; `differs` when its queue id belongs to another message by now; `unsaid` when neither is certain.
 */
export type ActOutcome = 'done' | 'not_held' | 'differs' | 'unsaid';

export type HoldQueue = Readonly<{
  settings: () => Promise<ReadonlyMap<string, string>>;
  /** What is held, by the names of the files alone: cheap enough for every few seconds. */
  held: () => Promise<readonly HeldFile[]>;
  /**
   * All queues. No snapshot: a message that moves meanwhile may come twice or not at all. Ids that come
   * twice are told once, as they came last.
   */
  list: () => Promise<ReadonlyMap<string, QueueEntry>>;
  /** Headers and text of a held message, with CRLF; null when that file is not held. */
  open: (held: HeldFile) => Promise<AsyncIterable<Buffer> | null>;
  /** Never trusts an exit status: only the line of that id, and a look at the queue afterwards. */
  act: (verb: HoldVerb, held: HeldFile) => Promise<ActOutcome>;
  /** Asks for a delivery now of what has left the hold queue. */
  deliver: (queueId: string) => Promise<void>;
}>;

/** Short and long queue ids of Postfix (postconf(5), enable_long_queue_ids). */
const QUEUE_ID = /^(?:[0-9A-F]{6,20}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{11,30})$/;
const HELD_LINE = /^(\S+) (\d+) (\d+\.\d+)$/;
/** As many as the helper takes at once. */
const BATCH_MAX = 1_000;

const Entry = z.object({
  queue_name: z.string(),
  queue_id: z.string().regex(QUEUE_ID),
  arrival_time: z.number(),
  sender: z.string(),
  recipients: z.array(z.object({ address: z.string() })),
});

/** The words that postsuper must have printed of an id, all of them. */
const WORDS: Readonly<Record<HoldVerb, readonly string[]>> = {
  release: ['released from hold'],
  requeue: ['requeued'],
  discard: ['removed'],
  bounce: ['expired', 'released from hold'],
};

/** The hold queue of a Postfix by way of the helper. Every call rejects as the helper does, or as told. */
export function openHoldQueue(helper: PostfixHelper): HoldQueue {
  const ask = async (verb: HelperVerb, lines?: readonly string[]) => {
    const answer = await helper.ask(verb, lines);
    if (answer.status === 0) return answer.lines;
    throw new Error(`Postfix failed at ${verb}: ${answer.lines.at(-1) ?? answer.status}`);
  };
  const held = async () => (await ask('held')).flatMap(toHeld);
  const settings = async () =>
    new Map((await ask('settings')).flatMap((line) => toSetting(line) ?? []));
  const batches = new Map<HoldVerb, Batch>();
  return {
    settings,
    held,
    async list() {
      const entries = (await ask('list')).flatMap(toEntry);
      return new Map(entries.map((entry) => [entry.queueId, entry]));
    },
    async open(file) {
      const answer = helper.read('message', [lineOf(file)]);
      const first = await answer.next();
      if (first.done === true) return null;
      return withCrlf(first.value, answer);
    },
    async act(verb, file) {
      const batch = batches.get(verb) ?? createBatch((files) => actOn(verb, files));
      batches.set(verb, batch);
      return batch(file);
    },
    async deliver(queueId) {
      await ask('deliver', [queueId]);
    },
  };

  async function actOn(verb: HoldVerb, files: readonly HeldFile[]) {
    // Whatever the exit status: postsuper may fail after the first of several, and has said what it did.
    const { lines } = await helper.ask(verb, files.map(lineOf));
    const said = new Set(lines);
    const left = new Set((await held()).map(lineOf));
    return files.map((file): ActOutcome => {
      const { queueId } = file;
      if (said.has(`mailguard: ${queueId}: differs`)) return 'differs';
      if (left.has(lineOf(file))) return 'unsaid';
      const isSaid = WORDS[verb].every((words) => said.has(`postsuper: ${queueId}: ${words}`));
      if (isSaid) return 'done';
      return said.has(`mailguard: ${queueId}: not held`) ? 'not_held' : 'unsaid';
    });
  }
}

/** How the helper names a file, and is told which one is meant: no two files ever have the same. */
export const lineOf = ({ queueId, file }: HeldFile): string =>
  `${queueId} ${file.size} ${file.mtime}`;

function toHeld(line: string): HeldFile[] {
  const [, queueId = '', size, mtime = ''] = HELD_LINE.exec(line) ?? [];
  return QUEUE_ID.test(queueId) ? [{ queueId, file: { size: Number(size), mtime } }] : [];
}

function toSetting(line: string): [[string, string]] | null {
  const [, name, value] = /^(\w+) = ?(.*)$/.exec(line) ?? [];
  return name === undefined ? null : [[name, value ?? '']];
}

/** Lines that are no entry are notices for people. */
function toEntry(line: string): QueueEntry[] {
  const parsed = Entry.safeParse(line.startsWith('{') ? asJson(line) : null);
  if (!parsed.success) return [];
  const { data } = parsed;
  return [
    {
      queueName: data.queue_name,
      queueId: data.queue_id,
      arrivedAt: new Date(data.arrival_time * 1_000),
      sender: data.sender === 'MAILER-DAEMON' ? '' : data.sender,
      recipients: data.recipients.map(({ address }) => address),
    },
  ];
}

function asJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

const LF = 0x0a;

/**
 * Postfix keeps lines, and ends them with LF when it prints them (postcat(1)); mail ends them with CRLF. Written out,
 * since a generator that was never read would not tell its source to end.
 */
function withCrlf(
  first: Buffer,
  rest: AsyncGenerator<Buffer, number, undefined>,
): AsyncIterable<Buffer> {
  let pending: Buffer | null = first;
  async function next(): Promise<IteratorResult<Buffer, undefined>> {
    if (pending !== null) {
      const value = toCrlf(pending);
      pending = null;
      return { done: false, value };
    }
    const read = await rest.next();
    if (read.done !== true) return { done: false, value: toCrlf(read.value) };
    if (read.value !== 0) throw new Error('a held message could not be read to its end');
    return { done: true, value: undefined };
  }
  const end = async () => {
    await rest.return(0);
    return { done: true, value: undefined } as const;
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: end }) };
}

function toCrlf(chunk: Buffer): Buffer {
  const text = chunk.toString('latin1');
  return chunk.includes(LF) ? Buffer.from(text.replaceAll('\n', '\r\n'), 'latin1') : chunk;
}

type Batch = (file: HeldFile) => Promise<ActOutcome>;

/** Calls that come while one is under way go together in the next. */
function createBatch(run: (files: readonly HeldFile[]) => Promise<readonly ActOutcome[]>): Batch {
  type Waiting = Readonly<{
    file: HeldFile;
    resolve: (outcome: ActOutcome) => void;
    reject: (error: unknown) => void;
  }>;
  let waiting: Waiting[] = [];
  let isRunning = false;
  const go = async () => {
    while (waiting.length > 0) {
      const batch = waiting.slice(0, BATCH_MAX);
      waiting = waiting.slice(BATCH_MAX);
      try {
        const outcomes = await run(batch.map(({ file }) => file));
        for (const [index, { resolve }] of batch.entries()) resolve(outcomes[index] ?? 'unsaid');
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    isRunning = false;
  };
  return (file) =>
    new Promise((resolve, reject) => {
      waiting.push({ file, resolve, reject });
      if (isRunning) return;
      isRunning = true;
      // Those of the same moment come along.
      setImmediate(() => void go());
    });
}
