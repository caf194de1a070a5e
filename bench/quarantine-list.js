import http from 'node:http';
import { cell, openReport } from './lib/report.js';
import { runBench } from './lib/run.js';
import { arrivedAtMs, MARKS, startHeld } from './lib/seed-quarantine.js';
import { median, ratioOf, show, summarize } from './lib/stats.js';

const SMALL = 10_000;
const PAGE = 100;
/** As `src/projections/quarantine-list.ts` states it, in `openapi.yaml` too. */
const BUDGET = { messages: 100_000, ms: 2_000 };
const EXACT_RATIO_MAX = 1.5;
/** In each round; with five rounds a median stands on a hundred pages. */
const PAGES = 20;
const SLOW_PAGES = 3;

/** Looked up in an index: the first hundred cost the same, however many messages there are. */
const EXACT = [
  { name: 'no filter', query: '' },
  { name: 'domain', query: `&domain=${MARKS.domain.id}`, share: MARKS.domain.share },
  { name: 'sender', query: `&sender=${MARKS.sender.address}`, share: MARKS.sender.share },
  {
    name: 'sender domain',
    query: `&sender=${MARKS.senderDomain.name}`,
    share: MARKS.senderDomain.share,
  },
  {
    name: 'recipient',
    query: `&recipient=${MARKS.recipient.address}`,
    share: MARKS.recipient.share,
  },
  { name: 'symbol', query: `&symbol=${MARKS.symbol.name}`, share: MARKS.symbol.share },
  { name: 'reason', query: `&reason=${MARKS.reason.name}`, share: MARKS.reason.share },
  { name: 'state=released', query: '&state=released', share: MARKS.released.share },
  {
    name: 'sender domain and domain',
    query: `&sender=${MARKS.pair.senderDomain}&domain=${MARKS.pair.mailDomain}`,
    share: MARKS.pair.share,
  },
  {
    name: 'symbol and node, which all have',
    query: `&symbol=${MARKS.symbol.name}&node_id=${MARKS.node}`,
    share: MARKS.symbol.share,
  },
].map((one) => ({ ...one, kind: 'exact', pages: PAGES }));

/** Checked per message, under the scan budget. */
const SCANNED = [
  { name: 'min_score', query: `&min_score=${MARKS.minScore.score}`, share: MARKS.minScore.share },
  {
    name: 'subject',
    query: `&subject=${encodeURIComponent(MARKS.subject.text)}`,
    share: MARKS.subject.share,
  },
  {
    name: 'symbol and domain, nearly never both',
    query: `&symbol=${MARKS.apart.symbol}&domain=${MARKS.apart.mailDomain}`,
    share: 1 / MARKS.apart.every,
    // Only messages of the leading term's are looked at.
    ofAll: MARKS.domain.share,
  },
  { name: 'subject that nobody has', query: '&subject=xyzzyplugh', share: 0 },
].map((one) => ({ ...one, kind: 'scanned', pages: SLOW_PAGES }));

runBench(45, async (run) => {
  const report = openReport('quarantine-list');
  const small = withAgent(run, await startHeld(run, SMALL));
  const large = withAgent(run, await startHeld(run, run.events));
  await report.conditions(large.db, {
    dataset: `${small.count} and ${large.count} messages, ${show(large.projected.terms / large.count)} indexed terms each, each in a PostgreSQL and behind a gateway of its own`,
    page: `GET /mail/quarantine?limit=${PAGE}, the answer taken whole, keep-alive, one at a time, small and large in turn; medians of ${PAGES} pages a round (${SLOW_PAGES} where messages are scanned)`,
    rounds: run.rounds,
  });
  presentProjecting(report, [small, large]);
  const cases = [...EXACT, ...SCANNED].map((one) => ({
    ...one,
    times: { small: [], large: [] },
    worst: { small: 0, large: 0 },
  }));
  for (const one of cases) {
    one.small = await look(small, one);
    one.large = await look(large, one);
  }
  for (let round = 0; round < run.rounds; round += 1) {
    for (const one of cases) await timePair(small, large, one);
  }
  present(report, cases);
  report.end();
});

function withAgent(run, side) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  run.defer(() => agent.destroy());
  return { ...side, agent, url: side.gateway.url, key: side.gateway.key() };
}

