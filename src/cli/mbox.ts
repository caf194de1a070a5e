import { stripMboxLine } from '../mail/mail-head.ts';

/** Bytes that can be read piece by piece; `read` gives fewer than asked for only at their end. */
export type ByteSource = Readonly<{
  size: number;
  read: (start: number, end: number) => Promise<Buffer>;
}>;

/** Where a message stands in a file, without the line that a mailbox file puts before it. */
export type MessageRange = Readonly<{
  start: number;
  end: number;
  /** From 1 within a mailbox file; null for a file that is one message. */
  number: number | null;
}>;

const START_BYTES = 1_024;
const WINDOW_BYTES = 1_048_576;
/** Separator and first field have to end within this, or it is taken for text. */
const LOOKAHEAD_BYTES = 4_096;
/** What stands before a separator: a line's end and an empty line. */
const LOOKBEHIND_BYTES = 3;

const NEW_LINE = 0x0a;
const RETURN = 0x0d;

/**
 * `From `, a sender, the date that asctime(3) writes, and then a header field: text that somebody
 * quotes hardly ever looks like that.
 */
const SEPARATOR =
  /^From \S+ +(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[ ,][^\r\n]*\d\d:\d\d[^\r\n]*\r?\n(?=[!-9;-~]+[ \t]*:)/;

/**
 * The messages of a file in their order: several of one that begins with the `From ` line of a mailbox
 * file (RFC 4155) and has another such line behind an empty line; else it is one message. What is
 * kept in memory is a window of the file.
 */
export async function* findMessages(source: ByteSource): AsyncGenerator<MessageRange> {
  const { size } = source;
  let start = stripMboxLine(await source.read(0, Math.min(size, START_BYTES)));
  let number = 1;
  if (start > 0) {
    for await (const separator of findSeparators(source, start)) {
      yield { start, end: separator.messageEnd, number };
      start = separator.nextStart;
      number += 1;
    }
  }
  if (number === 1) yield { start, end: size, number: null };
  else yield { start, end: await withoutLastLine(source, start), number };
}

type Separator = Readonly<{ messageEnd: number; nextStart: number }>;

async function* findSeparators(source: ByteSource, from: number): AsyncGenerator<Separator> {
  const { size } = source;
  for (let at = from; at < size; at += WINDOW_BYTES) {
    const first = Math.max(0, at - LOOKBEHIND_BYTES);
    const window = await source.read(first, Math.min(size, at + WINDOW_BYTES + LOOKAHEAD_BYTES));
    const end = at + WINDOW_BYTES - first;
    for (
      let hit = window.indexOf('\nFrom ');
      hit !== -1;
      hit = window.indexOf('\nFrom ', hit + 1)
    ) {
      const place = hit + 1;
      if (place < at - first) continue;
      if (place >= end) break;
      const text = window.toString('latin1', place, place + LOOKAHEAD_BYTES);
      const line = SEPARATOR.exec(text)?.[0] ?? null;
      const gap = emptyLineBefore(window, place);
      if (line === null || gap === 0) continue;
      yield { messageEnd: first + place - gap, nextStart: first + place + line.length };
    }
  }
}

/** How long the empty line is that ends right before a place; 0 when the line there is not empty. */
function emptyLineBefore(bytes: Buffer, place: number): number {
  if (bytes[place - 1] !== NEW_LINE) return 0;
  const gap = bytes[place - 2] === RETURN ? 2 : 1;
  return bytes[place - gap - 1] === NEW_LINE ? gap : 0;
}

/** The empty line at the end of a mailbox file belongs to the mailbox, as those between messages do. */
async function withoutLastLine(source: ByteSource, start: number): Promise<number> {
  const from = Math.max(start, source.size - LOOKBEHIND_BYTES);
  const tail = await source.read(from, source.size);
  return source.size - emptyLineBefore(tail, tail.length);
}

/** Takes off the `>` that a mailbox file puts before lines that look like its separator (mboxrd). */
export function unescapeFromLines(bytes: Buffer): Buffer {
  if (!bytes.includes('>From ')) return bytes;
  const text = bytes.toString('latin1').replace(/(^|\n)>(>*From )/g, '$1$2');
  return Buffer.from(text, 'latin1');
}
