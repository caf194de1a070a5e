import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import { connect } from './lib/database.js';
import { startGateway } from './lib/gateway.js';
import { watchMemory } from './lib/proc.js';
import { cell, openReport } from './lib/report.js';
import { runBench } from './lib/run.js';
import { startSeeded } from './lib/seed.js';
import { ratioOf, summarize } from './lib/stats.js';

const CLIENT = fileURLToPath(new URL('lib/export-client.js', import.meta.url));
const SLOW = { bytesPerSecond: 2_000_000, forMs: 15_000, stallMs: 5_000 };
/** Rendering is slower, so a shorter stretch of the log, its end, takes about as long. */
const READABLE_SHARE = 0.25;
const GROWTH_MIB_MAX = 64;

runBench(15, async (run) => {
  const report = openReport('export');
  const { url, dataDir } = await startSeeded(run, run.events);
  const db = await connect(url);
  run.defer(() => db.end());
  const { rows } = await db.query(
    `select max(position) as head, round(avg(octet_length(line))) as line,
            round(avg(octet_length(concat_ws(',', p.identity, p.network, p.content)))) as personal
     from eventlog.events e left join eventlog.event_personal p using (position)`,
  );
  const head = Number(rows[0].head);
  await report.conditions(db, {
    dataset: `${head} events, ${rows[0].line} bytes a line, ${rows[0].personal} bytes of sealed personal values each`,
    client: 'a process of its own, raw socket, counts bytes and lines, on the same cores',
    copy: 'copy (select line from eventlog.events order by position) to stdout: pg, pg-copy-streams, rows discarded',
    rounds: run.rounds,
  });

  const gateway = await startGateway({
    settings: { MAILGUARD_DATABASE_URL: url, MAILGUARD_DATA_DIR: join(dataDir, 'gateway') },
  });
  run.defer(gateway.stop);
  const arms = exportsOf(gateway, head);
  const copy = { key: 'copy', name: 'COPY of the lines, no HTTP', measure: () => measureCopy(url) };
  const all = [copy, ...arms];
  // The first in a new process warms it up: its heap grows to what exporting needs, and stays there.
  const first = new Map();
  for (const arm of all) first.set(arm.key, await arm.measure());
  const found = new Map(all.map(({ key }) => [key, []]));
  for (let round = 0; round < run.rounds; round += 1) {
    for (let i = 0; i < all.length; i += 1) {
      const arm = all[(i + round) % all.length];
      found.get(arm.key).push(await arm.measure());
    }
  }
  present(report, all, found, first);
  await measureSlow(report, gateway);
  report.end();
});

function exportsOf(gateway, head) {
  const readableFrom = Math.floor(head * (1 - READABLE_SHARE));
  const orders = [
    { key: 'evidence', name: 'evidence', path: pathOf('evidence') },
    { key: 'gzip', name: 'evidence, gzip', path: pathOf('evidence'), gzip: true },
    {
      key: 'readable',
      name: `readable (the last ${head - readableFrom})`,
      path: `${pathOf('readable')}&after=${readableFrom}`,
    },
  ];
  return orders.map((order) => ({ ...order, measure: () => measureExport(gateway, order) }));
}

const pathOf = (form) => `/api/v1/audit/logs?form=${form}`;

/** One whole export; rejects when its trailer is missing or counts other lines than came. */
async function measureExport(gateway, order) {
  const memory = watchMemory(gateway.pid);
  const found = await runClient(gateway, order);
  const { growth } = memory.stop();
  if (!found.isWhole || !found.head.includes('200')) throw new Error(`${order.name}: not whole`);
  // A gzip stream is not opened here: its last chunk is the proof that the server ended it in order.
  const count = order.gzip ? null : (JSON.parse(found.trailer).trailer.count ?? 0);
  if (count !== null && found.lines !== count + 1) {
    throw new Error(`${order.name}: ${found.lines} lines and a trailer of ${count}`);
  }
  return { count, seconds: found.seconds, megabytes: found.bytes / 1e6, growth };
}

