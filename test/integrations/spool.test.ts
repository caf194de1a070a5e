import { execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import ts from 'typescript';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { DomainError } from '../../src/domain/errors.ts';
import { HEAD_BYTES_MAX } from '../../src/domain/message-store.ts';
import { openSpool, type SpoolOptions } from '../../src/integrations/spool.ts';

const MIB = 1_048_576;
const home = mkdtempSync(join(tmpdir(), 'mailguard-spool-'));
afterAll(() => rmSync(home, { recursive: true, force: true }));

const newDir = () => join(home, randomUUID());
const open = (over: Partial<SpoolOptions> = {}) =>
  openSpool({ dir: newDir(), bytesMax: 100 * MIB, messageBytesMax: 50 * MIB, ...over });

async function* chunks(...parts: readonly (Uint8Array | string)[]) {
  for (const part of parts) yield Buffer.from(part);
}

async function read(bytes: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of bytes) parts.push(part);
  return Buffer.concat(parts);
}

const refusalOf = async (work: Promise<unknown>): Promise<DomainError> => {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof DomainError)) throw new Error(`no refusal, but ${String(error)}`);
  return error;
};

/** Every file under a directory, by its path in it. */
const filesOf = (dir: string): string[] =>
  readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .filter((name) => statSync(join(dir, name)).isFile())
    .sort();
const modeOf = (path: string) => statSync(path).mode & 0o777;
const shardPath = (id: string) => join(id.slice(-2), `${id}.eml`);
const descriptors = () => readdirSync('/proc/self/fd').length;

describe('a message in the spool', () => {
  it('comes back byte for byte, with its size, hash and head', async () => {
    const dir = newDir();
    const spool = await open({ dir });
    const message = randomBytes(HEAD_BYTES_MAX + 100_000);
    const received = await spool.receive(chunks(message.subarray(0, 7), message.subarray(7)));
    expect(received.sizeBytes).toBe(message.length);
    expect(received.sha256).toBe(createHash('sha256').update(message).digest('hex'));
    expect(Buffer.compare(received.head, message.subarray(0, HEAD_BYTES_MAX))).toBe(0);

    const id = randomUUID();
    await spool.keep(received, id);
    expect(filesOf(dir)).toEqual([shardPath(id)]);
    const opened = await spool.open(id);
    expect(opened?.sizeBytes).toBe(message.length);
    expect(Buffer.compare(await read(opened!.bytes), message)).toBe(0);
    expect(spool.usage()).toEqual({
      messages: 1,
      bytes: message.length,
      bytesMax: 100 * MIB,
    });
  });

  it('has a head as long as itself when it is short', async () => {
    const received = await (await open()).receive(chunks('Subject: hi', '\r\n'));
    expect(Buffer.from(received.head).toString()).toBe('Subject: hi\r\n');
  });

  it('may be empty', async () => {
    const spool = await open();
    const id = randomUUID();
    await spool.keep(await spool.receive(chunks()), id);
    const opened = await spool.open(id);
    expect(opened?.sizeBytes).toBe(0);
    expect(await read(opened!.bytes)).toHaveLength(0);
  });

  it('is readable by the owner of the process alone', async () => {
    const dir = newDir();
    mkdirSync(dir, { mode: 0o755 });
    const spool = await open({ dir });
    const id = randomUUID();
    const received = await spool.receive(chunks('x'));
    expect(modeOf(join(dir, 'incoming', received.token))).toBe(0o600);
    await spool.keep(received, id);
    expect(modeOf(join(dir, shardPath(id)))).toBe(0o600);
    for (const path of ['', 'incoming', id.slice(-2)]) expect(modeOf(join(dir, path))).toBe(0o700);
  });

  it('is counted again by the next process', async () => {
    const dir = newDir();
    const spool = await open({ dir });
    await spool.keep(await spool.receive(chunks('12345')), randomUUID());
    await spool.keep(await spool.receive(chunks('678')), randomUUID());
    expect((await open({ dir })).usage()).toMatchObject({ messages: 2, bytes: 8 });
  });

  it.each(['../../etc/passwd', '', randomUUID().toUpperCase(), `${randomUUID()}/..`])(
    'cannot be named %j',
    async (id) => {
      const spool = await open();
      const received = await spool.receive(chunks('x'));
      for (const work of [spool.open(id), spool.remove(id), spool.keep(received, id)]) {
        await expect(work).rejects.toThrow(/UUID in lower case/);
      }
    },
  );

  it('is null when it is not there', async () => {
    expect(await (await open()).open(randomUUID())).toBeNull();
  });
});

