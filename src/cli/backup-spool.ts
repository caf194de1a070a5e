import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { chmod, mkdir, open, readdir, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pipeline } from 'node:stream/promises';
import { syncDirectory } from '../integrations/spool-files.ts';
import { CliError } from './command.ts';

/** `<shard>/<id>.eml`, as the spool keeps what is held. */
const SHARD = /^[0-9a-f]{2}$/;
const NAME = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.eml$/;
const ENTRY = /^[0-9a-f]{2}\/[0-9a-f-]{36}\.eml$/;

type Entry = Readonly<{ file: string; bytes: number; sha256: string }>;
export type SpoolCount = Readonly<{ messages: number; bytes: number; sha256: string }>;

/** Copies the files of held messages into a backup, in as many passes as it is asked to. */
export type SpoolCopy = Readonly<{
  /** Copies what is there and not copied yet. */
  pass: () => Promise<void>;
  has: (id: string) => Promise<boolean>;
  end: () => Promise<SpoolCount>;
}>;

/** Null where there is no spool: mail is held by Postfix, or none was ever held. */
export async function openSpoolCopy(
  spoolDir: string,
  dir: string,
  signal: AbortSignal,
): Promise<SpoolCopy | null> {
  if ((await stat(spoolDir).catch(() => null)) === null) return null;
  const copies = join(dir, 'spool');
  await mkdir(copies, { mode: 0o700 });
  const list = await open(join(dir, 'spool.jsonl'), 'wx', 0o600);
  const hash = createHash('sha256');
  let messages = 0;
  let bytes = 0;
  const isThere = async (file: string) =>
    (await stat(join(copies, file)).catch(() => null)) !== null;
  async function copy(file: string): Promise<void> {
    signal.throwIfAborted();
    if (await isThere(file)) return;
    const entry = await copyFile(join(spoolDir, file), join(copies, file));
    // Decided and gone between the look at its directory and now.
    if (entry === null) return;
    const line = `${JSON.stringify({ file, ...entry })}\n`;
    hash.update(line);
    await list.appendFile(line);
    messages += 1;
    bytes += entry.bytes;
  }
  return {
    async pass() {
      for (const shard of await readdir(spoolDir)) {
        if (!SHARD.test(shard)) continue;
        await mkdir(join(copies, shard), { recursive: true, mode: 0o700 });
        for (const name of await readdir(join(spoolDir, shard))) {
          if (NAME.test(name)) await copy(`${shard}/${name}`);
        }
        await syncDirectory(join(copies, shard));
      }
      await syncDirectory(copies);
    },
    has: (id) => isThere(`${id.slice(-2)}/${id}.eml`),
    async end() {
      await list.sync();
      await list.close();
      return { messages, bytes, sha256: hash.digest('hex') };
    },
  };
}

/** A file's copy, durable under its name; null when there is none to copy. */
async function copyFile(from: string, to: string): Promise<Omit<Entry, 'file'> | null> {
  const draft = `${to}.${randomUUID()}.part`;
  const hash = createHash('sha256');
  let bytes = 0;
  try {
    await pipeline(
      createReadStream(from),
      async function* (chunks: AsyncIterable<Buffer>) {
        for await (const chunk of chunks) {
          hash.update(chunk);
          bytes += chunk.length;
          yield chunk;
        }
      },
      createWriteStream(draft, { flags: 'wx', mode: 0o600, flush: true }),
    );
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' && path === from) return null;
    throw error;
  }
  await rename(draft, to);
  return { bytes, sha256: hash.digest('hex') };
}

/** Every file that a backup lists; rejects where the list or a file is not what was written. */
export async function verifySpool(dir: string, counted: SpoolCount | null): Promise<void> {
  if (counted === null) return;
  const hash = createHash('sha256');
  for await (const { entry, line } of entriesOf(dir)) {
    hash.update(`${line}\n`);
    const found = await hashOf(join(dir, 'spool', entry.file));
    if (found !== entry.sha256) throw new CliError(`The backup is damaged: spool/${entry.file}.`);
  }
  if (hash.digest('hex') !== counted.sha256) {
    throw new CliError('The backup is damaged: spool.jsonl.');
  }
}

/** Puts the files back into a spool. What is there already is written once more. */
export async function restoreSpool(
  dir: string,
  spoolDir: string,
  onFile: () => void,
): Promise<void> {
  await mkdir(spoolDir, { recursive: true, mode: 0o700 });
  await chmod(spoolDir, 0o700);
  const shards = new Set<string>();
  for await (const { entry } of entriesOf(dir)) {
    const shard = join(spoolDir, entry.file.slice(0, 2));
    if (!shards.has(shard)) await mkdir(shard, { recursive: true, mode: 0o700 });
    shards.add(shard);
    const copied = await copyFile(join(dir, 'spool', entry.file), join(spoolDir, entry.file));
    if (copied?.sha256 !== entry.sha256) throw new CliError(`spool/${entry.file} has changed.`);
    onFile();
  }
  for (const shard of [...shards, spoolDir]) await syncDirectory(shard);
}

async function* entriesOf(dir: string): AsyncGenerator<{ entry: Entry; line: string }> {
  const file = await open(join(dir, 'spool.jsonl'), 'r').catch(() => {
    throw new CliError('The backup is damaged: spool.jsonl.');
  });
  for await (const line of createInterface({ input: file.createReadStream() })) {
    const entry = parse(line);
    if (entry === null || !ENTRY.test(entry.file)) {
      throw new CliError('The backup is damaged: spool.jsonl.');
    }
    yield { entry, line };
  }
}

function parse(line: string): Entry | null {
  try {
    return JSON.parse(line) as Entry;
  } catch {
    return null;
  }
}

async function hashOf(file: string): Promise<string | null> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
    return hash.digest('hex');
  } catch {
    return null;
  }
}
