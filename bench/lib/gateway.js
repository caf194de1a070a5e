import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const READY_MS = 120_000;
const STOP_MS = 30_000;

/** The caller's environment without settings of the gateway, of which it refuses any it does not know. */
export function cleanEnvironment(more = {}) {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('MAILGUARD_'));
  return { ...Object.fromEntries(kept), ...more };
}

/**
 * Starts the real program in a process of its own and waits for its ready line.
 * @param {{ settings: Record<string, string>, command?: string[], readyMs?: number }} how
 */
export async function startGateway({
  settings,
  command = [process.execPath, 'dist/cli.js', 'serve'],
  readyMs = READY_MS,
}) {
  const begun = performance.now();
  const child = spawn(command[0], command.slice(1), {
    cwd: ROOT,
    env: cleanEnvironment({ MAILGUARD_PORT: '0', MAILGUARD_LOG_LEVEL: 'warn', ...settings }),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  // Whatever ends this process, also before there is anything to stop, nothing is left behind.
  const kill = () => child.kill();
  process.once('exit', kill);
  const exited = once(child, 'exit').finally(() => process.off('exit', kill));
  const ready = await Promise.race([
    readyLine(child),
    exited.then(([code]) => Promise.reject(new Error(`the gateway ended with ${code}`))),
    new Promise((_, fail) =>
      setTimeout(() => fail(new Error('the gateway is not ready')), readyMs).unref(),
    ),
  ]);
  const ms = performance.now() - begun;
  return {
    url: ready.url,
    /** The gateway's own process, also where npm stands between. */
    pid: ready.pid,
    ms,
    /** What it says itself, counted from when its first line of code ran. */
    ownMs: ready.ms,
    key: () => readFileSync(join(ready.data_dir, 'bootstrap-key'), 'utf8').trim(),
    exited,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      process.kill(ready.pid, 'SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      await exited;
      clearTimeout(late);
    },
  };
}

function readyLine(child) {
  return new Promise((done) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (line.includes('"msg":"ready"')) done(JSON.parse(line));
    });
  });
}