describe('an opened message', () => {
  async function opened() {
    const spool = await open();
    const id = randomUUID();
    await spool.keep(await spool.receive(chunks(randomBytes(MIB))), id);
    const before = descriptors();
    const message = await spool.open(id);
    expect(descriptors()).toBe(before + 1);
    return { spool, id, before, bytes: message!.bytes };
  }

  it('lets go of its file at the end', async () => {
    const { bytes, before } = await opened();
    expect((await read(bytes)).length).toBe(MIB);
    expect(descriptors()).toBe(before);
  });

  it('lets go of its file when reading ends early', async () => {
    const { bytes, before } = await opened();
    for await (const _ of bytes) break;
    expect(descriptors()).toBe(before);
  });

  it('lets go of its file when its reader is destroyed before the first read', async () => {
    const { bytes, before } = await opened();
    await bytes[Symbol.asyncIterator]().return?.();
    expect(descriptors()).toBe(before);
  });

  it('lets go of its file when a stream over it is destroyed halfway', async () => {
    const { bytes, before } = await opened();
    const stream = Readable.from(bytes);
    await once(stream, 'readable');
    stream.destroy();
    await once(stream, 'close');
    await vi.waitFor(() => expect(descriptors()).toBe(before));
  });

  it('can be read to its end after it was removed', async () => {
    const { spool, id, bytes } = await opened();
    expect(await spool.remove(id)).toBe(true);
    expect((await read(bytes)).length).toBe(MIB);
  });
});

describe('receiving', () => {
  it('leaves nothing of a source that fails halfway', async () => {
    const dir = newDir();
    const spool = await open({ dir });
    async function* failing() {
      yield Buffer.alloc(100_000);
      throw new Error('the wire broke');
    }
    await expect(spool.receive(failing())).rejects.toThrow('the wire broke');
    expect(filesOf(dir)).toEqual([]);
    expect(spool.usage().bytes).toBe(0);
  });

  it('leaves nothing of a client that went away', async () => {
    const dir = newDir();
    const spool = await open({ dir });
    const before = descriptors();
    const request = new Readable({ read: () => undefined });
    request.push(Buffer.alloc(50_000));
    const receiving = spool.receive(request);
    await vi.waitFor(() => expect(spool.usage().bytes).toBe(50_000));
    expect(filesOf(dir)).toHaveLength(1);
    request.destroy(new Error('aborted'));
    await expect(receiving).rejects.toThrow('aborted');
    expect(filesOf(dir)).toEqual([]);
    expect(spool.usage().bytes).toBe(0);
    expect(descriptors()).toBe(before);
  });

  it('takes a message of the greatest size, and none with a byte more', async () => {
    const dir = newDir();
    const spool = await open({ dir, messageBytesMax: 1_000 });
    const exact = await spool.receive(chunks(Buffer.alloc(999), 'x'));
    expect(exact.sizeBytes).toBe(1_000);
    const refusal = await refusalOf(spool.receive(chunks(Buffer.alloc(1_000), 'x')));
    expect(refusal.code).toBe('payload_too_large');
    expect(refusal.details).toEqual({ bytes_max: 1_000 });
    expect(filesOf(dir)).toEqual([join('incoming', exact.token)]);
    expect(spool.usage().bytes).toBe(1_000);
  });

  it('stops reading a source that is too large', async () => {
    const spool = await open({ messageBytesMax: 1_000 });
    let given = 0;
    let isClosed = false;
    async function* endless() {
      try {
        for (;;) {
          given += 600;
          yield Buffer.alloc(600);
        }
      } finally {
        isClosed = true;
      }
    }
    expect((await refusalOf(spool.receive(endless()))).code).toBe('payload_too_large');
    expect({ given, isClosed }).toEqual({ given: 1_200, isClosed: true });
  });

  it('asks its source for no more than it has written', async () => {
    const dir = newDir();
    const spool = await open({ dir });
    const written: number[] = [];
    async function* counting() {
      for (let n = 0; n < 64; n += 1) {
        yield Buffer.alloc(65_536);
        const [token] = readdirSync(join(dir, 'incoming'));
        written.push(statSync(join(dir, 'incoming', token!)).size);
      }
    }
    await spool.receive(counting());
    expect(written).toEqual(Array.from({ length: 64 }, (_, n) => (n + 1) * 65_536));
  });

  it('holds little of a message of 40 MiB in memory', async () => {
    const spool = await open();
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    let peak = 0;
    const used = () => {
      const { arrayBuffers, heapUsed } = process.memoryUsage();
      return arrayBuffers + heapUsed;
    };
    /** Once for each 4 MiB, when all that nobody holds has been collected. */
    const measure = (n: number) => {
      if (n % 64 !== 0) return;
      collect();
      peak = Math.max(peak, used());
    };
    async function* large() {
      for (let n = 0; n < 640; n += 1) {
        measure(n);
        yield Buffer.alloc(65_536, n);
      }
    }
    collect();
    const before = used();
    const id = randomUUID();
    await spool.keep(await spool.receive(large()), id);
    let size = 0;
    for await (const part of (await spool.open(id))!.bytes) {
      measure(size / 65_536);
      size += part.length;
    }
    expect(size).toBe(40 * MIB);
    expect(peak - before).toBeLessThan(8 * MIB);
  });
});

