import { connect, startDatabase } from './lib/database.js';
import { startGateway } from './lib/gateway.js';
import { openApi } from './lib/http-client.js';
import { findCorpus } from './lib/mails.js';
import { cpuBetween, cpuOfFamily } from './lib/proc.js';
import { cell, openReport } from './lib/report.js';
import { pause, runBench } from './lib/run.js';
import { show, summarize } from './lib/stats.js';
import { startWorker } from './lib/worker.js';

const MESSAGES = 1_000;
const CONNECTIONS = 16;
const SINKS = { small: 'own, greets at once', real: 'smtp-server, greets after 100 ms' };
const SINKS_EACH = 4;
const MAIL_DOMAINS_EACH = 8;
const JOB_MS_MAX = 300_000;
const LOOK_MS = 50;
/** No further round is begun after this, however many were asked for: a busy machine takes far longer. */
const ROUNDS_MS_MAX = 12 * 60_000;
const ARMS = Object.keys(SINKS).flatMap((kind) => [
  { key: `${kind}.bulk`, kind, how: 'one bulk job', act: releaseInBulk },
  {
    key: `${kind}.single`,
    kind,
    how: `one by one, ${CONNECTIONS} connections`,
    act: releaseSingly,
  },
]);

runBench(25, async (run) => {
  const report = openReport('release');
  const place = await openPlace(run);
  await report.conditions(place.db, {
    messages: `${MESSAGES} a row, ${place.mails.name}, median ${show(place.mails.median / 1e3)} kB; a tenth has recipients in two mail domains`,
    servers: `${MAIL_DOMAINS_EACH} mail domains on ${SINKS_EACH} SMTP servers of each kind, in a process of their own on the same cores; nothing is pipelined, a connection per message and mail domain`,
    bulk: 'from the request for the job until the job has ended, looked at every 50 ms',
    single: 'each answered 200 once delivered and recorded; client in a process of its own',
    rounds: run.rounds,
  });
  const found = new Map(ARMS.map(({ key }) => [key, []]));
  const begun = performance.now();
  for (let round = 0; round < run.rounds; round += 1) {
    if (performance.now() - begun > ROUNDS_MS_MAX) break;
    const order = round % 2 === 0 ? ARMS : [...ARMS].reverse();
    for (const arm of order) found.get(arm.key).push(await releaseAll(place, arm, round));
  }
  await present(report, place, found);
  report.end();
});

/** A gateway that protects mail domains, whose servers it can reach; and somebody who hands mail in. */
async function openPlace(run) {
  const { url, pid: postgres } = await startDatabase(run.defer, run.workDir('release'));
  const gateway = await startGateway({
    settings: { MAILGUARD_DATABASE_URL: url, MAILGUARD_DATA_DIR: run.workDir('release-gateway') },
  });
  run.defer(gateway.stop);
  const db = await connect(url);
  run.defer(() => db.end());
  const sinks = startWorker(run, 'smtp-sinks.js');
  const key = gateway.key();
  const api = openApi({ url: gateway.url, key });
  run.defer(api.close);
  const mailDomains = {};
  for (const kind of Object.keys(SINKS)) {
    const ports = await sinks.ask({ do: 'start', kinds: Array(SINKS_EACH).fill(kind) });
    const names = Array.from({ length: MAIL_DOMAINS_EACH }, (_, i) => `d${i}.${kind}.example`);
    mailDomains[kind] = new Map(names.map((name, i) => [name, ports[i % SINKS_EACH]]));
    for (const [name, port] of mailDomains[kind]) {
      const backends = { backend_servers: [`127.0.0.1:${port}`] };
      await api.call('POST', '/domains', { name, ...backends });
    }
  }
  const client = startWorker(run, 'mail-client.js');
  const corpus = findCorpus();
  const mails = await client.ask({ do: 'load', corpus, count: MESSAGES });
  const name = corpus === null ? 'generated' : `from all over ${corpus.name}`;
  const target = { port: Number(new URL(gateway.url).port), key };
  const pids = { server: gateway.pid, database: postgres };
  return { api, db, sinks, client, mailDomains, target, pids, mails: { ...mails, name } };
}

