import { readFileSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';

const ServerFile = z.strictObject({
  url: z.string(),
  pid: z.number().int().positive(),
  /** Path of the PEM file that it shows, null over plain HTTP. */
  certificate: z.string().nullable(),
});

/** What a running gateway says of itself in its data directory, for the commands of the same machine. */
export type ServerFile = z.output<typeof ServerFile>;

const fileIn = (dataDir: string): string => join(dataDir, 'server.json');

/** Replaces what a gateway before left there. */
export async function writeServerFile(dataDir: string, server: ServerFile): Promise<void> {
  const draft = `${fileIn(dataDir)}.draft`;
  await writeFile(draft, `${JSON.stringify(server)}\n`, { mode: 0o600 });
  await rename(draft, fileIn(dataDir));
}

export const removeServerFile = (dataDir: string): Promise<void> =>
  rm(fileIn(dataDir), { force: true });

/** The gateway that runs on a data directory; null when none does, or nobody here may know. */
export function readServerFile(dataDir: string): ServerFile | null {
  try {
    const server = ServerFile.parse(JSON.parse(readFileSync(fileIn(dataDir), 'utf8')));
    return isAlive(server.pid) ? server : null;
  } catch {
    return null;
  }
}

/** Of one that was killed the file is left; its port may be another's by now, who must not be shown a key. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
