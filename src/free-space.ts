import { statfs } from 'node:fs/promises';

/** Less than this is warned of: what the log and the spool take in an hour or so where much is going on. */
const FREE_BYTES_MIN = 1_073_741_824;
const MIB = 1_048_576;

/** How much room is left where the embedded database and the spool are, as of the last look. */
export type FreeSpace = Readonly<{ warnings: () => readonly string[]; look: () => Promise<void> }>;

/**
 * Watches the file system of a directory. A full one refuses writes until there is room, and loses nothing; but
 * somebody should know before.
 */
export async function watchFreeSpace(dir: string, bytesMin = FREE_BYTES_MIN): Promise<FreeSpace> {
  let free = await freeBytes(dir);
  return {
    warnings: () =>
      free >= bytesMin
        ? []
        : [`the disk of the data directory is nearly full: ${Math.floor(free / MIB)} MiB are left`],
    async look() {
      free = await freeBytes(dir);
    },
  };
}

/** What this process may still use, which is less than what is free where some is kept for root. */
async function freeBytes(dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
}
