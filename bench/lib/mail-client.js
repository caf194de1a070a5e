import { headerOf, headOf, openConnection } from './http-client.js';
import { makeMails, readCorpus, sha256, withCrlf } from './mails.js';
import { percentile } from './stats.js';
import { serveOrders } from './worker.js';

/**
 * A mail filter and an operator in a process of its own: hands mails in, reads them back, releases them;
 * one request at a time on each of some keep-alive connections. It knows what it handed in.
 */

const PAGE = 1_000;
/** The gateway makes so many previews at once, and sends others away. */
const PREVIEWS_AT_ONCE = 4;
const PROBLEMS_SHOWN = 10;
/** Every so many messages has a second recipient, in the next mail domain. */
const SHARED = 10;

let mails = [];
/** By id, what was handed in under it since `load`. */
let handedIn = new Map();

serveOrders({
  load({ corpus, count }) {
    mails = corpus === null ? makeMails(count) : readCorpus(corpus, count ?? Infinity);
    handedIn = new Map();
    const sizes = mails.map(({ bytes }) => bytes.length).sort((a, b) => a - b);
    return {
      count: mails.length,
      bytes: sizes.reduce((sum, size) => sum + size, 0),
      median: percentile(sizes, 0.5),
      largest: sizes.at(-1),
    };
  },
  handIn,
  forget() {
    handedIn = new Map();
  },
  verify,
  release,
  /** What must arrive, by id: the digest of the bytes with CRLF, and to whom. */
  expected: () =>
    [...handedIn].map(([id, { mail, recipients }]) => ({
      ...{ id, recipients, sender: mail.sender },
      sha256: sha256(withCrlf(mail.bytes)),
    })),
});

async function handIn({ port, key, connections, mailDomains, label }) {
  const requests = mails.map((mail, n) => {
    const recipients = recipientsOf(n, mailDomains);
    const head = headOf('POST', '/mail/quarantine', {
      key,
      bytes: mail.bytes.length,
      headers: {
        'Content-Type': 'message/rfc822',
        'X-Mail-From': mail.sender,
        'X-Rcpt-To': recipients.join(', '),
        'X-Spam-Score': mail.isSpam ? '17.5' : '6.5',
        'X-Spam-Symbols': mail.isSpam ? 'BAYES_SPAM,URIBL_BLACK,HTML_SHORT' : 'BAYES_HAM,FORGED',
        'X-Queue-Id': `${label}${n.toString(16).padStart(6, '0')}`,
      },
    });
    return { mail, recipients, head };
  });
  let late = 0;
  const found = await drive({ port, connections, count: requests.length }, async (ask, n) => {
    const { mail, recipients, head } = requests[n];
    const answer = await ask(head, mail.bytes);
    if (answer.status === 202) late += 1;
    else if (answer.status !== 201) return `mail ${n}: ${answer.status} ${answer.body}`;
    handedIn.set(JSON.parse(answer.body).data.id, { mail, recipients });
    return null;
  });
  return { ...found, late };
}

function recipientsOf(n, mailDomains) {
  const first = `user${n % 97}@${mailDomains[n % mailDomains.length]}`;
  if (n % SHARED !== 0) return [first];
  return [first, `other${n % 89}@${mailDomains[(n + 1) % mailDomains.length]}`];
}

