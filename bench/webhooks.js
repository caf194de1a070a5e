import { cell, openReport } from './lib/report.js';
import { runBench } from './lib/run.js';
import { median, ratioOf, show, summarize } from './lib/stats.js';
import { deliverOurs, deliverRows } from './lib/webhook-arms.js';
import { heldId } from './lib/webhook-events.js';
import { rest, startHeldLog, startSender } from './lib/webhook-place.js';
import {
  appendBesidePaused,
  PAUSED,
  SINGLE,
  SINGLE_APART_MS,
  STEADY_PER_S,
  STEADY_S,
  timeSingleEvents,
  timeSteadily,
} from './lib/webhook-times.js';
import { startWorker } from './lib/worker.js';

const EVENTS_MAX = 10_000;
const EVENTS_MIN = 500;
/** Of the events that a large log of another benchmark has. */
const EVENTS_SHARE = 0.01;
const SUBSCRIBERS = 4;
/** No further round is begun after this, however many were asked for: a busy machine takes far longer. */
const ROUNDS_MS_MAX = 10 * 60_000;

const KINDS = {
  healthy: ['well', 'well', 'well', 'well'],
  dead: ['well', 'silent', 'refusing', 'failing'],
};
const ROWS = { subscribers: SUBSCRIBERS, act: deliverRows };
const ARMS = [
  { key: 'ours', name: 'MailGuard', subscribers: SUBSCRIBERS, act: deliverOurs },
  {
    ...{ key: 'kept', name: 'a row each, kept; our sender' },
    ...{ ...ROWS, variant: 'kept', posting: 'guarded' },
  },
  {
    ...{ key: 'kept_bare', name: 'a row each, kept; bare undici' },
    ...{ ...ROWS, variant: 'kept', posting: 'bare' },
  },
  {
    ...{ key: 'queue_bare', name: 'a row each, deleted; bare undici' },
    ...{ ...ROWS, variant: 'queue', posting: 'bare' },
  },
  { key: 'single', name: 'MailGuard', subscribers: 1, act: deliverOurs },
];
const THEIRS = ARMS.filter(({ act }) => act === deliverRows);
const STEADY = [
  { key: 'steady_healthy', name: 'three others that answer', kinds: 'healthy' },
  { key: 'steady_dead', name: 'three others that are dead', kinds: 'dead' },
];

runBench(25, async (run) => {
  const report = openReport('webhooks');
  const share = Math.floor(run.events * EVENTS_SHARE);
  const place = await openPlace(run, Math.min(EVENTS_MAX, Math.max(EVENTS_MIN, share)));
  const found = { append: [], alone: [] };
  for (const { key } of [...ARMS, ...STEADY]) found[key] = [];
  // Not counted: programs that were just started.
  for (const arm of ARMS) await arm.act(place, arm, place.events / 2);
  await reportConditions(report, place, run.rounds);
  const begun = performance.now();
  for (let round = 0; round < run.rounds; round += 1) {
    if (performance.now() - begun > ROUNDS_MS_MAX) break;
    // Begun with another arm each time, so that none always follows the same one.
    for (let i = 0; i < ARMS.length; i += 1) {
      const arm = ARMS[(i + round) % ARMS.length];
      found[arm.key].push(await arm.act(place, arm, place.events));
    }
    found.append.push(await appendBesidePaused(place, round));
    found.alone.push(await timeSingleEvents(place, round));
    for (const arm of round % 2 === 0 ? STEADY : [...STEADY].reverse()) {
      found[arm.key].push(await timeSteadily(place, arm));
    }
  }
  report.note(`rounds measured: ${found.alone.length}`);
  presentDelivering(report, found);
  presentWal(report, found);
  presentTimes(report, found);
  presentChecks(report, found);
  report.end();
});

/** Two databases with the same settings and events: the gateway's, and the rows'. One receiver for both. */
async function openPlace(run, events) {
  const receiver = startWorker(run, 'webhook-receiver.js');
  const healthy = await receiver.ask({ do: 'open', kinds: KINDS.healthy });
  const dead = await receiver.ask({ do: 'open', kinds: KINDS.dead });
  const ours = await startHeldLog(run, 'webhooks', events);
  const sender = await startSender(run, ours);
  const theirs = await startHeldLog(run, 'webhooks-rows', events);
  const worker = startWorker(run, 'webhook-rows.js');
  await worker.ask({ do: 'open', url: theirs.url });
  await rest(theirs.db);
  const ids = Array.from({ length: events }, (_, n) => heldId(n));
  const servers = { receiver, ours, sender, theirs, worker };
  return { ...servers, endpoints: healthy, healthy, dead, events, ids, appended: 0 };
}

