import { existsSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';

/**
 * Makes a directory and those above it that are missing; gives the first that was made, null when all were there. Rejects
 * as the file system does. Node's own way to do it goes on for ever where a parent is there and takes none (`/proc`).
 */
export async function makeDirectory(path: string, mode: number): Promise<string | null> {
  const wanted = [path];
  // The depth of the path bounds the loop.
  for (let at = dirname(path); !existsSync(at); at = dirname(at)) wanted.unshift(at);
  let first: string | null = null;
  for (const directory of wanted) if (await make(directory, mode)) first ??= directory;
  return first;
}

/** False when it was there, or somebody else has made it meanwhile. */
async function make(directory: string, mode: number): Promise<boolean> {
  try {
    await mkdir(directory, { mode });
    return true;
  } catch (error) {
    const isThere =
      (error as NodeJS.ErrnoException).code === 'EEXIST' && (await stat(directory)).isDirectory();
    if (isThere) return false;
    throw error;
  }
}
