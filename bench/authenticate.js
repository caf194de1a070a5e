import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { connect, startDatabase } from './lib/database.js';
import { cleanEnvironment } from './lib/gateway.js';
import { makeKeys } from './lib/make-keys.js';
import { cell, openReport } from './lib/report.js';
import { runBench } from './lib/run.js';
import { ratioOf, summarize } from './lib/stats.js';

const script = (name) => fileURLToPath(new URL(`lib/${name}`, import.meta.url));
const KEYS = 10_000;
const SECONDS = 3;
const END = '"error":null,"message":"OK"}';
/** What the gateway writes at its own pace, however many requests there are. */
const PERIODIC =
  /rate_buckets|open_windows|api_key_use|append_batch|credentials|api_keys|projection_checkpoints|idempotency_keys|rate_limit_denials|eventlog\.events|^begin|^commit/i;

runBench(8, async (run) => {
  const report = openReport('authenticate');
  const { url } = await startDatabase(run.defer, run.workDir('authenticate'));
  const db = await connect(url);
  run.defer(() => db.end());
  const { keys, masterKey } = await makeKeys(url, KEYS);
  await report.conditions(db, {
    dataset: `${keys.length} live keys in memory, each allowed 1,000,000 requests a minute`,
    load: 'a process of its own on the same cores, raw keep-alive connections, one request at a time on each',
    answer:
      '47 bytes of JSON, the whole Express stack, metrics and (at level info) a log line per request',
    rounds: run.rounds,
  });
  const secrets = { url, masterKey, dataDir: run.workDir('gateway') };
  for (const level of ['info', 'warn']) {
    const server = await startServer(run, secrets, level);
    const found = await measureAll(run, server, keys);
    present(report, level, found);
    if (level === 'info') await countQueries(report, server, keys);
    await server.stop();
  }
  report.end();
});

/** Log lines go nowhere: what takes them in would cost as much as what writes them. */
async function startServer({ defer }, { url, masterKey, dataDir }, level) {
  const settings = {
    MAILGUARD_DATABASE_URL: url,
    MAILGUARD_DATA_DIR: dataDir,
    MAILGUARD_MASTER_KEY: masterKey,
    MAILGUARD_LOG_LEVEL: level,
  };
  const child = fork(script('guarded-server.js'), [JSON.stringify(settings)], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    env: cleanEnvironment(),
  });
  const [{ port, keys }] = await once(child, 'message');
  if (keys < KEYS) throw new Error(`only ${keys} keys are live`);
  const ask = async (message) => {
    child.send(message);
    const [answer] = await once(child, 'message');
    return answer;
  };
  const stop = async () => {
    if (child.exitCode !== null) return;
    child.send('stop');
    await once(child, 'exit');
  };
  defer(stop);
  return { port, ask, child, stop };
}

const ARMS = [
  { key: 'open_20', path: '/open', connections: 20 },
  { key: 'guarded_20', path: '/guarded', connections: 20, base: 'open_20' },
  { key: 'open_200', path: '/open', connections: 200 },
  { key: 'random_200', path: '/guarded', connections: 200, keyPerRequest: true, base: 'open_200' },
];

async function measureAll({ rounds }, server, keys) {
  for (const arm of ARMS) await measure(server, arm, keys, 1);
  const found = new Map(ARMS.map(({ key }) => [key, []]));
  for (let round = 0; round < rounds; round += 1) {
    // The two of a pair follow each other, now one first and now the other.
    const order = round % 2 === 0 ? ARMS : [...ARMS].reverse();
    for (const arm of order) found.get(arm.key).push(await measure(server, arm, keys, SECONDS));
  }
  return found;
}

async function measure(server, arm, keys, seconds) {
  const { path, connections, keyPerRequest = false, base } = arm;
  const load = fork(script('load.js'), { stdio: 'inherit' });
  const before = (await server.ask('cpu')).cpu;
  load.send({
    port: server.port,
    path: `/api/v1${path}`,
    connections,
    seconds,
    keyPerRequest,
    // Of the ten thousand, each connection has its own; with a key per request all are in play.
    keys: base === undefined ? [] : keyPerRequest ? keys : keys.slice(0, connections),
    end: END,
  });
  const [{ found, error }] = await once(load, 'message');
  load.kill();
  if (error !== undefined) throw new Error(error);
  if (found.failed > 0) throw new Error(`${path}: ${found.failed} answers were not 200`);
  const after = (await server.ask('cpu')).cpu;
  const cpuUs = after.user + after.system - before.user - before.system;
  return { ...found, cpuUs: cpuUs / found.requests };
}

function present(report, level, found) {
  const rates = (key) => found.get(key).map(({ rate }) => rate);
  const cpu = (key) => found.get(key).map(({ cpuUs }) => cpuUs);
  const rows = ARMS.map(({ key, path, connections, keyPerRequest, base }) => {
    const of = (figure) => summarize(found.get(key).map((one) => one[figure]));
    report.figure(`${level}.${key}.rate`, of('rate'));
    const ratio = base === undefined ? null : ratioOf(rates(key), rates(base));
    // Where the server is what is slow this is the same ratio, and other work on the machine blurs it less.
    const cpuRatio = base === undefined ? null : ratioOf(cpu(base), cpu(key));
    if (ratio !== null) report.figure(`${level}.${key}.ratio`, ratio);
    if (cpuRatio !== null) report.figure(`${level}.${key}.cpu_ratio`, cpuRatio);
    return [
      keyPerRequest ? `${path}, a random key each request` : path,
      String(connections),
      ...[of('rate'), of('p50'), of('p99'), of('cpuUs')].map(cell),
      ratio === null ? '-' : cell(ratio),
      cpuRatio === null ? '-' : cell(cpuRatio),
    ];
  });
  const header = [
    '',
    'connections',
    'requests/s',
    'p50 ms',
    'p99 ms',
    'server CPU us',
    'ratio to open',
    'by CPU',
  ];
  report.table(`Reading with a key and without, log level ${level}`, header, rows);
  const main = ratioOf(rates('guarded_20'), rates('open_20')).median;
  if (level === 'info')
    report.target('authenticated to open, 20 connections', main, 'at least', 0.75);
}

/** Every query of the process while keys are being read with, sorted into periodic and other ones. */
async function countQueries(report, server, keys) {
  server.child.send('count');
  const load = await measureQuietly(server, keys);
  const { queries } = await server.ask('counted');
  const isPeriodic = ([text]) => PERIODIC.test(text);
  const sum = (list) => list.reduce((total, [, count]) => total + count, 0);
  const others = queries.filter((one) => !isPeriodic(one));
  report.figure('queries', {
    requests: load.requests,
    periodic: sum(queries.filter(isPeriodic)),
    others: sum(others),
  });
  report.note(
    `${load.requests} authenticated requests in ${SECONDS} s made ${sum(others)} queries of their own; ` +
      `the periodic flush and jobs made ${sum(queries.filter(isPeriodic))}`,
  );
  for (const [text, count] of queries) report.note(`  ${count} x ${text.slice(0, 100)}`);
  report.target('queries per authenticated read', sum(queries) / load.requests, 'at most', 0.01);
}

async function measureQuietly(server, keys) {
  const load = fork(script('load.js'), { stdio: 'inherit' });
  load.send({
    port: server.port,
    path: '/api/v1/guarded',
    connections: 20,
    seconds: SECONDS,
    keyPerRequest: true,
    keys,
    end: END,
  });
  const [{ found }] = await once(load, 'message');
  load.kill();
  return found;
}
