import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { rateLimitsProjection } from '../../src/projections/rate-limits.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';
import { untilBlocked } from '../support/lock-waits.ts';
import { caughtUp } from '../support/projecting.ts';

const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const KILLED_AT = 2_000;
const EVENTS = 3_500;

let database: TestDatabase;
let log: EventLog;
let admin: pg.Client;
let children: ChildProcess[];
beforeEach(async () => {
  database = await createDatabase();
  log = await database.openLog();
  admin = openClient({ url: database.url, role: null });
  await admin.connect();
  children = [];
  await refuse(EVENTS);
});
afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  await admin.end();
  await database.drop();
});

/** As many refusals now, each of another key. */
async function refuse(count: number): Promise<void> {
  const first = new Date().toISOString();
  const commands = Array.from({ length: count }, (_, n) => {
    const id = String(n + 1);
    const data = { reason: 'rate_limited', first, count: 3 };
    const event = anEvent({ type: 'api_key.denied', resource: { type: 'api_key', id }, data });
    return log.append({ stream: `api_key_usage-${id}`, expected: 'any', events: [event] });
  });
  await Promise.all(commands);
  await (await caughtUp({ pool: database.pool, log }, [rateLimitsProjection])).stop();
}

/** The real program, rebuilding. */
function spawnRebuild() {
  const plain = Object.entries(process.env).filter(([name]) => !name.startsWith('MAILGUARD_'));
  const child = spawn(process.execPath, [CLI, 'projections', 'rebuild', 'rate_limits', '--json'], {
    env: { ...Object.fromEntries(plain), MAILGUARD_DATABASE_URL: database.url },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let stdout = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.resume();
  return { child, ended: once(child, 'close').then(([code]) => ({ code, stdout })) };
}

const ask = async (sql: string) => (await admin.query(sql)).rows[0];
const rowsOf = async (schema: string) =>
  (await ask(`select count(*)::int as n from ${schema}.rate_limit_denials`)).n;
const oidOf = async (schema: string) =>
  (await ask(`select '${schema}.rate_limit_denials'::regclass::oid as oid`)).oid;

/** Kills a rebuild while it waits for what a session of ours holds, and tells which tables it had made. */
async function killWaiting(hold: string): Promise<unknown> {
  const watcher = openClient({ url: database.url, role: null });
  await watcher.connect();
  await admin.query('begin');
  await admin.query(hold);
  const { child, ended } = spawnRebuild();
  await untilBlocked(watcher);
  child.kill('SIGKILL');
  await ended;
  await admin.query('rollback');
  await watcher.end();
  return oidOf('rebuild_rate_limits');
}

async function goesOn(made: unknown): Promise<void> {
  const served = await oidOf('public');
  expect(await rowsOf('public')).toBe(EVENTS);
  const { code, stdout } = await spawnRebuild().ended;
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toEqual({
    name: 'rate_limits',
    position: String(EVENTS),
    differing: [],
  });
  // The tables that the killed one had begun with, not others made anew.
  expect(await oidOf('public')).toBe(made);
  expect(await oidOf('previous_rate_limits')).toBe(served);
  expect(await rowsOf('public')).toBe(EVENTS);
}

describe('a rebuild whose process is killed', () => {
  it('in the middle of a page goes on behind the page before it', async () => {
    await admin.query(`
      create function wait_here() returns trigger language plpgsql as
        $$ begin perform pg_advisory_xact_lock(42); return new; end $$;
      create trigger wait_here before insert or update on projection_copies
        for each row when (new.position > ${KILLED_AT}) execute function wait_here()`);
    const made = await killWaiting('select pg_advisory_xact_lock(42)');
    await admin.query('drop trigger wait_here on projection_copies');
    expect(await rowsOf('rebuild_rate_limits')).toBe(KILLED_AT);
    await goesOn(made);
  });

  it('before its flip goes on there', async () => {
    const made = await killWaiting('select from projection_checkpoints for update');
    expect(await rowsOf('rebuild_rate_limits')).toBeGreaterThan(KILLED_AT);
    await goesOn(made);
  });
});
