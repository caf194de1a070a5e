import http from 'node:http';
import { join } from 'node:path';
import { connect } from './lib/database.js';
import { startGateway } from './lib/gateway.js';
import { cell, openReport } from './lib/report.js';
import { runBench } from './lib/run.js';
import { MARKED, startSeeded } from './lib/seed.js';
import { median, ratioOf, show, summarize } from './lib/stats.js';

const SMALL = 10_000;
/** In each round; with five rounds a median stands on a hundred pages. */
const PAGES = 20;
const QUERY = {
  actor: (mark) => `&actor=operator:${MARKED.actor[mark]}`,
  resource: (mark) => `&resource=message:${MARKED.resource[mark]}`,
  action: (mark) => `&action=${MARKED.type[mark]}`,
  domain: (mark) => `&domain=${MARKED.mailDomain[mark]}`,
};
const FORMS = ['readable', 'evidence'];
/** No filter at all, as one reads who follows the whole log. */
const EVERYTHING = { dimension: 'nothing', filter: () => '', mark: null, smallMark: null };

/**
 * The pages that are compared: of the same share of the small and of the large log, from the start and
 * from a cursor in its middle. The small log has a thousand matches of ten per cent, and a hundred of one.
 */
const SAME_SHARE = [
  { share: '10 %', mark: 'many', start: 'first', limit: 1_000 },
  { share: '10 %', mark: 'many', start: 'middle', limit: 400 },
  { share: '1 %', mark: 'some', start: 'first', limit: 100 },
  { share: '1 %', mark: 'some', start: 'middle', limit: 40 },
];

runBench(15, async (run) => {
  const report = openReport('page');
  const small = await openSide(run, SMALL);
  const large = await openSide(run, run.events);
  const db = await connect(large.database);
  run.defer(() => db.end());
  await report.conditions(db, {
    dataset: `logs of ${small.head} and ${large.head} events, each in a PostgreSQL and behind a gateway of its own`,
    page: `GET /audit/logs, the answer taken whole, keep-alive, one at a time; medians of ${PAGES} pages a round`,
    rounds: run.rounds,
  });
  const cases = [
    ...casesOf(SAME_SHARE.map((one) => ({ ...one, smallMark: one.mark }))),
    ...FORMS.flatMap((form) =>
      ['first', 'middle'].map((start) => ({
        ...EVERYTHING,
        ...{ share: 'all', start, limit: 1_000, form, smallMs: [], largeMs: [] },
      })),
    ),
    // A thousand matches each: every thousandth event of the large log, every tenth of the small one.
    ...casesOf([
      {
        share: 'scattered',
        mark: 'rare',
        smallMark: 'many',
        start: 'first',
        limit: matchesOf(large),
      },
    ]),
  ];
  for (const one of cases) {
    one.small = await placeOf(small, one.filter(one.smallMark), one);
    one.large = await placeOf(large, one.filter(one.mark), one);
  }
  for (let round = 0; round < run.rounds; round += 1) {
    for (const one of cases) {
      const times = await timePair(small, large, one);
      one.smallMs.push(times.small);
      one.largeMs.push(times.large);
    }
  }
  present(report, cases);
  report.end();
});

async function openSide(run, events) {
  const { url: database, dataDir } = await startSeeded(run, events);
  const gateway = await startGateway({
    settings: { MAILGUARD_DATABASE_URL: database, MAILGUARD_DATA_DIR: join(dataDir, 'gateway') },
  });
  run.defer(gateway.stop);
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  run.defer(() => agent.destroy());
  const client = await connect(database);
  const { rows } = await client.query('select max(position) as head from eventlog.events');
  await client.end();
  return { database, url: gateway.url, key: gateway.key(), agent, head: Number(rows[0].head) };
}

/** Matches of the rare mark: as many as fill the page of the small log too. */
const matchesOf = ({ head }) => Math.min(1_000, Math.floor(head / 1_000));

const casesOf = (list) =>
  list.flatMap((one) =>
    Object.entries(QUERY).flatMap(([dimension, filter]) =>
      FORMS.map((form) => ({ ...one, dimension, filter, form, smallMs: [], largeMs: [] })),
    ),
  );

/** The path of a page; for the middle, with a cursor that the gateway itself has given. */
async function placeOf(side, filter, { start, limit, form }) {
  const path = `/api/v1/audit/logs?form=${form}${filter}&limit=`;
  const place = { path: path + limit, lines: limit };
  if (start === 'middle') {
    const { headers } = await get(side, `${path}1&after=${Math.floor(side.head / 2)}`);
    place.path += `&cursor=${headers['x-next-cursor']}`;
  }
  const { text, status } = await get(side, place.path);
  const lines = status === 200 ? JSON.parse(text).data.length : 0;
  if (lines !== limit)
    throw new Error(`${place.path}: ${status}, ${lines} lines instead of ${limit}`);
  return place;
}

/** Medians of pages that are asked for in turn, a few first that are not counted. */
async function timePair(small, large, one) {
  const times = { small: [], large: [] };
  for (let page = -3; page < PAGES; page += 1) {
    const smallMs = await timed(() => get(small, one.small.path));
    const largeMs = await timed(() => get(large, one.large.path));
    if (page < 0) continue;
    times.small.push(smallMs);
    times.large.push(largeMs);
  }
  return { small: median(times.small), large: median(times.large) };
}

async function timed(action) {
  const begun = performance.now();
  await action();
  return performance.now() - begun;
}

function get({ url, key, agent }, path) {
  return new Promise((resolve, reject) => {
    const request = http.get(url + path, { agent, headers: { 'X-API-Key': key } }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        resolve({ status: response.statusCode, headers: response.headers, text });
      });
    });
    request.once('error', reject);
  });
}

function present(report, cases) {
  const ratios = cases.map((one) => ({ ...one, ratio: ratioOf(one.largeMs, one.smallMs) }));
  report.table(
    'Pages: milliseconds in the small and the large log, medians of the rounds; large to small, ratio per round',
    ['by', 'share', 'start', 'form', 'lines', 'small ms', 'large ms', 'ratio'],
    ratios.map((one) => [
      ...[one.dimension, one.share, one.start, one.form, String(one.limit)],
      ...[median(one.smallMs), median(one.largeMs), cell(one.ratio)],
    ]),
  );
  for (const one of ratios) {
    const name = [one.dimension, one.share, one.start, one.form].join('.');
    report.figure(name, {
      ratio: one.ratio,
      small_ms: median(one.smallMs),
      large_ms: median(one.largeMs),
    });
  }
  const everything = ratios.filter(({ dimension }) => dimension === EVERYTHING.dimension);
  report.target('worst without a filter', worst(everything), 'at most', 1.3);
  for (const dimension of Object.keys(QUERY)) {
    const of = (isScattered) =>
      ratios.filter(
        (one) => one.dimension === dimension && (one.share === 'scattered') === isScattered,
      );
    report.target(`worst of the same share, by ${dimension}`, worst(of(false)), 'at most', 1.3);
    report.target(`worst of the scattered, by ${dimension}`, worst(of(true)), 'at most', 1.6);
  }
  const all = ratios.map(({ ratio }) => ratio.median);
  report.note(`all ratios: ${show(summarize(all).min)} to ${show(summarize(all).max)}`);
}

const worst = (list) => Math.max(...list.map(({ ratio }) => ratio.median));