describe('the quota', () => {
  it('refuses what has no room, and has room again after a removal', async () => {
    const dir = newDir();
    const spool = await open({ dir, bytesMax: 1_000 });
    const id = randomUUID();
    await spool.keep(await spool.receive(chunks(Buffer.alloc(600))), id);
    const refusal = await refusalOf(spool.receive(chunks(Buffer.alloc(300), Buffer.alloc(101))));
    expect(refusal.code).toBe('quarantine_full');
    expect(refusal.details).toEqual({ retry_after_seconds: 60 });
    expect(filesOf(dir)).toEqual([shardPath(id)]);
    expect(spool.usage().bytes).toBe(600);

    const fitting = await spool.receive(chunks(Buffer.alloc(400)));
    expect(spool.usage().bytes).toBe(1_000);
    expect((await refusalOf(spool.receive(chunks('x')))).code).toBe('quarantine_full');
    await spool.remove(id);
    await spool.drop(fitting);
    expect((await spool.receive(chunks(Buffer.alloc(1_000)))).sizeBytes).toBe(1_000);
  });

  it('is never exceeded by those who receive at the same time', async () => {
    const dir = newDir();
    const spool = await open({ dir, bytesMax: 20_000 });
    let most = 0;
    async function* slow() {
      for (let n = 0; n < 4; n += 1) {
        yield Buffer.alloc(1_000);
        const onDisk = filesOf(dir).reduce((sum, name) => sum + sizeOf(join(dir, name)), 0);
        most = Math.max(most, onDisk, spool.usage().bytes);
        await sleep(1);
      }
    }
    const results = await Promise.allSettled(
      Array.from({ length: 20 }, () => spool.receive(slow())),
    );
    const taken = results.filter(({ status }) => status === 'fulfilled').length;
    expect(most).toBeLessThanOrEqual(20_000);
    expect(most).toBeGreaterThan(16_000);
    expect(taken).toBeLessThanOrEqual(5);
    expect(spool.usage().bytes).toBe(taken * 4_000);
  });

  it('is told when the disk itself is full, and keeps nothing of that message', async (context) => {
    const dir = join(home, 'small-disk');
    mkdirSync(dir);
    try {
      execFileSync('/bin/mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', dir], { stdio: 'pipe' });
    } catch (error) {
      console.warn(`no disk can be filled here, mount says: ${String(error)}`);
      return context.skip();
    }
    try {
      const spool = await open({ dir });
      const small = await spool.receive(chunks(Buffer.alloc(100_000)));
      const refusal = await refusalOf(
        spool.receive(chunks(...Array.from({ length: 20 }, () => Buffer.alloc(100_000)))),
      );
      expect(refusal.code).toBe('quarantine_full');
      expect(refusal.details).toEqual({ retry_after_seconds: 60 });
      expect(filesOf(dir)).toEqual([join('incoming', small.token)]);
      expect(spool.usage().bytes).toBe(100_000);
    } finally {
      execFileSync('/bin/umount', [dir]);
    }
  });
});

const sizeOf = (path: string) => (existsSync(path) ? statSync(path).size : 0);

