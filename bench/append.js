import { APP_ROLE } from '../dist/db/pool.js';
import {
  createLeanFunction,
  emmettArm,
  groupCommitArm,
  leanArm,
  migrateEmmett,
  oneByOneArm,
  POOL_SIZE,
} from './lib/append-arms.js';
import { connect, makeDatabase, openLog, startDatabase } from './lib/database.js';
import { cpuBetween, cpuOfFamily } from './lib/proc.js';
import { cell, openReport } from './lib/report.js';
import { runBench } from './lib/run.js';
import { percentile, ratioOf, summarize } from './lib/stats.js';

/** Commands per round, such that each arm takes one to three seconds. */
const COUNTS = { 1: 1_500, 16: 15_000, 64: 30_000, 256: 40_000 };
const ONE_BY_ONE = 2_000;
const LEAN = 4_000;
const EMMETT = 6_000;
const IN_FLIGHT = 64;

runBench(8, async ({ rounds, defer, workDir }) => {
  const report = openReport('append');
  const { url, pid } = await startDatabase(defer, workDir('append'));
  const emmettUrl = await makeDatabase(url, 'emmett', false);
  await migrateEmmett(emmettUrl);
  await createLeanFunction(url);
  const log = await openLog(defer, url);
  const db = await connect(url);
  defer(() => db.end());

  const ours = groupCommitArm(log);
  const arms = [
    { key: 'group_64', arm: ours, inFlight: IN_FLIGHT, count: COUNTS[64] },
    { key: 'one_by_one', arm: oneByOneArm(url, APP_ROLE), inFlight: IN_FLIGHT, count: ONE_BY_ONE },
    { key: 'lean', arm: leanArm(url), inFlight: IN_FLIGHT, count: LEAN },
    { key: 'emmett', arm: emmettArm(emmettUrl), inFlight: IN_FLIGHT, count: EMMETT },
    { key: 'group_1', arm: ours, inFlight: 1, count: COUNTS[1] },
    { key: 'group_16', arm: ours, inFlight: 16, count: COUNTS[16] },
    { key: 'group_256', arm: ours, inFlight: 256, count: COUNTS[256] },
  ];
  const tools = { db, pid, next: 1 };
  for (const one of arms) await measure({ ...one, count: Math.ceil(one.count / 4) }, tools);
  const found = new Map(arms.map(({ key }) => [key, []]));
  for (let round = 0; round < rounds; round += 1) {
    // Begun with another arm each time, so that none always follows the same one.
    for (let i = 0; i < arms.length; i += 1) {
      const one = arms[(i + round) % arms.length];
      found.get(one.key).push(await measure(one, tools));
    }
  }
  const { rows } = await db.query(
    `select round(avg(octet_length(line))) as line, count(*) as events,
            (select round(avg(octet_length(concat_ws(',', identity, network, content))))
             from eventlog.event_personal) as personal from eventlog.events`,
  );
  await report.conditions(db, {
    dataset:
      `${rows[0].events} events at the end, ${rows[0].line} bytes a line, ` +
      `${rows[0].personal} bytes of sealed personal values each, six indexes`,
    commands: 'one event each, each to a new stream, expected to be new',
    emmett: `autoMigration None, pg.Pool of ${POOL_SIZE}, expected to be new, 500 bytes of data as JSON`,
    rounds,
  });
  present(report, arms, found);
  report.end();
});

async function measure({ arm, inFlight, count }, tools) {
  const commands = arm.prepare(tools.next, count);
  tools.next += count;
  const open = await arm.open();
  try {
    // Connections are made before the clock runs.
    const warm = arm.prepare(tools.next, inFlight * 4);
    tools.next += warm.length;
    await drive(open, warm, inFlight);
    const lsn = await walPosition(tools.db);
    const before = { node: process.cpuUsage(), postgres: cpuOfFamily(tools.pid) };
    const begun = performance.now();
    const latencies = await drive(open, commands, inFlight);
    const seconds = (performance.now() - begun) / 1_000;
    const node = process.cpuUsage(before.node);
    const postgres = cpuBetween(before.postgres, cpuOfFamily(tools.pid));
    const wal = (await walPosition(tools.db)) - lsn;
    latencies.sort();
    return {
      rate: count / seconds,
      p50: percentile(latencies, 0.5),
      p99: percentile(latencies, 0.99),
      wal: Number(wal) / count,
      nodeUs: (node.user + node.system) / count,
      postgresUs: postgres.all / count,
      backendUs: postgres.busiest / count,
    };
  } finally {
    await open.close();
  }
}

/** Keeps a number of commands in flight until all are done; the latency of each in milliseconds. */
async function drive({ append }, commands, inFlight) {
  const latencies = new Float64Array(commands.length);
  let next = 0;
  async function caller() {
    while (next < commands.length) {
      const at = next;
      next += 1;
      const begun = performance.now();
      await append(commands[at]);
      latencies[at] = performance.now() - begun;
    }
  }
  await Promise.all(Array.from({ length: inFlight }, caller));
  return latencies;
}

async function walPosition(db) {
  const { rows } = await db.query(
    "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint as bytes",
  );
  return BigInt(rows[0].bytes);
}

function present(report, arms, found) {
  const of = (key, figure) => found.get(key).map((one) => one[figure]);
  const header = [
    '',
    'in flight',
    'events/s',
    'p50 ms',
    'p99 ms',
    'WAL bytes',
    'Node us',
    'PG us',
    'busiest backend us',
  ];
  const rows = arms.map(({ key, arm, inFlight }) => [
    arm.name,
    String(inFlight),
    ...['rate', 'p50', 'p99', 'wal', 'nodeUs', 'postgresUs', 'backendUs'].map((figure) => {
      report.figure(`${key}.${figure}`, summarize(of(key, figure)));
      return cell(summarize(of(key, figure)));
    }),
  ]);
  report.table(
    'Appending: medians of the rounds and their range; CPU and WAL per event',
    header,
    rows,
  );
  const ratios = Object.fromEntries(
    ['one_by_one', 'lean', 'emmett'].map((key) => [
      key,
      ratioOf(of('group_64', 'rate'), of(key, 'rate')),
    ]),
  );
  report.table(
    'Events/s at 64 in flight, EventLog.append against one transaction per command, ratio per round',
    ['', 'ratio'],
    Object.entries(ratios).map(([key, ratio]) => [
      arms.find((one) => one.key === key).arm.name,
      cell(ratio),
    ]),
  );
  for (const [key, ratio] of Object.entries(ratios)) report.figure(`ratio.${key}`, ratio);
  report.target('against the same function one by one', ratios.one_by_one.median, 'at least', 8);
  report.target('against emmett-postgresql', ratios.emmett.median, 'at least', 4);
  report.target('WAL bytes per event', summarize(of('group_64', 'wal')).median, 'at most', 2_200);
}
