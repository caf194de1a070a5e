import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { open, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Readable, Transform, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createGzip } from 'node:zlib';
import { z } from 'zod';
import { syncDirectory } from '../integrations/spool-files.ts';
import { CliError, unusable } from './command.ts';

/** The shape of a backup; a program reads only the one that it knows. */
export const FORMAT = 1;
const MANIFEST = 'manifest.json';

const Table = z.strictObject({
  schema: z.enum(['eventlog', 'public']),
  name: z.string(),
  columns: z.array(z.string()),
  partitions: z.array(z.strictObject({ name: z.string(), bound: z.string() })),
  file: z.string().regex(/^tables\/[a-z0-9_]+\.[a-z0-9_]+\.copy\.gz$/),
  rows: z.number().int(),
  bytes: z.number().int(),
  sha256: z.string(),
});

const Manifest = z.strictObject({
  format: z.literal(FORMAT),
  product: z.string(),
  made_at: z.string(),
  postgres: z.string(),
  migrations: z.array(z.string()),
  log: z.strictObject({ log_id: z.string(), epoch: z.number().int(), head: z.string() }),
  key_fingerprint: z.string().nullable(),
  tables: z.array(Table),
  sequences: z.array(z.strictObject({ name: z.string(), last: z.string().nullable() })),
  /** The list of held messages' files, one line each; null without a spool. */
  spool: z
    .strictObject({ messages: z.number().int(), bytes: z.number().int(), sha256: z.string() })
    .nullable(),
});

export type Manifest = z.output<typeof Manifest>;
export type TableFile = Manifest['tables'][number];

/** How much went through, and what its bytes hash to, before they were packed. */
export type Measured = Readonly<{ rows: number; bytes: number; sha256: string }>;

const NEWLINE = 10;

/** What happens while a file is written or read: it is cut off, or there are more rows. */
export type Watch = Readonly<{ signal: AbortSignal; onRows: (more: number) => void }>;

/** Measures what flows through. COPY writes line feeds inside of values as `\n`, so each ends a row. */
function measure({ onRows }: Watch): { through: Transform; measured: () => Measured } {
  const hash = createHash('sha256');
  let rows = 0;
  let bytes = 0;
  const through = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      bytes += chunk.length;
      const before = rows;
      for (let at = chunk.indexOf(NEWLINE); at !== -1; at = chunk.indexOf(NEWLINE, at + 1))
        rows += 1;
      onRows(rows - before);
      done(null, chunk);
    },
  });
  return { through, measured: () => ({ rows, bytes, sha256: hash.digest('hex') }) };
}

/** Writes a stream to a new file, packed; it is on the disk when the promise resolves. */
export async function writePacked(source: Readable, file: string, watch: Watch): Promise<Measured> {
  const { through, measured } = measure(watch);
  const target = createWriteStream(file, { flags: 'wx', mode: 0o600, flush: true });
  await pipeline(source, through, createGzip({ level: 1 }), target, { signal: watch.signal });
  return measured();
}

/** Reads a packed file, to `target` if there is one. */
export async function readPacked(
  file: string,
  target: Writable | null,
  watch: Watch,
): Promise<Measured> {
  const { signal } = watch;
  const { through, measured } = measure(watch);
  const unpacked = [createReadStream(file), createGunzip(), through] as const;
  if (target === null) await pipeline(...unpacked, drain, { signal });
  else await orAborted(pipeline(...unpacked, target, { signal }), signal);
  return measured();
}

/** Does not wait for what is written to, which may wait for its server to be ended: its session's end cuts that. */
async function orAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  let abort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
  });
  try {
    await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

async function drain(chunks: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of chunks);
}

/** What the manifest says of itself: one changed digit of a sequence would have ids given out twice. */
const digestOf = (manifest: object): string =>
  createHash('sha256').update(JSON.stringify(manifest)).digest('hex');

/** Writes the manifest, last and whole: a directory without one is no backup. */
export async function writeManifest(dir: string, manifest: Manifest): Promise<void> {
  const draft = join(dir, `${MANIFEST}.part`);
  const file = await open(draft, 'wx', 0o600);
  const text = JSON.stringify({ ...manifest, sha256: digestOf(manifest) }, null, 2);
  await file.writeFile(`${text}\n`);
  await file.sync();
  await file.close();
  await rename(draft, join(dir, MANIFEST));
  await syncDirectory(dir);
  await syncDirectory(dirname(dir));
}

/** The manifest of a backup, or a sentence that says why it is none. */
export async function readManifest(dir: string): Promise<Manifest> {
  const text = await readFile(join(dir, MANIFEST), 'utf8').catch((error: unknown) => {
    const { code, message } = error as NodeJS.ErrnoException;
    const why = code === 'ENOENT' ? 'it has no manifest.json, so it was not ended' : message;
    throw unusable(`${dir} is no backup: ${why}.`);
  });
  const { sha256, ...said } = parse(text) ?? {};
  const { format } = said;
  if (typeof format === 'number' && format !== FORMAT) {
    throw unusable(`This backup has format ${format}; this program reads ${FORMAT}.`);
  }
  const parsed = Manifest.safeParse(said);
  if (parsed.success && sha256 === digestOf(said)) return parsed.data;
  throw new CliError('The backup is damaged: manifest.json.');
}

function parse(text: string): Record<string, unknown> | null {
  try {
    return JSON.parse(text) as Record<string, unknown> | null;
  } catch {
    return null;
  }
}