async function runClient({ url, key }, { path, gzip = false, slow }) {
  const child = fork(CLIENT, { stdio: 'inherit' });
  child.send({ port: Number(new URL(url).port), key: key(), path, gzip, slow });
  const [{ found, error }] = await once(child, 'message');
  child.kill();
  if (error !== undefined) throw new Error(error);
  return found;
}

/** The same driver reading the same lines, and nothing done with them. */
async function measureCopy(connectionString) {
  const client = new pg.Client({ connectionString });
  await client.connect();
  const begun = performance.now();
  const rows = client.query(
    copyTo('copy (select line from eventlog.events order by position) to stdout'),
  );
  let bytes = 0;
  rows.on('data', (chunk) => {
    bytes += chunk.length;
  });
  await once(rows, 'end');
  const seconds = (performance.now() - begun) / 1_000;
  await client.end();
  return { count: rows.rowCount, seconds, megabytes: bytes / 1e6, growth: null };
}

function present(report, all, found, first) {
  const whole = found.get('evidence').map(({ count }) => count);
  // Lines are not counted through gzip: they are those of the plain export of the same round.
  const linesOf = (key, i) => found.get(key)[i].count ?? whole[i];
  const rates = new Map(
    all.map(({ key }) => [key, found.get(key).map(({ seconds }, i) => linesOf(key, i) / seconds)]),
  );
  const rows = all.map(({ key, name }) => {
    const of = (figure) => summarize(found.get(key).map((one) => one[figure]));
    const rate = summarize(rates.get(key));
    report.figure(`${key}.rate`, rate);
    const hasMemory = key !== 'copy';
    if (hasMemory) report.figure(`${key}.growth_mib`, of('growth'));
    return [
      name,
      cell(rate),
      cell(of('seconds')),
      cell(of('megabytes')),
      hasMemory ? cell(of('growth')) : '-',
      hasMemory ? first.get(key).growth : '-',
    ];
  });
  const header = ['', 'lines/s', 'seconds', 'MB', 'RSS growth MiB', 'in a new process'];
  report.table('Exports: medians of the rounds and their range', header, rows);
  const toCopy = ratioOf(rates.get('evidence'), rates.get('copy'));
  const toPlain = ratioOf(rates.get('gzip'), rates.get('evidence'));
  report.figure('ratio.evidence_to_copy', toCopy);
  report.figure('ratio.gzip_to_plain', toPlain);
  report.note(
    `evidence to COPY, ratio per round: ${cell(toCopy)}; gzip to plain: ${cell(toPlain)}`,
  );
  report.target('evidence to COPY', toCopy.median, 'at least', 0.5);
  report.target('readable lines/s', summarize(rates.get('readable')).median, 'at least', 50_000);
  report.target('gzip to plain', toPlain.median, 'at least', 0.4);
  for (const { key, name } of all.slice(1)) {
    const growth = Math.max(...found.get(key).map((one) => one.growth));
    report.figure(`${key}.growth_mib_in_a_new_process`, first.get(key).growth);
    report.target(`largest RSS growth in MiB, ${name}`, growth, 'at most', GROWTH_MIB_MAX);
  }
}

/** A client that takes 2 MB/s for 15 s, nothing for 5 s, and hangs up; then three at once. */
async function measureSlow(report, gateway) {
  const slow = (form, gzip = false) => ({ path: pathOf(form), gzip, slow: SLOW });
  const cases = [
    ['one slow client, evidence', [slow('evidence')]],
    [
      'three slow clients: evidence, readable, gzip',
      [slow('evidence'), slow('readable'), slow('evidence', true)],
    ],
  ];
  for (const [name, orders] of cases) {
    const memory = watchMemory(gateway.pid);
    const found = await Promise.all(orders.map((order) => runClient(gateway, order)));
    const { growth, start } = memory.stop();
    const megabytes = found.map(({ bytes }) => Math.round(bytes / 1e6)).join(' + ');
    report.figure(`growth_mib.${orders.length}_slow`, growth);
    report.note(`${name}: ${megabytes} MB taken, RSS from ${Math.round(start)} MiB`);
    report.target(`RSS growth in MiB, ${name}`, growth, 'at most', GROWTH_MIB_MAX * orders.length);
  }
}
