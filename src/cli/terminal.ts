import { setTimeout as sleep } from 'node:timers/promises';

/** Where text goes; `isTTY` when a person reads it there. */
export type Output = Readonly<{
  isTTY?: boolean;
  columns?: number;
  write: (chunk: string | Uint8Array, done: (error?: Error | null) => void) => boolean;
}>;

/** What a command knows of its surroundings; a test passes its own. */
export type Terminal = Readonly<{
  stdout: Output;
  stderr: Output;
  /** The environment to take settings from; undefined for the process's own. */
  env: NodeJS.ProcessEnv | undefined;
  /** Aborted when the user interrupts. */
  signal: AbortSignal;
  /** Resolves after so many milliseconds, rejects on the signal. */
  pause: (ms: number) => Promise<void>;
}>;

/** The terminal of this process. The first SIGINT or SIGTERM aborts its signal, a second one kills. */
export function processTerminal(): Terminal {
  const interrupted = new AbortController();
  const { signal } = interrupted;
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => interrupted.abort());
  // Whoever reads us may be gone (`| head`); the write itself fails and says so.
  process.stdout.on('error', () => undefined);
  process.stderr.on('error', () => undefined);
  return {
    stdout: process.stdout,
    stderr: process.stderr,
    env: undefined,
    signal,
    pause: (ms) => sleep(ms, undefined, { signal }),
  };
}

/** Writes and waits until it is taken, so that a slow reader slows us down and nothing is lost. */
export const print = (output: Output, chunk: string | Uint8Array): Promise<void> =>
  new Promise((resolve, reject) => {
    output.write(chunk, (error) => (error instanceof Error ? reject(error) : resolve()));
  });

export const printJson = (output: Output, value: unknown): Promise<void> =>
  print(output, `${JSON.stringify(value, null, 2)}\n`);

/** A note for people, on standard error, which nobody has to read. */
export const say = ({ stderr }: Terminal, text: string): Promise<void> =>
  print(stderr, `${text}\n`).catch(() => undefined);

/** Text of others, fit for a terminal: what could steer it, or reorder what is read, is replaced. */
export const clean = (text: string): string =>
  text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\ufffd');

/** True for an error that says that whoever reads our output has gone. */
export function isBrokenPipe(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  return code === 'EPIPE' || code === 'ERR_STREAM_DESTROYED';
}
