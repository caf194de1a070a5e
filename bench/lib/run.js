import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

/**
 * What every benchmark is given.
 * @typedef {{
 *   rounds: number,
 *   events: number,
 *   defer: (stop: () => unknown) => void,
 *   workDir: (name: string) => string,
 *   sharedDir: (name: string) => string,
 * }} Run
 */

const SETTINGS = {
  /** Interleaved rounds; figures are medians of them. */
  rounds: numberOf('MAILGUARD_BENCH_ROUNDS', 5),
  /** Events of the large log; smaller only while a benchmark is being developed. */
  events: numberOf('MAILGUARD_BENCH_EVENTS', 1_000_000),
};

/**
 * Runs one benchmark within a time limit and stops what it started, in reverse, whatever happens.
 * The exit code is 0 when it could be run, whether or not a target was met.
 * @param {number} minutes
 * @param {(run: Run) => Promise<void>} main
 */
export async function runBench(minutes, main) {
  /** @type {(() => unknown)[]} */
  const stops = [];
  const defer = (stop) => void stops.push(stop);
  let unwinding = null;
  const unwind = () =>
    (unwinding ??= (async () => {
      for (const stop of stops.reverse()) {
        try {
          await stop();
        } catch (error) {
          console.error('while stopping:', error);
        }
      }
    })());
  const giveUp = (why) => {
    console.error(why);
    void unwind().then(() => process.exit(1));
  };
  const timer = setTimeout(() => giveUp(`gave up after ${minutes} minutes`), minutes * 60_000);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => giveUp(signal));
  // What stands below the call in the benchmark's own file must be there before it runs.
  await null;
  try {
    await main({ ...SETTINGS, defer, workDir: (name) => workDir(defer, name), sharedDir });
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  }
  await unwind();
  clearTimeout(timer);
  process.exit();
}

/** What is stopped before the benchmark ends: by `close`, or at the end where that was not reached. */
export function openScope({ defer }) {
  const stops = [];
  let closing = null;
  const close = () =>
    (closing ??= (async () => {
      for (const stop of stops.reverse()) await stop();
    })());
  defer(close);
  return { defer: (stop) => void stops.push(stop), close };
}

/** A new directory that is removed at the end. */
function workDir(defer, name) {
  const path = makeDir(mkdtempSync(join(tmpdir(), `mailguard-bench-${name}-`)));
  defer(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A directory that lasts under MAILGUARD_BENCH_DIR, or null where that is not set. */
export function sharedDir(name) {
  const root = process.env.MAILGUARD_BENCH_DIR;
  if (!root) return null;
  makeDir(resolve(root));
  return makeDir(join(resolve(root), name));
}

/** As root, the database runs under another account, which must be able to pass. */
function makeDir(path) {
  mkdirSync(path, { recursive: true });
  chmodSync(path, 0o711);
  return path;
}

function numberOf(name, fallback) {
  const given = Number(process.env[name] ?? '');
  return Number.isInteger(given) && given > 0 ? given : fallback;
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));
