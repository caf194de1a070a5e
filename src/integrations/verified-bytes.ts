import { createHash } from 'node:crypto';

/**
 * Passes bytes on, and throws behind the last when they are not those of this SHA-256 (in hex). Written out, since
 * a generator that was never read would not tell its source to end.
 */
export function verified(bytes: AsyncIterable<Uint8Array>, sha256: string) {
  const source = bytes[Symbol.asyncIterator]();
  const hash = createHash('sha256');
  async function next(): Promise<IteratorResult<Uint8Array, undefined>> {
    const read = await source.next();
    if (read.done !== true) hash.update(read.value);
    else if (hash.digest('hex') !== sha256) throw new Error('these bytes are not what arrived');
    return read;
  }
  const end = async () => {
    await source.return?.();
    return { done: true, value: undefined } as const;
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: end }) };
}
