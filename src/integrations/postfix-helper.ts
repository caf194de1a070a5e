import { createConnection, type Socket } from 'node:net';
import { createTurns } from './turns.ts';

/** What the privileged helper does, and nothing else (`deploy/postfix/mailguard-postfix`). */
export type HelperVerb =
  | 'settings'
  | 'held'
  | 'list'
  | 'message'
  | 'release'
  | 'requeue'
  | 'discard'
  | 'bounce'
  | 'deliver';

/** The helper could not be reached, was cut off, or took too long: nobody knows what it has done. */
export class HelperUnavailableError extends Error {
  constructor(message: string, options: ErrorOptions = {}) {
    super(`the Postfix helper ${message}`, options);
    this.name = 'HelperUnavailableError';
  }
}

/** The helper has done nothing, and says why. */
export class HelperRefusedError extends Error {
  constructor(verb: HelperVerb, why: string) {
    super(`the Postfix helper refused ${verb}: ${why}`);
    this.name = 'HelperRefusedError';
  }
}

export type PostfixHelper = Readonly<{
  /** The lines of an answer that has come to its end, and the status it ended with. */
  ask: (
    verb: HelperVerb,
    lines?: readonly string[],
  ) => Promise<Readonly<{ status: number; lines: readonly string[] }>>;
  /** The bytes of an answer as they come, never those of a refusal; the status is what the generator returns. */
  read: (verb: HelperVerb, lines: readonly string[]) => AsyncGenerator<Buffer, number, undefined>;
}>;

export type HelperOptions = Readonly<{
  /** Of the Unix socket, which starts one helper a connection. */
  socket: string;
  /** For a whole answer that is asked for by `ask`. */
  askMs?: number;
}>;

const ASK_MS = 60_000;
/** A reader may be slow, but does not hold a helper for ever. */
const READ_MS = 120_000;
/** How long a question waits for its turn. */
const TURN_MS = 120_000;
/** Some 200,000 held messages in a list. */
const ANSWER_BYTES_MAX = 67_108_864;
/** Of a message that is read: a helper that hangs is given up. */
const FIRST_BYTE_MS = 10_000;
/** Helpers at once; others wait for their turn. Readers may be slow, and must keep no action out. */
const AT_ONCE = 8;
const READERS_AT_ONCE = 6;
/** What an answer ends with when it is a refusal: one line of words comes before it. */
const REFUSED = 64;
const REFUSAL_BYTES_MAX = 1_024;
const END = /(?:^|\n)end (\d{1,3})\n$/;
/** Longer than any last line. */
const TAIL_BYTES = 16;

/**
 * Talks to the helper. A request is a verb, lines, and a full stop; an answer ends with the line `end STATUS`, without
 * which it was cut. Both calls reject with `HelperUnavailableError`, or with `HelperRefusedError`.
 */
export function connectPostfixHelper({ socket, askMs = ASK_MS }: HelperOptions): PostfixHelper {
  const askers = createTurns({ inAll: AT_ONCE });
  const readers = createTurns({ inAll: READERS_AT_ONCE });
  return {
    async *read(verb, lines) {
      const giveBack = await readers.take('read', FIRST_BYTE_MS);
      if (giveBack === null) throw new HelperUnavailableError('has too many readers');
      // The helper is let go by then, also where nobody comes back for the rest.
      const timer = setTimeout(giveBack, READ_MS);
      try {
        const answer = answerOf(socket, requestOf(verb, lines), READ_MS, FIRST_BYTE_MS);
        return yield* unlessRefused(verb, answer);
      } finally {
        clearTimeout(timer);
        giveBack();
      }
    },
    async ask(verb, lines = []) {
      const giveBack = await askers.take('ask', TURN_MS);
      if (giveBack === null) throw new HelperUnavailableError('has no turn for so long');
      try {
        const answer = await wholeOf(answerOf(socket, requestOf(verb, lines), askMs));
        if (answer.status === REFUSED) throw new HelperRefusedError(verb, wordsOf(answer.lines));
        return answer;
      } finally {
        giveBack();
      }
    },
  };
}

type Answer = AsyncGenerator<Buffer, number, undefined>;

const wordsOf = (lines: readonly string[]): string => lines.at(-1) ?? 'it does not say why';

/** Only the end of an answer tells a refusal from mail, so what is as short as one is held back until then. */
async function* unlessRefused(verb: HelperVerb, answer: Answer): Answer {
  try {
    let begin: Buffer = Buffer.alloc(0);
    while (begin.length <= REFUSAL_BYTES_MAX) {
      const next = await answer.next();
      if (next.done === true) {
        const lines = begin.toString('utf8').trimEnd().split('\n');
        if (next.value === REFUSED) throw new HelperRefusedError(verb, wordsOf(lines));
        if (begin.length > 0) yield begin;
        return next.value;
      }
      begin = Buffer.concat([begin, next.value]);
    }
    yield begin;
    return yield* answer;
  } finally {
    await answer.return(0);
  }
}

async function wholeOf(answer: Answer): ReturnType<PostfixHelper['ask']> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for (;;) {
    const next = await answer.next();
    if (next.done === true) {
      const text = Buffer.concat(chunks).toString('utf8');
      return { status: next.value, lines: text.split('\n').filter((line) => line !== '') };
    }
    bytes += next.value.length;
    if (bytes > ANSWER_BYTES_MAX) {
      await answer.return(1);
      throw new HelperUnavailableError(`answers more than ${ANSWER_BYTES_MAX} bytes`);
    }
    chunks.push(next.value);
  }
}

const requestOf = (verb: HelperVerb, lines: readonly string[]): string =>
  [verb, ...lines, '.', ''].join('\n');

/** An answer without its last line, which is the return value. */
async function* answerOf(path: string, request: string, ms: number, firstByteMs = ms): Answer {
  const socket = createConnection({ path });
  const timer = setTimeout(
    () => socket.destroy(new HelperUnavailableError(`takes longer than ${ms} ms`)),
    ms,
  );
  const first = setTimeout(
    () => socket.destroy(new HelperUnavailableError(`says nothing for ${firstByteMs} ms`)),
    firstByteMs,
  );
  let held: Buffer = Buffer.alloc(0);
  try {
    socket.end(request);
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      clearTimeout(first);
      held = Buffer.concat([held, chunk]);
      // What may be the last line waits until it is known whether it is.
      if (held.length <= TAIL_BYTES) continue;
      const ready = held.subarray(0, held.length - TAIL_BYTES);
      held = held.subarray(held.length - TAIL_BYTES);
      yield ready;
    }
  } catch (error) {
    throw asUnavailable(error);
  } finally {
    clearTimeout(first);
    clearTimeout(timer);
    end(socket);
  }
  const match = END.exec(held.toString('latin1'));
  if (match === null) throw new HelperUnavailableError('was cut off in its answer');
  const [last, status] = match;
  const rest = held.length - last.length + (last.startsWith('\n') ? 1 : 0);
  if (rest > 0) yield held.subarray(0, rest);
  return Number(status);
}

function end(socket: Socket): void {
  socket.on('error', () => undefined);
  socket.destroy();
}

function asUnavailable(cause: unknown): Error {
  if (cause instanceof HelperUnavailableError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  return new HelperUnavailableError(`cannot be reached: ${code ?? message}`, { cause });
}