/** Whether each message is listed once, comes back as it was, and is shown without dangers. */
async function verify({ port, key, connections, previews }) {
  const listed = await walkList(port, key);
  const ids = [...handedIn.keys()];
  const lost = ids.filter((id) => !listed.has(id)).length;
  const twice = [...listed.values()].filter((times) => times > 1).length;
  const foreign = [...listed.keys()].filter((id) => !handedIn.has(id)).length;
  const read = (what, id) => headOf('GET', `/mail/quarantine/messages/${id}/${what}`, { key });
  const bodies = await drive({ port, connections, count: ids.length }, async (ask, n) => {
    const answer = await ask(read('body', ids[n]));
    if (answer.status !== 200) return `body of ${ids[n]}: ${answer.status} ${answer.body}`;
    const isSame = sha256(answer.body) === handedIn.get(ids[n]).mail.sha256;
    return isSame ? null : `body of ${ids[n]}: differs`;
  });
  const count = previews ? ids.length : 0;
  const shown = await drive({ port, connections: PREVIEWS_AT_ONCE, count }, async (ask, n) => {
    const answer = await ask(read('preview', ids[n]));
    if (answer.status !== 200) return `preview of ${ids[n]}: ${answer.status} ${answer.body}`;
    const danger = dangerIn(JSON.parse(answer.body).data.html ?? '');
    return danger === null ? null : `preview of ${ids[n]}: ${danger}`;
  });
  return { listed: listed.size, lost, twice, foreign, bodies, previews: shown };
}

async function walkList(port, key) {
  const connection = openConnection(port);
  const listed = new Map();
  let cursor = '';
  // Bounded by what was handed in, a page too many included.
  for (let page = 0; page <= handedIn.size / PAGE + 1; page += 1) {
    const path = `/mail/quarantine?limit=${PAGE}${cursor}`;
    const answer = await connection.ask(headOf('GET', path, { key }));
    if (answer.status !== 200) throw new Error(`${path}: ${answer.status}`);
    for (const { id } of JSON.parse(answer.body).data) listed.set(id, (listed.get(id) ?? 0) + 1);
    if (headerOf(answer, 'X-Has-More') !== 'true') break;
    cursor = `&cursor=${headerOf(answer, 'X-Next-Cursor')}`;
  }
  connection.close();
  return listed;
}

/** What sanitised HTML must not have; looked for in its tags, for a text may say anything. */
function dangerIn(html) {
  if (/<script/i.test(html)) return 'a script';
  for (const [tag] of html.matchAll(/<[a-z][^>]*>/gi)) {
    if (/\ssrc\s*=\s*["']?\s*(?:https?:)?\/\//i.test(tag)) return `a remote source: ${tag}`;
    const names = tag.replace(/"[^"]*"|'[^']*'/g, '""');
    if (/[\s/"']on\w+\s*=/i.test(names)) return `a handler: ${tag}`;
  }
  return null;
}

/** Releases one by one, as operators do; nothing else is asked for until each has its answer. */
function release({ port, key, connections }) {
  const ids = [...handedIn.keys()];
  return drive({ port, connections, count: ids.length }, async (ask, n) => {
    const head = headOf('POST', `/mail/quarantine/messages/${ids[n]}/release`, { key });
    const answer = await ask(head);
    return answer.status === 200 ? null : `release of ${ids[n]}: ${answer.status} ${answer.body}`;
  });
}

/**
 * Does `count` things over some connections. A thing says what is wrong, or null.
 * @param {(ask: Function, n: number) => Promise<string | null>} act
 */
async function drive({ port, connections, count }, act) {
  const opened = Array.from({ length: connections }, () => openConnection(port));
  const latencies = [];
  const problems = [];
  let next = 0;
  const begun = performance.now();
  await Promise.all(
    opened.map(async ({ ask }) => {
      while (next < count) {
        const n = next++;
        const from = performance.now();
        const problem = await act(ask, n).catch((error) => `number ${n}: ${error.message}`);
        latencies.push(performance.now() - from);
        if (problem !== null) problems.push(problem.slice(0, 300));
      }
    }),
  );
  const seconds = (performance.now() - begun) / 1_000;
  for (const { close } of opened) close();
  for (const problem of problems.slice(0, PROBLEMS_SHOWN)) console.error(`  ${problem}`);
  const sorted = Float64Array.from(latencies).sort();
  return {
    ...{ count, seconds, failed: problems.length, rate: count / seconds },
    ...{ p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99) },
  };
}
