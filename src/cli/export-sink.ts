import { open, rename } from 'node:fs/promises';
import { CliError } from './command.ts';
import { print, type Terminal } from './terminal.ts';

/** Where an export goes. Only whole lines are ever written. */
export type Sink = Readonly<{
  write: (lines: Uint8Array) => Promise<void>;
  /** Makes what was written the result. */
  commit: () => Promise<void>;
  /** Leaves what was written, and says where it is. */
  abandon: () => Promise<string>;
}>;

/** Standard output for `-`; else a file that gets its name only when it is whole. */
export async function openSink(file: string, terminal: Terminal): Promise<Sink> {
  if (file !== '-') return openFile(file);
  return {
    write: (lines) => print(terminal.stdout, lines),
    commit: async () => undefined,
    abandon: async () => 'What was printed lacks its trailer.',
  };
}

async function openFile(file: string): Promise<Sink> {
  const part = `${file}.part`;
  // Evidence holds addresses and names: whoever may read it is for its owner to say.
  const handle = await open(part, 'w', 0o600).catch(fail);
  return {
    async write(lines) {
      await handle.writeFile(lines).catch(fail);
    },
    async commit() {
      await handle.sync().catch(fail);
      await handle.close();
      await rename(part, file).catch(fail);
    },
    async abandon() {
      await handle.close().catch(() => undefined);
      return `What arrived is in ${part}.`;
    },
  };
}

/** Told apart from what goes wrong on the way here, which can be tried again. */
function fail(error: unknown): never {
  throw new CliError(error instanceof Error ? error.message : String(error));
}
