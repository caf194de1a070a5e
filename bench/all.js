import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Runs every benchmark, one after the other, those that read the same seeded log sharing it. */
const NAMES = [
  ...['append', 'export', 'page', 'authenticate', 'start'],
  ...['import', 'release', 'quarantine-list', 'hold-queue', 'webhooks'],
];

const given = process.env.MAILGUARD_BENCH_DIR;
const dir = given || mkdtempSync(join(tmpdir(), 'mailguard-bench-all-'));
if (!given) chmodSync(dir, 0o711);
let child = null;
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => child?.kill(signal));

const targets = [];
const failed = [];
const skipped = [];
const begun = performance.now();
for (const name of NAMES) {
  const { code, targets: found } = await run(name);
  if (code !== 0) failed.push(name);
  else if (found === null) skipped.push(name);
  for (const target of found ?? []) targets.push({ bench: name, ...target });
}
if (!given) rmSync(dir, { recursive: true, force: true });
console.log(`\n== all, in ${Math.round((performance.now() - begun) / 60_000)} minutes ==`);
for (const { bench, text, kind, bound, value, met } of targets) {
  console.log(`  ${met ? 'met   ' : 'MISSED'} ${bench}: ${text} ${kind} ${bound}, is ${value}`);
}
for (const name of skipped) console.log(`  ${name} was skipped: it says above what it needs`);
for (const name of failed) console.log(`  ${name} could not be run`);
process.exitCode = failed.length > 0 ? 1 : 0;

/** One benchmark, what it says passed on, and the targets of its line of JSON; null without one. */
async function run(name) {
  child = spawn(process.execPath, [fileURLToPath(new URL(`${name}.js`, import.meta.url))], {
    env: { ...process.env, MAILGUARD_BENCH_DIR: dir },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (chunk) => {
    text += chunk;
    process.stdout.write(chunk);
  });
  const [code] = await once(child, 'close');
  const last = text.trim().split('\n').at(-1) ?? '';
  return { code, targets: last.startsWith('{') ? JSON.parse(last).targets : null };
}