/** Messages are handed in, released by one arm, and compared with what the servers got. */
async function releaseAll(place, { key, kind, act }, round) {
  const { client, sinks, target, pids, mailDomains } = place;
  await client.ask({ do: 'forget' });
  const handedIn = await client.ask({
    ...{ do: 'handIn', ...target, connections: 32, mailDomains: [...mailDomains[kind].keys()] },
    // A queue id of its own for each: the same mail under the same one would be the message of before.
    label: `${key.replace('.', '')}${round}`,
  });
  if (handedIn.failed > 0) throw new Error(`${handedIn.failed} messages were not taken`);
  const expected = await client.ask({ do: 'expected' });
  await sinks.ask({ do: 'take' });
  const before = { server: cpuOfFamily(pids.server), database: cpuOfFamily(pids.database) };
  const acted = await act(place, expected);
  const cpu = (name) => cpuBetween(before[name], cpuOfFamily(pids[name])).all / expected.length;
  const used = { server: cpu('server'), database: cpu('database') };
  const delivered = await sinks.ask({ do: 'take' });
  const compared = compare(expected, delivered, mailDomains[kind]);
  return { ...acted, ...used, ...compared, rate: expected.length / acted.seconds };
}

async function releaseInBulk({ api }, expected) {
  const begun = performance.now();
  const ids = expected.map(({ id }) => id);
  const { data } = await api.call('POST', '/mail/quarantine/bulk', { action: 'release', ids });
  for (;;) {
    await pause(LOOK_MS);
    const job = await api.call('GET', `/mail/quarantine/bulk/${data.job_id}?limit=1`);
    const seconds = (performance.now() - begun) / 1_000;
    if (job.data.state === 'completed') {
      const { released = 0 } = job.data.counts;
      return { seconds, p50: Number.NaN, p99: Number.NaN, notReleased: ids.length - released };
    }
    if (seconds * 1_000 > JOB_MS_MAX)
      throw new Error(`the job is ${JSON.stringify(job.data.counts)}`);
  }
}

async function releaseSingly({ client, target }) {
  const { seconds, p50, p99, failed } = await client.ask({
    ...{ do: 'release', ...target, connections: CONNECTIONS },
  });
  return { seconds, p50, p99, notReleased: failed };
}

/** One delivery is due for each message and mail domain, at that domain's server, with its recipients. */
function compare(expected, delivered, mailDomains) {
  const due = new Map();
  for (const { id, sha256, sender, recipients } of expected) {
    for (const [name, port] of mailDomains) {
      const to = recipients.filter((address) => address.endsWith(`@${name}`));
      if (to.length > 0) due.set(`${id} ${to.join()}`, { sha256, sender, port, times: 0 });
    }
  }
  const counts = { due: due.size, delivered: delivered.length, foreign: 0, differing: 0 };
  for (const { id, to, from, port, sha256 } of delivered) {
    const one = due.get(`${id} ${to.join()}`);
    if (one === undefined) {
      counts.foreign += 1;
      continue;
    }
    one.times += 1;
    const isSame = one.sha256 === sha256 && one.sender === from && one.port === port;
    if (!isSame) counts.differing += 1;
  }
  const times = [...due.values()].map((one) => one.times);
  const lost = times.filter((n) => n === 0).length;
  return { ...counts, lost, doubled: times.filter((n) => n > 1).length };
}

async function present(report, place, found) {
  const header = [
    ...['SMTP servers', 'released', 'seconds', 'messages/s', 'p50 ms', 'p99 ms'],
    ...['server CPU us', 'database CPU us'],
  ];
  const figures = ['seconds', 'rate', 'p50', 'p99', 'server', 'database'];
  const rows = ARMS.map(({ key, kind, how }) => {
    const of = (figure) => summarize(found.get(key).map((one) => one[figure]));
    for (const figure of figures) report.figure(`${key}.${figure}`, of(figure));
    const cells = figures.map((figure) =>
      Number.isNaN(found.get(key)[0][figure]) ? '-' : cell(of(figure)),
    );
    return [SINKS[kind], how, ...cells];
  });
  report.table(`${MESSAGES} messages released, CPU per message`, header, rows);

  const rounds = [...found.values()].flat();
  report.note(`rounds measured: ${rounds.length / ARMS.length}`);
  const sum = (figure) => rounds.reduce((total, round) => total + round[figure], 0);
  const { rows: states } = await place.db.query(
    'select state, count(*) as messages from quarantined_messages group by state order by state',
  );
  const messages = rounds.length * MESSAGES;
  const notListed = messages - Number(states.find(({ state }) => state === 'released')?.messages);
  const checks = [
    ['messages not answered as released', sum('notReleased'), messages],
    ['messages not listed as released', notListed, messages],
    ['deliveries that did not come', sum('lost'), sum('due')],
    ['deliveries that came twice', sum('doubled'), sum('due')],
    ['deliveries of nothing that was held', sum('foreign'), sum('delivered')],
    ['bytes, sender or server that differ', sum('differing'), sum('delivered')],
  ];
  report.table('Compared with what the servers got, all rounds', ['', 'wrong', 'of'], checks);
  const wrong = checks.reduce((total, [, count]) => total + count, 0);
  report.target('lost, doubled or differing', wrong, 'at most', 0);
}