async function reportConditions(report, place, rounds) {
  const { rows } = await place.ours.db.query(
    `select round(avg(octet_length(line))) as line from eventlog.events where type = 'quarantine.added'`,
  );
  await report.conditions(place.ours.db, {
    dataset: `${place.events} events quarantine.added in each log before the clock runs, ${rows[0].line} bytes a line, each in a stream of its own`,
    payload: `${show(place.payloadBytes)} bytes of JSON, signed as Standard Webhooks 1.0.0 says with one secret; http over kept connections on the loopback`,
    ours: 'the program in a process of its own; subscriptions to * from the earliest event, made paused, resumed together; from the first request to resume to the last arrival',
    rows: 'one process of the same Node, 64 in flight by undici, alone or in the sender of the gateway with its guard and deadline; 100 rows leased at once ahead of need, up to 200 or 25 ms of them ended in a statement with their attempts; the rows are there before the clock runs; the gateway idles meanwhile',
    receiver:
      'a process of its own on raw sockets, a port for each subscription, answers 204 at once; looks ids up while the clock runs, verifies every signature and sequence afterwards',
    wal: "all of the server's, from before the resume until the last cursor is put down, full-page images included; a checkpoint before (the rows': before they are made)",
    cpu_time: 'per delivery: of the process, and of all of the database',
    rounds,
  });
}

function presentDelivering(report, found) {
  const figures = ['rate', 'wholeRate', 'senderUs', 'receiverUs', 'databaseUs'];
  report.table(
    'Delivering what the log holds: medians of the rounds and their range; CPU per delivery',
    [
      '',
      'subscribers',
      'deliveries/s',
      'rows made, too',
      'sender us',
      'receiver us',
      'database us',
    ],
    ARMS.map(({ key, name, subscribers }) => [
      ...[name, String(subscribers)],
      ...figures.map((figure) => cell(summaryOf(report, found, key, figure))),
    ]),
  );
  const rates = (key, figure = 'rate') => found[key].map((one) => one[figure]);
  const ratios = THEIRS.map(({ key }) => [key, ratioOf(rates('ours'), rates(key))]);
  const wholes = THEIRS.map(({ key }) => ratioOf(rates('ours'), rates(key, 'wholeRate')));
  report.table(
    'Deliveries/s, MailGuard against the others, ratio per round',
    ['', 'ratio', 'their rows made, too'],
    ratios.map(([key, ratio], i) => [nameOf(key), cell(ratio), cell(wholes[i])]),
  );
  for (const [i, [key, ratio]] of ratios.entries()) {
    report.figure(`rate_ratio.${key}`, ratio);
    report.figure(`whole_rate_ratio.${key}`, wholes[i]);
  }
  const [[, kept]] = ratios;
  report.target('signed deliveries/s, 4 subscribers', median(rates('ours')), 'at least', 3_000);
  report.target('deliveries/s against a kept row each', kept.median, 'at least', 1.2);
}

