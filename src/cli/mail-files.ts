import { lstat, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf, unusable } from './command.ts';

/** Deeper folders are left out: nobody keeps mail so deep, and a loop of mounts would never end. */
const DEPTH_MAX = 32;

/** A file to read, or what could not even be looked at. */
export type FoundFile = Readonly<{ path: string; problem: string | null }>;

/** How many entries of folders were passed over, and why. */
export type LeftOut = { hidden: number; links: number; special: number; too_deep: number };

export const nothingLeftOut = (): LeftOut => ({ hidden: 0, links: 0, special: 0, too_deep: 0 });

/** Refuses roots that are not there, and those that are neither a folder nor a file. */
export async function requireRoots(roots: readonly string[]): Promise<void> {
  for (const root of roots) {
    const found = await stat(root).catch((error: unknown) => {
      throw unusable(messageOf(error));
    });
    if (found.isFile() || found.isDirectory()) continue;
    throw unusable(`${root} is neither a folder nor a file`);
  }
}

/**
 * Every regular file at and below the roots, folder by folder, sorted by name. Hidden entries are left
 * out; so are symbolic links: one that stays below the root leads to what is found anyway. The names
 * of the folders on the way are all that is kept in memory.
 */
export async function* findFiles(
  roots: readonly string[],
  leftOut: LeftOut,
): AsyncGenerator<FoundFile> {
  for (const root of roots) {
    const found = await stat(root).catch((error: unknown) => messageOf(error));
    if (typeof found === 'string') yield { path: root, problem: found };
    else if (found.isDirectory()) yield* filesBelow(root, { depth: 1, leftOut });
    else yield { path: root, problem: null };
  }
}

async function* filesBelow(
  folder: string,
  { depth, leftOut }: Readonly<{ depth: number; leftOut: LeftOut }>,
): AsyncGenerator<FoundFile> {
  if (depth > DEPTH_MAX) {
    leftOut.too_deep += 1;
    return;
  }
  const names = await readdir(folder).catch((error: unknown) => messageOf(error));
  if (typeof names === 'string') {
    yield { path: folder, problem: names };
    return;
  }
  for (const name of names.sort()) {
    const path = join(folder, name);
    if (name.startsWith('.')) {
      leftOut.hidden += 1;
      continue;
    }
    const found = await lstat(path).catch((error: unknown) => messageOf(error));
    if (typeof found === 'string') yield { path, problem: found };
    else if (found.isDirectory()) yield* filesBelow(path, { depth: depth + 1, leftOut });
    else if (found.isFile()) yield { path, problem: null };
    else if (found.isSymbolicLink()) leftOut.links += 1;
    else leftOut.special += 1;
  }
}
