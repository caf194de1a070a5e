import { readdirSync } from 'node:fs';
import { APP_ROLE, openPool } from '../dist/db/pool.js';
import { openHoldQueue } from '../dist/integrations/hold-queue.js';
import { startHoldQueueWatch } from '../dist/integrations/hold-queue-watch.js';
import { followMailLog } from '../dist/integrations/mail-log.js';
import { connectPostfixHelper } from '../dist/integrations/postfix-helper.js';
import { connect, openLog, startDatabase } from './lib/database.js';
import { startGateway } from './lib/gateway.js';
import { missingForPostfix, startHoldQueueHost } from './lib/hold-queue-host.js';
import { headerOf, openApi } from './lib/http-client.js';
import { residentMiB, watchMemory } from './lib/proc.js';
import { cell, openReport } from './lib/report.js';
import { pause, runBench } from './lib/run.js';
import { summarize } from './lib/stats.js';

const HELD = Number(process.env.MAILGUARD_BENCH_HELD ?? 10_000);
const PAGE = 1_000;
const LOOKS = 100;
const RELEASED = 200;
const TAKEN_IN_MS_MAX = 15 * 60_000;
const NODE = 'bench';
const SILENT = { info() {}, warn() {}, error() {} };

runBench(25, async (run) => {
  const report = openReport('hold-queue');
  const missing = missingForPostfix();
  if (missing.length > 0) {
    report.note(`skipped: no ${missing.join(', ')}`);
    return;
  }
  const place = await openPlace(run);
  await report.conditions(place.db, {
    dataset: `${HELD} messages of 2,000 bytes in the hold queue of a real Postfix`,
    look: `${LOOKS} looks a round without a pause, by the gateway's own watch on the gateway's database, all messages known`,
    rounds: run.rounds,
  });
  const taken = await takeIn(place);
  const found = { names: [], list: [], look: [], page: [], release: [] };
  const before = residentMiB(process.pid);
  const memory = watchMemory(place.gateway.pid);
  for (let round = 0; round < run.rounds; round += 1) {
    found.names.push(await timed(() => place.queue.held()));
    found.list.push(await timed(() => place.queue.list()));
    found.look.push(await timeLooks(place));
    found.page.push(await timePages(place));
  }
  const growth = memory.stop();
  const grown = residentMiB(process.pid) - before;
  found.release.push(await release(place));
  const rows = [
    ['names of what is held, by the helper', 'names'],
    ['postqueue -j, by the helper', 'list'],
    ['a look: queue and quarantine compared', 'look'],
    [`all pages of ${PAGE} over HTTP`, 'page'],
  ];
  for (const [, key] of rows) report.figure(key, summarize(found[key]));
  report.table(
    'Milliseconds',
    ['', 'ms'],
    rows.map(([text, key]) => [text, cell(summarize(found[key]))]),
  );
  report.note(`taken in, from the start of the gateway: ${HELD} in ${Math.round(taken / 1_000)} s`);
  report.note(`released one by one over HTTP, 12 at once: ${RELEASED} in ${found.release[0]} ms`);
  report.note(`memory of the process that looked: ${grown.toFixed(1)} MiB more`);
  report.target('ms to list what is held', summarize(found.list).median, 'at most', 2_000);
  report.target('ms a look', summarize(found.look).median, 'at most', 2_000);
  report.target('ms of all pages', summarize(found.page).median, 'at most', 2_000);
  report.target('MiB that the gateway grew', growth.growth, 'at most', 32);
  report.end();
});

