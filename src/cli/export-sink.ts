import { type FileHandle, open, realpath, rename, stat } from 'node:fs/promises';
import { CliError, messageOf } from './command.ts';
import { print, type Terminal } from './terminal.ts';

/** Where an export goes. Only whole lines are ever written. */
export type Sink = Readonly<{
  write: (lines: Uint8Array) => Promise<void>;
  /** Makes what was written the result. */
  commit: () => Promise<void>;
  /** Leaves what was written, and says where it is; null when nothing was. */
  abandon: () => Promise<string | null>;
}>;

/** Standard output for `-`; else a file that gets its name only when it is whole. */
export async function openSink(file: string, terminal: Terminal): Promise<Sink> {
  return file === '-' ? standardOutput(terminal) : fileSink(await targetOf(file));
}

function standardOutput({ stdout }: Terminal): Sink {
  let isBegun = false;
  return {
    write(lines) {
      isBegun = true;
      return print(stdout, lines);
    },
    commit: async () => undefined,
    abandon: async () => (isBegun ? 'What was printed lacks its trailer.' : null),
  };
}

/** The file that a link leads to, so that the link stays. A rename would replace even a device. */
async function targetOf(file: string): Promise<string> {
  const found = await stat(file).catch(() => null);
  if (found === null) return file;
  if (found.isFile()) return realpath(file);
  throw new CliError(
    `${file} is there, and no file: only a file is replaced (- is standard output)`,
  );
}

function fileSink(file: string): Sink {
  const part = `${file}.part`;
  let handle: FileHandle | null = null;
  return {
    async write(lines) {
      // Not before there is something: an earlier export may have left its part.
      // Evidence holds addresses and names: whoever may read it is for its owner to say.
      handle ??= await open(part, 'w', 0o600).catch(fail);
      await handle.writeFile(lines).catch(fail);
    },
    async commit() {
      await handle?.sync().catch(fail);
      await handle?.close();
      await rename(part, file).catch(fail);
    },
    async abandon() {
      await handle?.close().catch(() => undefined);
      return handle === null ? null : `What arrived is in ${part}.`;
    },
  };
}

/** Told apart from what goes wrong on the way here, which can be tried again. */
function fail(error: unknown): never {
  throw new CliError(messageOf(error));
}
