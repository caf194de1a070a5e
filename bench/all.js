import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { toDocument } from './lib/document.js';

/** Runs every benchmark, one after the other, those that read the same seeded log sharing it. */
const NAMES = [
  ...['append', 'export', 'page', 'authenticate', 'start'],
  ...['import', 'release', 'quarantine-list', 'hold-queue', 'webhooks'],
];

const { values } = parseArgs({ options: { out: { type: 'string' } } });
const given = process.env.MAILGUARD_BENCH_DIR;
const dir = given || mkdtempSync(join(tmpdir(), 'mailguard-bench-all-'));
if (!given) chmodSync(dir, 0o711);
let child = null;
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => child?.kill(signal));

const benches = [];
const begun = performance.now();
let minutes = 0;
for (const name of NAMES) {
  benches.push({ name, ...(await run(name)) });
  minutes = Math.round((performance.now() - begun) / 60_000);
  // After each, so that a run that is ended early has told what it found.
  if (values.out !== undefined) writeFileSync(values.out, toDocument(benches, minutes));
}
if (!given) rmSync(dir, { recursive: true, force: true });
console.log(`\n== all, in ${minutes} minutes ==`);
for (const { name, code, found } of benches) {
  for (const { text, kind, bound, value, met } of found?.targets ?? []) {
    console.log(`  ${met ? 'met   ' : 'MISSED'} ${name}: ${text} ${kind} ${bound}, is ${value}`);
  }
  if (code !== 0) console.log(`  ${name} could not be run`);
  else if (found === null) console.log(`  ${name} was skipped: it says above what it needs`);
}
process.exitCode = benches.some(({ code }) => code !== 0) ? 1 : 0;

/** One benchmark: what it says, passed on, and its line of JSON; null without one. */
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
  return { code, text, found: last.startsWith('{') ? JSON.parse(last) : null };
}
