import { type FileHandle, open, stat } from 'node:fs/promises';
import { nullIfMissing } from './spool-files.ts';

/** The end of a log file that others write and rotate; one `read` at a time. */
export type LogTail = Readonly<{
  /** Reads on to the end as it is now; false when there is nothing at the path to be read. */
  read: () => Promise<boolean>;
  /** How much of the file is read, and how much there was at the last look. */
  reached: () => Readonly<{ position: number; size: number }>;
  close: () => Promise<void>;
}>;

type Options = Readonly<{
  path: string;
  /** How much of the end is read at first; what is missing to it is taken from `PATH.1`. */
  scanBytes: number;
  signal: AbortSignal;
  /** One line without its end. The bytes are its own only until it returns. */
  onLine: (line: Buffer) => void;
  /** Some lines were read. */
  onRead: () => void;
}>;

type Source = Readonly<{ file: FileHandle; dev: number; ino: number }> & {
  position: number;
  size: number;
};

const READ_BYTES = 262_144;
const LINE_BYTES_MAX = 65_536;
const NEWLINE = 10;
const NO_BYTES = Buffer.alloc(0);

/** Opens nothing yet: each `read` looks for the file anew, so that it may come late or come back. */
export function tailLog({ path, scanBytes, signal, onLine, onRead }: Options): LogTail {
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  const lines = splitLines(onLine);
  let current: Source | null = null;
  let isBegun = false;
  let misses = 0;

  async function readOn(source: Source): Promise<void> {
    source.size = (await source.file.stat()).size;
    if (source.size < source.position) {
      // It was copied and truncated.
      source.position = 0;
      lines.restart(0);
    }
    while (source.position < source.size && !signal.aborted) {
      const { bytesRead } = await source.file.read(buffer, 0, READ_BYTES, source.position);
      if (bytesRead === 0) return;
      source.position += bytesRead;
      lines.push(buffer.subarray(0, bytesRead));
      onRead();
    }
  }

  /** The former file is a help and no more, so whatever ails it only shortens what is known. */
  async function readRotated(bytes: number, present: Source | null): Promise<void> {
    const rotated = await openLast(`${path}.1`, bytes).catch(() => null);
    if (rotated === null) return;
    lines.restart(rotated.position);
    if (present === null || !isSame(rotated, present)) await readOn(rotated).catch(() => undefined);
    await rotated.file.close();
  }

  async function begin(): Promise<Source | null> {
    const source = await openLast(path, scanBytes);
    const missing = scanBytes - (source?.size ?? 0);
    if (!isBegun && missing > 0) await readRotated(missing, source);
    isBegun = true;
    lines.restart(source?.position ?? 0);
    return source;
  }

  return {
    async read() {
      // Looked at before the rest is read: once the new file has a line, the old one gets no more.
      const there = await statFile(path);
      misses = there === null ? misses + 1 : 0;
      current ??= await begin();
      if (current === null) return false;
      await readOn(current);
      // Between the two steps of a rotation there is no file for a moment.
      if (there === null) return misses < 2;
      if (isSame(current, there) || there.size === 0) return true;
      const old = current;
      current = await openLast(path, Number.POSITIVE_INFINITY);
      lines.restart(0);
      await old.file.close();
      if (current !== null) await readOn(current);
      return true;
    },
    reached: () => ({ position: current?.position ?? 0, size: current?.size ?? 0 }),
    async close() {
      await current?.file.close();
    },
  };
}

/** Opens a file for the last of its bytes; null when it is not there. */
async function openLast(path: string, bytes: number): Promise<Source | null> {
  if ((await statFile(path)) === null) return null;
  const file = await open(path, 'r').catch(nullIfMissing);
  if (file === null) return null;
  const { dev, ino, size } = await file.stat();
  // One byte more tells whether a line begins there.
  return { file, dev, ino, size, position: Math.max(0, size - bytes - 1) };
}

/** To open a pipe would wait for who writes to it. */
async function statFile(path: string) {
  const there = await stat(path).catch(nullIfMissing);
  if (there === null || there.isFile()) return there;
  throw Object.assign(new Error('The log is no regular file'), { code: 'EFTYPE' });
}

type Identity = Readonly<{ dev: number; ino: number }>;
const isSame = (a: Identity, b: Identity) => a.dev === b.dev && a.ino === b.ino;

/** Cuts bytes into lines; of one that is too long nothing is kept and nothing is told. */
function splitLines(onLine: (line: Buffer) => void) {
  let rest: Buffer = NO_BYTES;
  let isSkipping = false;

  function end(piece: Buffer): void {
    const isWhole = !isSkipping && rest.length + piece.length <= LINE_BYTES_MAX;
    const line = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
    rest = NO_BYTES;
    isSkipping = false;
    if (isWhole) onLine(line);
  }
  function keep(piece: Buffer): void {
    isSkipping ||= rest.length + piece.length > LINE_BYTES_MAX;
    rest = isSkipping ? NO_BYTES : Buffer.concat([rest, piece]);
  }
  return {
    push(bytes: Buffer): void {
      let start = 0;
      for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, start)) {
        end(bytes.subarray(start, at));
        start = at + 1;
      }
      if (start < bytes.length) keep(bytes.subarray(start));
    },
    /** A line that has no end by now gets none. Within a file the first line may be half a one. */
    restart(position: number): void {
      rest = NO_BYTES;
      isSkipping = position > 0;
    },
  };
}