/** What a page holds: that it is what was meant to be measured, and how far it had to look. */
async function look(side, { name, query, share = 1, ofAll = 1 }) {
  const { status, headers, data } = await getPage(side, query);
  const matches = Math.ceil(side.count * share);
  const isCut = headers['x-has-more'] === 'true' && data.length < PAGE;
  const isRight = data.length === Math.min(PAGE, matches) || isCut;
  if (status !== 200 || !isRight) {
    throw new Error(`${name}: ${status}, ${data.length} messages where ${matches} match`);
  }
  // The list goes from the newest back, and messages arrived evenly: a cursor says how far it looked.
  const [, at] = /^m(.+)_/.exec(headers['x-next-cursor'] ?? '') ?? [];
  const since = at === undefined ? 0 : Date.parse(at) - arrivedAtMs(0);
  const passed = side.count - since / (arrivedAtMs(1) - arrivedAtMs(0));
  // Released ones stand apart.
  const looked = isCut ? Math.round(passed * (1 - MARKS.released.share) * ofAll) : null;
  return { found: data.length, isCut, looked };
}

/** Pages that are asked for in turn, a few first that are not counted. */
async function timePair(small, large, one) {
  const found = { small: [], large: [] };
  const warm = one.kind === 'exact' ? 3 : 1;
  for (let page = -warm; page < one.pages; page += 1) {
    for (const [name, side] of Object.entries({ small, large })) {
      const begun = performance.now();
      await getPage(side, one.query);
      const ms = performance.now() - begun;
      one.worst[name] = Math.max(one.worst[name], ms);
      if (page >= 0) found[name].push(ms);
    }
  }
  one.times.small.push(median(found.small));
  one.times.large.push(median(found.large));
}

function getPage({ url, key, agent }, query) {
  return new Promise((resolve, reject) => {
    const path = `/api/v1/mail/quarantine?limit=${PAGE}${query}`;
    const request = http.get(url + path, { agent, headers: { 'X-API-Key': key } }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => {
        const { data } = JSON.parse(Buffer.concat(chunks).toString());
        resolve({ status: response.statusCode, headers: response.headers, data });
      });
    });
    request.once('error', reject);
  });
}

/** How fast the read model followed a log that was there first; measured when it was seeded. */
function presentProjecting(report, sides) {
  report.table(
    'The read model of the quarantine folding a new log, when the directory was seeded',
    ['messages', 'added/s', 'terms/s', 'released/s', 'ready s', 'index MB', 'messages MB', 'at'],
    sides.map(({ count, projected: p }) => {
      const added = p.added / p.addedSeconds;
      const terms = (p.terms / count) * added;
      const released = p.released / p.releasedSeconds;
      report.figure(`projected.${count}`, {
        ...p,
        addedPerSecond: added,
        releasedPerSecond: released,
      });
      return [
        ...[count, added, terms, released, p.readySeconds, p.terms_bytes / 1e6],
        ...[p.messages_bytes / 1e6, p.at],
      ];
    }),
  );
}

function present(report, cases) {
  const ratios = cases.map((one) => ({ ...one, ratio: ratioOf(one.times.large, one.times.small) }));
  const percent = (share) => (share === undefined ? 'all' : `${show(share * 100)} %`);
  report.table(
    'First page: milliseconds in the small and the large quarantine, medians of the rounds; large to small, ratio per round',
    ['by', 'match', 'found', 'small ms', 'large ms', 'worst ms', 'ratio'],
    ratios.map((one) => [
      ...[one.name, percent(one.share), `${one.small.found} ${one.large.found}`],
      ...[median(one.times.small), median(one.times.large), one.worst.large, cell(one.ratio)],
    ]),
  );
  for (const one of ratios) {
    report.figure(one.name.replaceAll(' ', '_'), {
      ratio: one.ratio,
      small_ms: summarize(one.times.small),
      large_ms: summarize(one.times.large),
      worst_ms: one.worst.large,
    });
    if (one.large.isCut && one.large.looked !== null) {
      report.note(
        `${one.name}: the large one answered after looking at ${show(one.large.looked)} messages, with a cursor that goes on`,
      );
    }
  }
  for (const one of ratios) {
    if (one.kind === 'exact') {
      report.target(`${one.name}, large to small`, one.ratio.median, 'at most', EXACT_RATIO_MAX);
    }
  }
  const slowest = Math.max(...ratios.map(({ worst }) => worst.large));
  report.target('slowest answer of all, scan budget in ms', slowest, 'at most', BUDGET.ms);
  const looked = Math.max(0, ...ratios.map(({ large }) => large.looked ?? 0));
  report.target('messages looked at for one answer', looked, 'at most', BUDGET.messages);
}
