import { rmSync } from 'node:fs';
import { connect, startDatabase } from './lib/database.js';
import { startGateway } from './lib/gateway.js';
import { openApi } from './lib/http-client.js';
import { findCorpus, HOW_TO_GET_THE_CORPUS } from './lib/mails.js';
import { cpuBetween, cpuOfFamily, watchMemory } from './lib/proc.js';
import { cell, openReport } from './lib/report.js';
import { openScope, runBench } from './lib/run.js';
import { show, summarize } from './lib/stats.js';
import { startWorker } from './lib/worker.js';

const CONNECTIONS = [16, 32];
const MAIL_DOMAINS = Array.from({ length: 5 }, (_, i) => `d${i}.corpus.example`);
const RATE_MIN = 300;
/** No further round is begun after this, however many were asked for: a busy machine takes far longer. */
const ROUNDS_MS_MAX = 15 * 60_000;

runBench(25, async (run) => {
  const report = openReport('import');
  const corpus = findCorpus();
  if (corpus === null) {
    report.note(`skipped: the corpus is not here. ${HOW_TO_GET_THE_CORPUS}`);
    return;
  }
  const client = startWorker(run, 'mail-client.js');
  const mails = await client.ask({ do: 'load', corpus });
  const describe = (db) =>
    report.conditions(db, {
      corpus:
        `${corpus.name}, ${mails.count} mails, ${show(mails.bytes / 1e6)} MB, ` +
        `median ${show(mails.median / 1e3)} kB, largest ${show(mails.largest / 1e3)} kB`,
      measured:
        'POST /mail/quarantine, each answered 201 once on the disk (fsync) and in the log; a new ' +
        'server and database for every row, nothing warmed up',
      client:
        'a process of its own on the same cores, raw keep-alive connections, one request at a time on each',
      verified:
        'every round: list walked by cursor, every body read back and compared (SHA-256); first round: ' +
        'also a preview of each',
      rounds: run.rounds,
    });
  const found = new Map(CONNECTIONS.map((connections) => [connections, []]));
  const begun = performance.now();
  for (let round = 0; round < run.rounds; round += 1) {
    if (performance.now() - begun > ROUNDS_MS_MAX) break;
    const order = round % 2 === 0 ? CONNECTIONS : [...CONNECTIONS].reverse();
    for (const connections of order) {
      const isFirst = round === 0;
      const onStart = isFirst && connections === order[0] ? describe : () => undefined;
      found.get(connections).push(await importAll(run, { client, connections, isFirst, onStart }));
    }
  }
  present(report, found, mails.count);
  report.end();
});

/** Every mail handed in to a new server, then looked at; the server and its data are gone afterwards. */
async function importAll(run, { client, connections, isFirst, onStart }) {
  const scope = openScope(run);
  const dataDir = run.workDir('import');
  const { url, pid: postgres } = await startDatabase(scope.defer, dataDir);
  const gateway = await startGateway({
    settings: { MAILGUARD_DATABASE_URL: url, MAILGUARD_DATA_DIR: run.workDir('import-gateway') },
  });
  scope.defer(gateway.stop);
  const db = await connect(url);
  scope.defer(() => db.end());
  await onStart(db);
  const port = Number(new URL(gateway.url).port);
  const key = gateway.key();
  const api = openApi({ url: gateway.url, key });
  for (const name of MAIL_DOMAINS) await api.call('POST', '/domains', { name });
  api.close();
  await client.ask({ do: 'forget' });

  const memory = watchMemory(gateway.pid);
  const before = { server: cpuOfFamily(gateway.pid), database: cpuOfFamily(postgres) };
  const handedIn = await client.ask({
    ...{ do: 'handIn', port, key, connections },
    ...{ mailDomains: MAIL_DOMAINS, label: 'IMPORT' },
  });
  const server = cpuBetween(before.server, cpuOfFamily(gateway.pid)).all / handedIn.count;
  const database = cpuBetween(before.database, cpuOfFamily(postgres)).all / handedIn.count;
  const { start, peak } = memory.stop();

  const verified = await client.ask({ do: 'verify', port, key, connections, previews: isFirst });
  const { rows } = await db.query(
    "select count(*) as added from eventlog.events where type = 'quarantine.added'",
  );
  await scope.close();
  rmSync(dataDir, { recursive: true, force: true });
  return { ...handedIn, server, database, start, peak, verified, added: Number(rows[0].added) };
}

function present(report, found, count) {
  const header = [
    ...['connections', 'messages/s', 'p50 ms', 'p99 ms', 'server CPU us', 'database CPU us'],
    ...['RSS before MiB', 'RSS peak MiB'],
  ];
  const figures = ['rate', 'p50', 'p99', 'server', 'database', 'start', 'peak'];
  const rows = [...found].map(([connections, rounds]) => {
    const of = (figure) => summarize(rounds.map((round) => round[figure]));
    for (const figure of figures) report.figure(`${connections}.${figure}`, of(figure));
    return [String(connections), ...figures.map((figure) => cell(of(figure)))];
  });
  report.table(`${count} mails handed in, CPU per message`, header, rows);

  const rounds = [...found.values()].flat();
  report.note(`rounds measured: ${rounds.length / found.size}`);
  const sum = (pick) => rounds.reduce((total, round) => total + pick(round), 0);
  const checks = [
    ['not taken', sum(({ failed }) => failed), rounds.length * count],
    ['taken, and listed later (202)', sum(({ late }) => late), rounds.length * count],
    [
      'events too many or too few',
      sum(({ added }) => Math.abs(added - count)),
      sum((r) => r.added),
    ],
    ['lost from the list', sum(({ verified }) => verified.lost), sum((r) => r.verified.listed)],
    ['listed twice', sum(({ verified }) => verified.twice), sum((r) => r.verified.listed)],
    ['listed, never handed in', sum((r) => r.verified.foreign), sum((r) => r.verified.listed)],
    ['bodies that differ or fail', sum((r) => r.verified.bodies.failed), countOf(rounds, 'bodies')],
    [
      'previews that fail or are dangerous',
      sum((r) => r.verified.previews.failed),
      countOf(rounds, 'previews'),
    ],
  ];
  report.table('Verified, all rounds', ['', 'wrong', 'of'], checks);
  const read = (what) => {
    const done = rounds.map(({ verified }) => verified[what]).filter(({ count: n }) => n > 0);
    return cell(summarize(done.map(({ rate }) => rate)));
  };
  report.note(
    `read back: ${read('bodies')} bodies/s, ${read('previews')} previews/s (4 at once), each an event in the log`,
  );
  for (const [connections, list] of found) {
    const { median } = summarize(list.map(({ rate }) => rate));
    report.target(`messages/s, ${connections} connections`, median, 'at least', RATE_MIN);
  }
  const late = sum((round) => round.late);
  const wrong = checks.reduce((total, [, times]) => total + times, 0) - late;
  report.target('lost, doubled, differing or failed', wrong, 'at most', 0);
}

const countOf = (rounds, what) =>
  rounds.reduce((total, { verified }) => total + verified[what].count, 0);