describe('keeping and removing', () => {
  it('keeps received bytes once, however often it is asked', async () => {
    const dir = newDir();
    const spool = await open({ dir });
    const id = randomUUID();
    const received = await spool.receive(chunks('first'));
    await Promise.all([spool.keep(received, id), spool.keep(received, id)]);
    await spool.keep(received, id);
    await spool.drop(received);
    expect(filesOf(dir)).toEqual([shardPath(id)]);
    expect(spool.usage()).toMatchObject({ messages: 1, bytes: 5 });
  });

  it('drops what comes second for a message that has its bytes', async () => {
    const dir = newDir();
    const spool = await open({ dir });
    const id = randomUUID();
    const [first, second] = [
      await spool.receive(chunks('first')),
      await spool.receive(chunks('second')),
    ];
    await Promise.all([spool.keep(first, id), spool.keep(second, id)]);
    expect((await read((await spool.open(id))!.bytes)).toString()).toBe('first');
    expect(filesOf(dir)).toEqual([shardPath(id)]);
    expect(spool.usage()).toMatchObject({ messages: 1, bytes: 5 });
  });

  it('does not keep what was dropped', async () => {
    const spool = await open();
    const received = await spool.receive(chunks('x'));
    await spool.drop(received);
    await spool.drop(received);
    await expect(spool.keep(received, randomUUID())).rejects.toThrow(/neither kept nor dropped/);
    expect(spool.usage()).toMatchObject({ messages: 0, bytes: 0 });
  });

  it('removes a message once, and counts that once', async () => {
    const spool = await open();
    const id = randomUUID();
    await spool.keep(await spool.receive(chunks('12345')), id);
    await spool.keep(await spool.receive(chunks('678')), randomUUID());
    const removals = await Promise.all([spool.remove(id), spool.remove(id), spool.remove(id)]);
    expect(removals.filter(Boolean)).toHaveLength(1);
    expect(await spool.remove(id)).toBe(false);
    expect(await spool.open(id)).toBeNull();
    expect(spool.usage()).toMatchObject({ messages: 1, bytes: 3 });
  });

  it('removes nothing of a message whose shard was never made', async () => {
    expect(await (await open()).remove(randomUUID())).toBe(false);
  });

  it('keeps many at once', async () => {
    const dir = newDir();
    const spool = await open({ dir });
    const ids = Array.from({ length: 100 }, (_, n) => `${randomUUID().slice(0, -1)}${n % 4}`);
    await Promise.all(ids.map(async (id) => spool.keep(await spool.receive(chunks(id)), id)));
    expect(filesOf(dir)).toEqual(ids.map(shardPath).sort());
    expect(spool.usage().messages).toBe(100);
    await Promise.all(ids.map((id) => spool.remove(id)));
    expect(filesOf(dir)).toEqual([]);
    expect(spool.usage()).toMatchObject({ messages: 0, bytes: 0 });
  });
});

describe('a sweep', () => {
  it('asks in batches and removes what is not known', async () => {
    const dir = newDir();
    const before = await open({ dir });
    const shard = 'ab';
    const ids = Array.from({ length: 501 }, () => `${randomUUID().slice(0, -2)}${shard}`);
    await before.keep(await before.receive(chunks('x')), ids[0]!);
    for (const id of ids.slice(1)) writeFileSync(join(dir, shardPath(id)), 'xx');

    const spool = await open({ dir });
    expect(spool.usage()).toMatchObject({ messages: 501, bytes: 1_001 });
    const asked: number[] = [];
    const swept = await spool.sweep(async (batch) => {
      asked.push(batch.length);
      return new Set(batch.filter((id) => id === ids[0]));
    });
    expect(asked).toEqual([500, 1]);
    expect(swept).toEqual({ removed: 500 });
    expect(filesOf(dir)).toEqual([shardPath(ids[0]!)]);
    expect(spool.usage()).toMatchObject({ messages: 1, bytes: 1 });
  });

  it('spares what this process has received and kept', async () => {
    const dir = newDir();
    const spool = await open({ dir });
    const id = randomUUID();
    await spool.keep(await spool.receive(chunks('kept')), id);
    const waiting = await spool.receive(chunks('waiting'));
    expect(await spool.sweep(async () => new Set())).toEqual({ removed: 0 });
    expect(filesOf(dir)).toEqual([shardPath(id), join('incoming', waiting.token)].sort());
  });

  it('removes received bytes that another process never kept', async () => {
    const dir = newDir();
    await (await open({ dir })).receive(chunks('12345'));
    const spool = await open({ dir });
    expect(spool.usage()).toMatchObject({ messages: 0, bytes: 5 });
    expect(await spool.sweep(async () => new Set())).toEqual({ removed: 1 });
    expect(filesOf(dir)).toEqual([]);
    expect(spool.usage().bytes).toBe(0);
  });

  it('can be tried again when nobody could say what is known', async () => {
    const dir = newDir();
    const id = randomUUID();
    const before = await open({ dir });
    await before.keep(await before.receive(chunks('x')), id);
    const spool = await open({ dir });
    await expect(spool.sweep(() => Promise.reject(new Error('away')))).rejects.toThrow('away');
    expect(filesOf(dir)).toEqual([shardPath(id)]);
    expect(await spool.sweep(async () => new Set())).toEqual({ removed: 1 });
    await expect(spool.sweep(async () => new Set())).rejects.toThrow(/swept once/);
  });

  it('leaves foreign files alone, and says that they are there', async () => {
    const dir = newDir();
    const warn = vi.fn();
    const misplaced = `${randomUUID().slice(0, -2)}cd.eml`;
    const foreign = ['README', join('ab', 'notes.txt'), join('ab', misplaced)];
    mkdirSync(join(dir, 'ab'), { recursive: true });
    for (const name of foreign) writeFileSync(join(dir, name), 'x');
    const spool = await open({ dir, logger: { warn } });
    expect(spool.usage()).toMatchObject({ messages: 0, bytes: 0 });
    expect(await spool.sweep(async () => new Set())).toEqual({ removed: 0 });
    expect(filesOf(dir)).toEqual([...foreign].sort());
    expect(warn).toHaveBeenCalledTimes(1);
    const [fields] = warn.mock.calls[0] as [{ count: number; names: string[] }];
    expect({ ...fields, names: fields.names.sort() }).toEqual({ count: 3, names: foreign.sort() });
  });
});