async function openPlace(run) {
  const { url } = await startDatabase(run.defer, run.workDir('hold-queue'));
  const db = await connect(url);
  run.defer(() => db.end());
  const host = await startHoldQueueHost(run);
  host.fill(HELD);
  const heldNow = readdirSync(host.holdDir).length;
  if (heldNow !== HELD) throw new Error(`${heldNow} are held, not ${HELD}`);
  const queue = openHoldQueue(connectPostfixHelper({ socket: host.socket }));
  const settings = {
    MAILGUARD_DATABASE_URL: url,
    MAILGUARD_DATA_DIR: run.workDir('hold-queue-gateway'),
    MAILGUARD_NODE_ID: NODE,
    MAILGUARD_QUARANTINE_STORE: 'postfix',
    MAILGUARD_POSTFIX_SOCKET: host.socket,
    MAILGUARD_POSTFIX_LOG: host.mailLog,
  };
  const gateway = await startGateway({ settings });
  run.defer(gateway.stop);
  const api = openApi({ url: gateway.url, key: gateway.key() });
  run.defer(api.close);
  await api.call('POST', '/domains', { name: 'bench.example' });
  return { run, db, url, host, queue, gateway, api };
}

/** Milliseconds until everything that was held before is listed. */
async function takeIn({ db }) {
  const begun = performance.now();
  for (;;) {
    const { rows } = await db.query('select count(*) as n from quarantined_messages');
    if (Number(rows[0].n) >= HELD) return performance.now() - begun;
    if (performance.now() - begun > TAKEN_IN_MS_MAX) throw new Error(`only ${rows[0].n} are listed`);
    await pause(200);
  }
}

async function timed(work) {
  const begun = performance.now();
  await work();
  return performance.now() - begun;
}

/** A watch of our own beside the gateway's: from one look at the queue to the next. */
async function timeLooks({ run, url, host, queue }) {
  const pool = openPool({ url, size: 4, role: APP_ROLE });
  const log = await openLog(run.defer, url);
  const mailLog = await followMailLog({ path: host.mailLog, logger: SILENT });
  const begins = [];
  let tell = () => undefined;
  const enough = new Promise((resolve) => {
    tell = resolve;
  });
  const counted = {
    ...queue,
    held() {
      begins.push(performance.now());
      if (begins.length > LOOKS) tell();
      return queue.held();
    },
  };
  const watch = startHoldQueueWatch({
    ...{ pool, log, mailLog, queue: counted, rspamd: null, secrets: null, nodeId: NODE, lookMs: 1 },
    ...{ clock: { now: () => new Date(), nowMs: () => Date.now() }, logger: SILENT },
    caughtUp: async () => true,
  });
  await enough;
  await watch.stop();
  if (watch.trouble() !== null) throw new Error(watch.trouble());
  await mailLog.stop();
  await pool.end();
  return (begins[LOOKS] - begins[0]) / LOOKS;
}

/** Milliseconds for all pages of the list. */
async function timePages({ api }) {
  const begun = performance.now();
  let listed = 0;
  let cursor = '';
  while (cursor !== null) {
    const answer = await api.call('GET', `/mail/quarantine?limit=${PAGE}${cursor}`);
    listed += answer.data.length;
    const next = headerOf(answer, 'x-next-cursor');
    cursor = answer.data.length < PAGE || next === null ? null : `&cursor=${next}`;
  }
  if (listed !== HELD) throw new Error(`${listed} are listed, not ${HELD}`);
  return performance.now() - begun;
}

/** Milliseconds for some releases, each to the word of the mail log that it was sent. */
async function release({ api, gateway, run }) {
  const { data } = await api.call('GET', `/mail/quarantine?limit=${RELEASED}`);
  const begun = performance.now();
  const left = data.map(({ id }) => id);
  const work = async () => {
    const one = openApi({ url: gateway.url, key: gateway.key() });
    run.defer(one.close);
    for (let id = left.shift(); id !== undefined; id = left.shift()) {
      const reply = await one.call('POST', `/mail/quarantine/messages/${id}/release`, {});
      if (reply.data.state !== 'released') throw new Error(`${id} is ${reply.data.state}`);
    }
  };
  await Promise.all(Array.from({ length: 12 }, work));
  return Math.round(performance.now() - begun);
}
