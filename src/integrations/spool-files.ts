import { type FileHandle, open, unlink } from 'node:fs/promises';
import { DomainError } from '../domain/errors.ts';
import type { OpenedMessage } from '../domain/message-store.ts';

const READ_BYTES = 65_536;
/** How long a sender is asked to wait when there is no room. */
const RETRY_AFTER_SECONDS = 60;
/** No room by the disk, by the owner's disk quota, or by the process's limit on a file. */
const FULL = ['ENOSPC', 'EDQUOT', 'EFBIG'];

type Syncing = { readonly current: Promise<void>; next: Promise<void> | null };

/**
 * Makes a directory's entries durable, for many callers at once: one fsync runs at a time, and
 * those who ask while it runs share the next, which begins after their change was made.
 */
export function shareSyncs(): (dir: string) => Promise<void> {
  const syncing = new Map<string, Syncing>();
  function start(dir: string): Promise<void> {
    const state: Syncing = {
      current: syncDirectory(dir).finally(() => end(dir, state)),
      next: null,
    };
    syncing.set(dir, state);
    return state.current;
  }
  function end(dir: string, state: Syncing): void {
    if (state.next === null) syncing.delete(dir);
  }
  return (dir) => {
    const state = syncing.get(dir);
    if (state === undefined) return start(dir);
    const again = () => start(dir);
    state.next ??= state.current.then(again, again);
    return state.next;
  };
}

/** Runs what is asked for one id in the order of asking, one after the other. */
export function oneAtATime(): <T>(id: string, work: () => Promise<T>) => Promise<T> {
  const last = new Map<string, Promise<unknown>>();
  return (id, work) => {
    const before = last.get(id) ?? Promise.resolve();
    const result = before.then(work, work);
    const settled = result
      .catch(() => undefined)
      .then(() => {
        if (last.get(id) === settled) last.delete(id);
      });
    last.set(id, settled);
    return result;
  };
}

/**
 * Opens a file to be read once; null when it is not there. The file is closed at its end, on an
 * error, and when the iterator is told to return, also before its first read.
 */
export async function openBytes(path: string): Promise<OpenedMessage | null> {
  const file = await open(path, 'r').catch(nullIfMissing);
  if (file === null) return null;
  try {
    const { size } = await file.stat();
    return { sizeBytes: size, bytes: bytesOf(file) };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Written out, since the iterator of a stream that was never read closes nothing on its return. */
function bytesOf(file: FileHandle): AsyncIterable<Uint8Array> {
  const end = async () => {
    await file.close();
    return { done: true, value: undefined } as const;
  };
  async function next(): Promise<IteratorResult<Uint8Array, undefined>> {
    try {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(READ_BYTES), 0, READ_BYTES);
      if (bytesRead === 0) return await end();
      return { done: false, value: buffer.subarray(0, bytesRead) };
    } catch (error) {
      await file.close();
      throw error;
    }
  }
  return { [Symbol.asyncIterator]: () => ({ next, return: end }) };
}

/** For `catch`: null when a file is not there; any other error goes on. */
export function nullIfMissing(error: unknown): null {
  if (codeOf(error) === 'ENOENT') return null;
  throw error;
}

/** Unlinks a file that may be gone. */
export async function unlinkIfThere(path: string): Promise<void> {
  await unlink(path).catch(nullIfMissing);
}

/** The refusal of a message for which there is no room. */
export function quarantineFull(): DomainError {
  return new DomainError('quarantine_full', 'The quarantine has no room for this message', {
    retry_after_seconds: RETRY_AFTER_SECONDS,
  });
}

/** What a failed write means to its caller: `quarantine_full` for a full disk, else the error. */
export function asRefusal(error: unknown): unknown {
  return FULL.includes(codeOf(error) ?? '') ? quarantineFull() : error;
}

/** For `catch`: `asRefusal`, thrown. */
export function rethrowAsRefusal(error: unknown): never {
  throw asRefusal(error);
}

function codeOf(error: unknown): string | null {
  const { code } = (error ?? {}) as { code?: unknown };
  return typeof code === 'string' ? code : null;
}

/** Makes the names in a directory durable. */
export async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
