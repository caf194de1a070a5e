import { type FileHandle, open } from 'node:fs/promises';
import { messageOf } from './command.ts';
import type { FoundFile } from './mail-files.ts';
import { type ByteSource, findMessages, type MessageRange, unescapeFromLines } from './mbox.ts';
import { count } from './numbers.ts';

/** Where a message was found. */
export type Place = Readonly<{
  path: string;
  /** From 1 within a mailbox file; null for a file that is one message. */
  number: number | null;
}>;

/** Why a message is not in the quarantine: a code, and a sentence. */
export type Refusal = Readonly<{ reason: string; why: string }>;

export type RawMail = Readonly<{ place: Place; bytes: Buffer }>;
export type ReadMail = RawMail | Readonly<{ place: Place; refusal: Refusal }>;

/** A smaller file is read at once. */
const WHOLE_BYTES_MAX = 1_048_576;

/**
 * The messages of files, one after the other; nothing is read before it is asked for, and nothing that
 * is larger than `bytesMax` is read into memory. A file that cannot be read is one refusal.
 */
export async function* readMails(
  { path, problem }: FoundFile,
  bytesMax: number,
): AsyncGenerator<ReadMail> {
  const whole = { path, number: null };
  if (problem !== null) {
    yield { place: whole, refusal: unreadable(problem) };
    return;
  }
  let file: FileHandle | null = null;
  let last: Place = whole;
  try {
    file = await open(path, 'r');
    const source = await sourceOf(file);
    for await (const range of findMessages(source)) {
      last = { path, number: range.number };
      yield { place: last, ...(await readMail(source, range, bytesMax)) };
    }
  } catch (error) {
    yield { place: last, refusal: unreadable(messageOf(error)) };
  } finally {
    await file?.close();
  }
}

const unreadable = (why: string): Refusal => ({ reason: 'unreadable', why });

async function sourceOf(file: FileHandle): Promise<ByteSource> {
  const { size } = await file.stat();
  const read = (start: number, end: number) => readBytes(file, start, end);
  if (size > WHOLE_BYTES_MAX) return { size, read };
  // At least one byte is asked for: some files tell only then that they cannot be read.
  const whole = await readBytes(file, 0, Math.max(size, 1));
  return { size: whole.length, read: async (start, end) => whole.subarray(start, end) };
}

async function readBytes(file: FileHandle, start: number, end: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(end - start);
  let filled = 0;
  while (filled < bytes.length) {
    const { bytesRead } = await file.read(bytes, filled, bytes.length - filled, start + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}

async function readMail(
  source: ByteSource,
  { start, end, number }: MessageRange,
  bytesMax: number,
): Promise<Readonly<{ bytes: Buffer }> | Readonly<{ refusal: Refusal }>> {
  const size = end - start;
  if (size === 0) return { refusal: { reason: 'empty', why: 'there is nothing in it' } };
  if (size > bytesMax) {
    const why = `${count(size)} bytes; the gateway takes at most ${count(bytesMax)}`;
    return { refusal: { reason: 'payload_too_large', why } };
  }
  const bytes = await source.read(start, end);
  if (bytes.length < size) return { refusal: unreadable('it became shorter while it was read') };
  return { bytes: number === null ? bytes : unescapeFromLines(bytes) };
}
