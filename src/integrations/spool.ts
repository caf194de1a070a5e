import assert from 'node:assert/strict';
import { createHash, type Hash, randomUUID } from 'node:crypto';
import { lstatSync } from 'node:fs';
import { chmod, mkdir, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { DomainError } from '../domain/errors.ts';
import {
  HEAD_BYTES_MAX,
  type MessageSpool,
  type ReceivedMessage,
} from '../domain/message-store.ts';
import {
  asRefusal,
  nullIfMissing,
  oneAtATime,
  openBytes,
  quarantineFull,
  rethrowAsRefusal,
  shareSyncs,
  unlinkIfThere,
} from './spool-files.ts';

const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;
const SWEEP_IDS = 500;
const FOREIGN_NAMES_LOGGED_MAX = 10;
const ID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const SHARD = /^[0-9a-f]{2}$/;
const SUFFIX = '.eml';

export type SpoolOptions = Readonly<{
  /** Belongs to the spool alone; it is created, and closed to other users, when need be. */
  dir: string;
  /** For everything: what is kept, what waits to be kept, and what is being received. */
  bytesMax: number;
  messageBytesMax: number;
  logger?: Readonly<{ warn: (fields: object, message: string) => void }>;
}>;

type Spool = {
  readonly options: SpoolOptions;
  readonly incoming: string;
  messages: number;
  bytes: number;
  /** Size by token: received in full, neither kept nor dropped yet. */
  readonly received: Map<string, number>;
  /** Size by name: what an earlier process left in `incoming/`, until it is swept. */
  readonly leftovers: Map<string, number>;
  /** Kept since the start, which a sweep must spare: their events may come later. Null once swept. */
  young: Set<string> | null;
  readonly shards: Map<string, Promise<void>>;
  readonly sync: (dir: string) => Promise<void>;
  readonly alone: <T>(id: string, work: () => Promise<T>) => Promise<T>;
};

/**
 * A message store on a directory: `<last two characters of the id>/<id>.eml` for what is kept, and
 * `incoming/` for what is not yet. One process at a time may have it open. `usage().bytes` counts
 * what is being received, too. `sweep` may succeed once, at the start; ids are lower-case UUIDs and
 * anything else is an assertion error. An opened message holds a file until it was read to its end
 * or its iterator was told to return. Rejects as the file system does when `dir` cannot be used.
 */
export async function openSpool(options: SpoolOptions): Promise<MessageSpool> {
  const spool: Spool = {
    options,
    incoming: join(options.dir, 'incoming'),
    messages: 0,
    bytes: 0,
    received: new Map(),
    leftovers: new Map(),
    young: new Set(),
    shards: new Map(),
    sync: shareSyncs(),
    alone: oneAtATime(),
  };
  for (const dir of [options.dir, spool.incoming]) {
    await mkdir(dir, { recursive: true, mode: DIRECTORY_MODE });
    await chmod(dir, DIRECTORY_MODE);
  }
  await count(spool);
  return {
    receive: (bytes) => receive(spool, bytes),
    keep: (received, id) => spool.alone(id, () => keep(spool, received, id)),
    drop: (received) => drop(spool, received),
    open: async (id) => openBytes(pathOf(spool, id)),
    remove: (id) => spool.alone(id, () => remove(spool, id)),
    sweep: (isKnown) => sweep(spool, isKnown),
    usage: () => ({ messages: spool.messages, bytes: spool.bytes, bytesMax: options.bytesMax }),
  };
}

/**
 * Counts what an earlier process has left. It reads one shard's names at a time, and asks for sizes
 * synchronously: for a million files that is seconds, where the thread pool would take minutes.
 */
async function count(spool: Spool): Promise<void> {
  for (const name of await readdir(spool.incoming)) {
    const { size } = lstatSync(join(spool.incoming, name));
    spool.leftovers.set(name, size);
    spool.bytes += size;
  }
  for (const shard of await shardsOf(spool)) {
    for (const name of await readdir(join(spool.options.dir, shard))) {
      if (idOf(name, shard) === null) continue;
      spool.bytes += lstatSync(`${spool.options.dir}/${shard}/${name}`).size;
      spool.messages += 1;
    }
  }
}

async function receive(spool: Spool, source: AsyncIterable<Uint8Array>): Promise<ReceivedMessage> {
  const token = randomUUID();
  const intake: Intake = { hash: createHash('sha256'), sizeBytes: 0 };
  try {
    const file = await open(join(spool.incoming, token), 'wx+', FILE_MODE);
    try {
      for await (const chunk of source) {
        admit(spool, intake, chunk);
        await file.appendFile(chunk);
      }
      await file.sync();
      const { sizeBytes } = intake;
      const head = Buffer.alloc(Math.min(sizeBytes, HEAD_BYTES_MAX));
      const { bytesRead } = await file.read(head, 0, head.length, 0);
      assert.equal(bytesRead, head.length, 'what was written can be read');
      spool.received.set(token, sizeBytes);
      return { token, sizeBytes, sha256: intake.hash.digest('hex'), head };
    } finally {
      await file.close();
    }
  } catch (error) {
    spool.received.delete(token);
    await forget(spool, token, intake.sizeBytes);
    throw asRefusal(error);
  }
}

type Intake = { readonly hash: Hash; sizeBytes: number };

/** Counts bytes before they are written, so that the quota holds whatever else is being received. */
function admit(spool: Spool, intake: Intake, chunk: Uint8Array): void {
  if (intake.sizeBytes + chunk.length > spool.options.messageBytesMax) {
    throw new DomainError('payload_too_large', 'The message is larger than this gateway holds', {
      bytes_max: spool.options.messageBytesMax,
    });
  }
  if (spool.bytes + chunk.length > spool.options.bytesMax) throw quarantineFull();
  intake.hash.update(chunk);
  intake.sizeBytes += chunk.length;
  spool.bytes += chunk.length;
}

async function keep(spool: Spool, { token }: ReceivedMessage, id: string): Promise<void> {
  const path = pathOf(spool, id);
  const shard = shardOf(id);
  await makeShard(spool, shard);
  if ((await stat(path).catch(nullIfMissing)) !== null) {
    await drop(spool, { token });
  } else {
    await move(spool, token, id);
  }
  // Also for what was there: an earlier call may have failed at this very point.
  await spool.sync(join(spool.options.dir, shard)).catch(rethrowAsRefusal);
}

async function move(spool: Spool, token: string, id: string): Promise<void> {
  const sizeBytes = spool.received.get(token);
  assert(sizeBytes !== undefined, 'kept bytes were received, and neither kept nor dropped');
  // Taken before the first wait, so that nobody can drop or keep the same bytes meanwhile.
  spool.received.delete(token);
  spool.young?.add(id);
  try {
    await rename(join(spool.incoming, token), pathOf(spool, id));
    spool.messages += 1;
  } catch (error) {
    spool.received.set(token, sizeBytes);
    throw asRefusal(error);
  }
}

async function drop(spool: Spool, { token }: Pick<ReceivedMessage, 'token'>): Promise<void> {
  const sizeBytes = spool.received.get(token);
  if (sizeBytes === undefined) return;
  spool.received.delete(token);
  await forget(spool, token, sizeBytes);
}

/** What cannot be unlinked goes on counting, as it goes on taking its room; the next sweep tries. */
async function forget(spool: Spool, token: string, sizeBytes: number): Promise<void> {
  try {
    await unlinkIfThere(join(spool.incoming, token));
    spool.bytes -= sizeBytes;
  } catch (error) {
    spool.options.logger?.warn({ err: error }, 'received bytes cannot be removed from the spool');
  }
}

async function remove(spool: Spool, id: string): Promise<boolean> {
  const path = pathOf(spool, id);
  const found = await stat(path).catch(nullIfMissing);
  if (found !== null) {
    await unlink(path);
    spool.messages -= 1;
    spool.bytes -= found.size;
  }
  // Also for what was gone: an earlier call may have failed at this very point.
  await spool.sync(join(spool.options.dir, shardOf(id))).catch(nullIfMissing);
  return found !== null;
}

type IsKnown = Parameters<MessageSpool['sweep']>[0];

async function sweep(spool: Spool, isKnown: IsKnown): Promise<{ removed: number }> {
  assert(spool.young !== null, 'a spool is swept once, at its start');
  let removed = 0;
  for (const [name, sizeBytes] of spool.leftovers) {
    await rm(join(spool.incoming, name), { recursive: true, force: true });
    spool.leftovers.delete(name);
    spool.bytes -= sizeBytes;
    removed += 1;
  }
  const foreign: string[] = [];
  for (const shard of await shardsOf(spool, foreign)) {
    const ids: string[] = [];
    for (const name of await readdir(join(spool.options.dir, shard))) {
      const id = idOf(name, shard);
      if (id === null) foreign.push(join(shard, name));
      else ids.push(id);
    }
    for (let at = 0; at < ids.length; at += SWEEP_IDS) {
      removed += await sweepIds(spool, ids.slice(at, at + SWEEP_IDS), isKnown);
    }
  }
  if (foreign.length > 0) {
    const names = foreign.slice(0, FOREIGN_NAMES_LOGGED_MAX);
    spool.options.logger?.warn({ count: foreign.length, names }, 'the spool has foreign files');
  }
  spool.young = null;
  return { removed };
}

async function sweepIds(spool: Spool, ids: readonly string[], isKnown: IsKnown): Promise<number> {
  const known = await isKnown(ids);
  const removals = ids
    .filter((id) => !known.has(id))
    .map((id) =>
      spool.alone(id, async () => spool.young?.has(id) !== true && (await remove(spool, id))),
    );
  return (await Promise.all(removals)).filter(Boolean).length;
}

async function shardsOf(spool: Spool, foreign: string[] = []): Promise<string[]> {
  const shards: string[] = [];
  for (const entry of await readdir(spool.options.dir, { withFileTypes: true })) {
    if (entry.isDirectory() && SHARD.test(entry.name)) shards.push(entry.name);
    else if (entry.name !== 'incoming') foreign.push(entry.name);
  }
  return shards;
}

/** Once per process and shard, so that a directory which a crash left unsynced is made safe, too. */
function makeShard(spool: Spool, shard: string): Promise<void> {
  const made = spool.shards.get(shard) ?? makeDirectory(spool, shard);
  spool.shards.set(shard, made);
  return made;
}

async function makeDirectory(spool: Spool, shard: string): Promise<void> {
  try {
    await mkdir(join(spool.options.dir, shard), { recursive: true, mode: DIRECTORY_MODE });
    await spool.sync(spool.options.dir);
  } catch (error) {
    spool.shards.delete(shard);
    throw asRefusal(error);
  }
}

function pathOf(spool: Spool, id: string): string {
  return join(spool.options.dir, shardOf(id), `${id}${SUFFIX}`);
}

function shardOf(id: string): string {
  assert(ID.test(id), 'the id of a message is a UUID in lower case');
  return id.slice(-2);
}

function idOf(name: string, shard: string): string | null {
  const id = name.endsWith(SUFFIX) ? name.slice(0, -SUFFIX.length) : '';
  return ID.test(id) && shardOf(id) === shard ? id : null;
}