/** What an append costs more for four subscribers than for none; the rows of a delivery are counted as they are made. */
function presentWal(report, found) {
  const fourMore = found.append.map(({ 0: none, 4: four }) => Math.max(0, four.wal - none.wal));
  const appendOf = (key) =>
    key === 'ours'
      ? fourMore.map((bytes) => bytes / SUBSCRIBERS)
      : found[key].map(({ appendWal }) => appendWal);
  const wholes = {};
  const rows = ARMS.map(({ key, name, subscribers }) => {
    const delivering = found[key].map(({ wal }) => wal);
    const appending = key === 'single' ? delivering.map(() => Number.NaN) : appendOf(key);
    wholes[key] = delivering.map((bytes, i) => bytes + appending[i]);
    summaryOf(report, found, key, 'wal');
    return [
      ...[name, String(subscribers), cell(summarize(delivering))],
      cell(summaryOf(report, found, key, 'images')),
      ...(key === 'single'
        ? ['-', '-']
        : [cell(summarize(appending)), cell(summarize(wholes[key]))]),
    ];
  });
  report.table(
    'WAL bytes per delivery',
    ['', 'subscribers', 'delivering', 'of it page images', 'at append', 'whole'],
    rows,
  );
  report.figure('ours.wal_whole', summarize(wholes.ours));
  for (const { key } of THEIRS) {
    report.figure(`${key}.wal_whole`, summarize(wholes[key]));
    report.figure(`wal_ratio.${key}`, ratioOf(wholes.ours, wholes[key]));
  }
  const besides = PAUSED.map((count) => found.append.map((one) => one[count].wal));
  report.table(
    'WAL bytes of an appended event beside subscriptions that are paused, without page images',
    ['subscriptions', 'bytes'],
    PAUSED.map((count, i) => [String(count), cell(summarize(besides[i]))]),
  );
  const growth = ratioOf(besides.at(-1), besides[0]);
  report.figure('append_ratio', growth);
  const ratio = ratioOf(wholes.ours, wholes.kept).median;
  report.note(
    `against rows that are deleted: ${cell(ratioOf(wholes.ours, wholes.queue_bare))} of their WAL`,
  );
  report.target('WAL bytes a delivery', median(found.ours.map(({ wal }) => wal)), 'at most', 450);
  report.target("of a kept row's WAL, append and delivery", ratio, 'at most', 0.5);
  report.target('WAL of an append, 20 paused to none', growth.median, 'at most', 1.02);
}

function presentTimes(report, found) {
  const alone = (figure) => cell(summaryOf(report, found, 'alone', figure));
  report.table(
    `One event at a time, ${SINGLE} a round, ${SINGLE_APART_MS.min} to ${SINGLE_APART_MS.max} ms apart: milliseconds from POST /domains to its arrival`,
    ['from', 'p50', 'p99'],
    [
      ['before the request', alone('p50'), alone('p99')],
      ['the answer (below 0: arrived before it)', alone('afterP50'), '-'],
      ['the request alone, to its answer', alone('answerP50'), '-'],
    ],
  );
  report.table(
    `${STEADY_PER_S} events/s for ${STEADY_S} s, each to four subscriptions, one of which answers; milliseconds from append to arrival there, from the first event on`,
    ['beside', 'p50', 'p99', 'slowest'],
    STEADY.map(({ key, name }) => [
      name,
      ...['p50', 'p99', 'slowest'].map((figure) => cell(summaryOf(report, found, key, figure))),
    ]),
  );
  const p99 = (key) => found[key].map((one) => one.p99);
  const ratio = ratioOf(p99('steady_dead'), p99('steady_healthy'));
  report.figure('fairness_ratio', ratio);
  report.note(`p99 beside three that are dead to p99 beside three that answer: ${cell(ratio)}`);
  report.note('dead: one never answers, one refuses connections, one answers 500 after a second');
  report.target(
    'p50 ms to arrival, idle',
    median(found.alone.map(({ p50 }) => p50)),
    'at most',
    15,
  );
  report.target('p99 beside dead ones to p99 beside healthy', ratio.median, 'at most', 1.5);
}

/** Of all rounds together, what the receiver found. */
function presentChecks(report, found) {
  const sums = (key) => (figure) => found[key].reduce((sum, one) => sum + one[figure], 0);
  const figures = ['received', 'lost', 'doubled', 'wrong', 'gaps', 'unrecorded'];
  report.table(
    'What the receiver got, all rounds; unrecorded: without an attempt in the database',
    ['', 'subscribers', 'received', 'lost', 'doubled', 'wrong signature', 'gaps', 'unrecorded'],
    ARMS.map(({ key, name, subscribers }) => [
      name,
      String(subscribers),
      ...figures.map(sums(key)),
    ]),
  );
  const wrong = ['ours', 'single'].flatMap((key) =>
    ['lost', 'doubled', 'wrong', 'gaps', 'unrecorded'].map(sums(key)),
  );
  const sum = wrong.reduce((all, one) => all + one, 0);
  report.target('lost, doubled, wrongly signed, unrecorded, gaps', sum, 'at most', 0);
}

const nameOf = (wanted) => ARMS.find(({ key }) => key === wanted).name;

/** One figure over the rounds, which the JSON tells, too. */
function summaryOf(report, found, key, figure) {
  const summary = summarize(found[key].map((one) => one[figure]));
  report.figure(`${key}.${figure}`, summary);
  return summary;
}