describe('kill -9', () => {
  /** Compiled, because the oldest Node that is supported runs no TypeScript. */
  function compileTo(dir: string): string {
    const sources = [
      'spool.ts',
      'spool-files.ts',
      '../domain/errors.ts',
      '../domain/message-store.ts',
    ];
    for (const name of sources) {
      const source = fileURLToPath(new URL(`../../src/integrations/${name}`, import.meta.url));
      const target = join(dir, 'integrations', name.replace(/\.ts$/, '.js'));
      const { outputText } = ts.transpileModule(readFileSync(source, 'utf8'), {
        compilerOptions: {
          target: ts.ScriptTarget.ES2023,
          module: ts.ModuleKind.ESNext,
          rewriteRelativeImportExtensions: true,
        },
      });
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, outputText);
    }
    writeFileSync(join(dir, 'package.json'), '{"type":"module"}');
    return join(dir, 'integrations', 'spool.js');
  }

  /** Keeps messages for ever, eight at a time, and names each when it is kept. */
  const keeper = (module: string, dir: string) => `
    import { randomUUID } from 'node:crypto';
    import { openSpool } from ${JSON.stringify(module)};
    const spool = await openSpool({ dir: ${JSON.stringify(dir)}, bytesMax: 1e9, messageBytesMax: 1e6 });
    async function* message(id) {
      for (let n = 0; n < 20; n += 1) yield Buffer.from(id.repeat(100));
    }
    for (let n = 0; n < 8; n += 1) {
      (async () => {
        for (;;) {
          const id = randomUUID();
          const received = await spool.receive(message(id));
          await spool.keep(received, id);
          process.stdout.write(id + '\\n');
        }
      })();
    }`;

  it('loses nothing that was kept, and what was not is swept', async () => {
    const dir = newDir();
    const module = compileTo(newDir());
    const child = spawn(process.execPath, ['--input-type=module', '-e', keeper(module, dir)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const kept: string[] = [];
    for await (const line of createInterface({ input: child.stdout })) {
      kept.push(line);
      if (kept.length === 60) child.kill('SIGKILL');
    }
    const isWhole = (id: string) => /^[0-9a-f-]{36}$/.test(id);
    const known = new Set(kept.filter(isWhole));
    expect(known.size).toBeGreaterThanOrEqual(60);
    expect(filesOf(dir).length).toBeGreaterThan(known.size);

    const spool = await open({ dir });
    await spool.sweep(async () => known);
    expect(filesOf(dir)).toEqual([...known].map(shardPath).sort());
    for (const id of known) {
      expect((await read((await spool.open(id))!.bytes)).toString()).toBe(id.repeat(2_000));
    }
    expect(spool.usage()).toMatchObject({ messages: known.size, bytes: known.size * 72_000 });
  });
});
