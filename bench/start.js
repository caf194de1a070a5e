import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { connect, openLog, postmasterPid } from './lib/database.js';
import { someCommands } from './lib/events.js';
import { startGateway } from './lib/gateway.js';
import { childrenOf } from './lib/proc.js';
import { cell, openReport } from './lib/report.js';
import { pause, runBench } from './lib/run.js';
import { summarize } from './lib/stats.js';

const LOAD_MS = 10_000;
const IN_FLIGHT = 256;
const SERVE = [process.execPath, 'dist/cli.js', 'serve'];
const NPM = ['npm', 'start', '--silent'];

runBench(10, async (run) => {
  const report = openReport('start');
  const describe = (db) =>
    report.conditions(db, {
      measured:
        'from the start of the process to its ready line, which comes after the server listens',
      crash:
        `SIGKILL to gateway and every PostgreSQL process in the middle of ${LOAD_MS / 1_000} s of ` +
        `appending at ${IN_FLIGHT} in flight, started again at once`,
      rounds: run.rounds,
    });
  const found = {
    first: [],
    next: [],
    npmFirst: [],
    npmNext: [],
    crash: [],
    acknowledged: [],
    wal: [],
  };
  for (let round = 0; round < run.rounds; round += 1) {
    const dataDir = run.workDir('start');
    found.first.push(await startAndStop(run, dataDir, SERVE));
    found.next.push(await startAndStop(run, dataDir, SERVE));
    const crash = await startAfterCrash(run, dataDir, round === 0 ? describe : () => undefined);
    found.crash.push(crash.ms);
    found.acknowledged.push(crash.acknowledged);
    found.wal.push(crash.walMb);
    rmSync(dataDir, { recursive: true, force: true });
    const other = run.workDir('npm-start');
    found.npmFirst.push(await startAndStop(run, other, NPM));
    found.npmNext.push(await startAndStop(run, other, NPM));
    rmSync(other, { recursive: true, force: true });
  }
  present(report, found);
  report.end();
});

const settingsOf = (dataDir) => ({ MAILGUARD_DATA_DIR: dataDir, MAILGUARD_LOG_LEVEL: 'info' });

async function startAndStop({ defer }, dataDir, command) {
  const gateway = await startGateway({ settings: settingsOf(dataDir), command });
  defer(gateway.stop);
  await gateway.stop();
  return gateway.ms;
}

/** Milliseconds to the ready line of the start after the crash; rejects when anything durable was lost. */
async function startAfterCrash(run, dataDir, describe) {
  const gateway = await startGateway({ settings: settingsOf(dataDir) });
  run.defer(gateway.stop);
  const url = urlOf(dataDir);
  const walBefore = await walPosition(url);
  const load = await startLoad(url);
  await pause(LOAD_MS);
  const walMb = ((await walPosition(url)) - walBefore) / 1e6;
  const postmaster = postmasterPid(dataDir);
  const killed = [gateway.pid, postmaster, ...childrenOf(postmaster)];
  for (const pid of killed) kill(pid);
  await gateway.exited;
  const acknowledged = load.stop();
  const next = await startGateway({ settings: settingsOf(dataDir) });
  run.defer(next.stop);
  const db = await connect(url);
  const { rows } = await db.query('select max(position) as head from eventlog.events');
  await describe(db);
  await db.end();
  await next.stop();
  if (BigInt(rows[0].head) < acknowledged.position) {
    throw new Error(`${acknowledged.position} was acknowledged and ${rows[0].head} is there`);
  }
  return { ms: next.ms, acknowledged: acknowledged.count, walMb };
}

/** The embedded database of a data directory, as its own files tell. */
function urlOf(dataDir) {
  const password = readFileSync(join(dataDir, 'database-password'), 'utf8').trim();
  const [, , , port, socketDir, listen] = readFileSync(
    join(dataDir, 'postgres', 'postmaster.pid'),
    'utf8',
  ).split('\n');
  const query = socketDir === '' ? '' : `host=${encodeURIComponent(socketDir)}&`;
  const host = socketDir === '' ? listen : 'localhost';
  return `postgres://mailguard:${password}@${host}:${port}/mailguard?${query}sslmode=disable`;
}

/** Appends beside the gateway, whose lock in the append function makes that safe, until it breaks. */
async function startLoad(url) {
  const log = await openLog(() => undefined, url);
  const done = { count: 0, position: 0n };
  let isOver = false;
  let next = 1;
  async function caller() {
    while (!isOver) {
      const [command] = someCommands(next++, 1);
      const outcome = await log.append(command).catch(() => null);
      if (isOver || outcome === null) return;
      done.count += 1;
      if (outcome.position > done.position) done.position = outcome.position;
    }
  }
  for (let i = 0; i < IN_FLIGHT; i += 1) void caller();
  return {
    stop() {
      isOver = true;
      void log.close().catch(() => undefined);
      return { ...done };
    },
  };
}

async function walPosition(url) {
  const db = await connect(url);
  const { rows } = await db.query("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') as bytes");
  await db.end();
  return Number(rows[0].bytes);
}

function kill(pid) {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // A backend that ended a moment ago.
  }
}

function present(report, found) {
  const rows = [
    ['first start, node dist/cli.js serve', 'first'],
    ['next start, node dist/cli.js serve', 'next'],
    ['first start, npm start', 'npmFirst'],
    ['next start, npm start', 'npmNext'],
    ['after kill -9 under load', 'crash'],
  ].map(([name, key]) => {
    report.figure(`${key}_ms`, summarize(found[key]));
    return [name, cell(summarize(found[key]))];
  });
  report.table('Milliseconds to ready: median of the rounds and range', ['', 'ms'], rows);
  report.note(
    `before each crash ${cell(summarize(found.acknowledged))} events were acknowledged and ` +
      `${cell(summarize(found.wal))} MB of WAL written; all acknowledged ones were there afterwards`,
  );
  const seconds = (key) => summarize(found[key]).max / 1_000;
  report.target(
    'first start in s, slowest',
    Math.max(seconds('first'), seconds('npmFirst')),
    'at most',
    5,
  );
  report.target(
    'next start in s, slowest',
    Math.max(seconds('next'), seconds('npmNext')),
    'at most',
    1.5,
  );
  report.target('start after kill -9 under load in s, slowest', seconds('crash'), 'at most', 6);
}
