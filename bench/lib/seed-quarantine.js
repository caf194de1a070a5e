import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { commandIdOf, toAppend } from '../../dist/eventlog/handle-command.js';
import { recipientsMember } from '../../dist/projections/quarantine.js';
import { connect, openLog, startDatabase } from './database.js';
import { namingEvent } from './events.js';
import { startGateway } from './gateway.js';
import { pause } from './run.js';

/**
 * What held messages are found by, the same in a quarantine of any size: of every hundred consecutive
 * messages as many match as the share says. Each mark is on messages of its own but for the pairs.
 */
export const MARKS = {
  domain: { share: 0.1, id: 1 },
  sender: { share: 0.02, address: 'news@marked-sender.example' },
  senderDomain: { share: 0.02, name: 'marked-domain.example' },
  recipient: { share: 0.02, address: 'marked@d3.example.com', mailDomain: 3 },
  symbol: { share: 0.02, name: 'MARKED_SYMBOL' },
  reason: { share: 0.02, name: 'sandbox' },
  released: { share: 0.02 },
  /** A sender's domain that every tenth message has, a fifth of them in this mail domain. */
  pair: { share: 0.02, senderDomain: 'pair.example', mailDomain: 2 },
  /** Where every message is. */
  node: 'n1',
  /** A symbol and a mail domain that a tenth each have, and nearly none both. */
  apart: { symbol: 'APART', mailDomain: 1, every: 100_000 },
  minScore: { share: 0.02, score: 30 },
  subject: { share: 0.01, text: 'overdue invoice' },
};

const OTHER_DOMAINS = 20;
const FIRST_OTHER = 10;
const SYMBOLS = 60;
const SYMBOLS_EACH = 6;
const OTHER_REASONS = ['spam', 'spam', 'spam', 'spam', 'phishing', 'rbl', 'policy'];
const WORDS = ['offer', 'newsletter', 'report', 'reminder', 'agenda', 'contract', 'photos'];
const FIRST_AT_MS = Date.parse('2026-04-01T00:00:00Z');
const APART_MS = 2_000;
/** So long that no retention ends one while it is being looked for. */
const RETENTION_MS = 3_650 * 86_400_000;
/** Commands of a hundred events each: what is measured afterwards is folding and reading. */
const COMMAND_EVENTS = 100;
const IN_FLIGHT = 20;
const PROJECTED_MS_MAX = 700_000;
const STARTS_MAX = 3;
const LOOK_MS = 100;

/** When the n-th message arrived; two never at the same time. */
export const arrivedAtMs = (n) => FIRST_AT_MS + n * APART_MS;

/**
 * A gateway whose quarantine lists `count` messages, on a database of its own; a shared directory that holds it is
 * used again. `projected` tells how long the read models took when it was seeded.
 */
export async function startHeld(run, count) {
  const name = `quarantine-${count}`;
  const dataDir = run.sharedDir(name) ?? run.workDir(name);
  const { url } = await startDatabase(run.defer, dataDir);
  const db = await connect(url);
  run.defer(() => db.end());
  const figures = join(dataDir, 'projected.json');
  if (!existsSync(figures)) {
    const { rows } = await db.query('select count(*) as events from eventlog.events');
    if (Number(rows[0].events) > 0) {
      throw new Error(`${dataDir} was not seeded to its end: remove it and begin anew`);
    }
    const seeded = await seed(db, url, count);
    const projected = await project(db, settingsOf(url, dataDir), seeded);
    writeFileSync(figures, JSON.stringify(projected));
  }
  const gateway = await startGateway({ settings: settingsOf(url, dataDir) });
  run.defer(gateway.stop);
  return { db, gateway, count, projected: JSON.parse(readFileSync(figures, 'utf8')) };
}

const settingsOf = (url, dataDir) => ({
  MAILGUARD_DATABASE_URL: url,
  MAILGUARD_DATA_DIR: join(dataDir, 'gateway'),
});

/** Appends through the event log itself: first every message, then what was released of them. */
async function seed(db, url, count) {
  console.log(`  seeding ${count} held messages …`);
  const begun = performance.now();
  const stops = [];
  const log = await openLog((stop) => stops.push(stop), url);
  const names = [1, 2, 3, ...Array.from({ length: OTHER_DOMAINS }, (_, i) => FIRST_OTHER + i)];
  for (const id of names) {
    const events = [namingEvent('mail_domain', id, `d${id}.example.com`)];
    await append(log, { stream: `bench-mail_domain-${id}`, expected: 'none', events });
  }
  await inCommands(count, async (from, numbers) => {
    await append(log, {
      stream: `seed-${from}`,
      expected: 'none',
      events: numbers.map((n) => addedEvent(n)),
    });
  });
  const { position: added } = await log.head();
  await inCommands(count, async (from, numbers) => {
    const events = numbers.filter(isReleased).map((n) => releasedEvent(n));
    if (events.length > 0)
      await append(log, { stream: `seed-${from}`, expected: 'exists', events });
  });
  const { position: head } = await log.head();
  for (const stop of stops) await stop();
  for (const table of ['events', 'event_personal', 'event_mail_domains']) {
    await db.query(`vacuum (analyze) eventlog.${table}`);
  }
  await db.query('checkpoint');
  console.log(`  seeded in ${Math.round((performance.now() - begun) / 1_000)} s`);
  return { added: Number(added), head: Number(head) };
}

/** Calls for every hundred numbers, some calls at once. */
async function inCommands(count, act) {
  let next = 0;
  async function caller() {
    while (next < count) {
      const from = next;
      next += COMMAND_EVENTS;
      const length = Math.min(COMMAND_EVENTS, count - from);
      await act(
        from,
        Array.from({ length }, (_, i) => from + i),
      );
    }
  }
  await Promise.all(Array.from({ length: IN_FLIGHT }, caller));
}

async function append(log, command) {
  const { kind } = await log.append(command);
  if (kind !== 'appended') throw new Error(`not appended: ${kind}`);
}

/** Starts the gateway on the new log, and watches how its read model of the quarantine follows. */
async function project(db, settings, { added, head }) {
  console.log(`  projecting ${head} events …`);
  const watched = watchProjecting(db, { added, head });
  // Where no start succeeds, that is what is told.
  watched.catch(() => undefined);
  const begun = performance.now();
  const gateway = await startPatiently(settings);
  const readySeconds = (performance.now() - begun) / 1_000;
  const found = await watched;
  await gateway.stop();
  for (const table of ['quarantined_messages', 'quarantine_terms']) {
    await db.query(`vacuum (analyze) ${table}`);
  }
  await db.query('checkpoint');
  const { rows } = await db.query(`
    select (select count(*) from quarantine_terms) as terms,
      pg_total_relation_size('quarantine_terms') as terms_bytes,
      pg_total_relation_size('quarantined_messages') as messages_bytes`);
  return {
    ...{ at: new Date().toISOString(), load: loadavg()[0], readySeconds, ...found },
    ...Object.fromEntries(Object.entries(rows[0]).map(([name, value]) => [name, Number(value)])),
  };
}

/** On a busy machine a start may give up on its read models; the next one goes on from where they are. */
async function startPatiently(settings) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await startGateway({ settings, readyMs: PROJECTED_MS_MAX });
    } catch (error) {
      if (tries === STARTS_MAX) throw error;
      console.log(`  once more: ${error.message}`);
    }
  }
}

/** Seconds for the messages and for the releases, from the first page that was there to the last. */
async function watchProjecting(db, { added, head }) {
  const until = performance.now() + STARTS_MAX * PROJECTED_MS_MAX;
  let begun = null;
  let first = 0;
  let addedSeconds = null;
  while (performance.now() < until) {
    await pause(LOOK_MS);
    const position = await positionOf(db);
    const now = performance.now();
    if (position === 0) continue;
    if (begun === null) [begun, first] = [now, position];
    if (position >= added) addedSeconds ??= (now - begun) / 1_000;
    if (position < head) continue;
    const releasedSeconds = (now - begun) / 1_000 - addedSeconds;
    return { added: added - first, addedSeconds, released: head - added, releasedSeconds };
  }
  throw new Error('the read models do not follow the log');
}

async function positionOf(db) {
  const { rows } = await db.query(
    "select position from projection_checkpoints where name = 'quarantine'",
  );
  return Number(rows[0]?.position ?? 0);
}

const isReleased = (n) => n % 50 === 11;
const idOf = (n) => commandIdOf(arrivedAtMs(n), `bench/${n}`);
const timestamp = (ms) => `${new Date(ms).toISOString().slice(0, -1)}000Z`;

/** As `src/api/routes/quarantine-ingest.ts` records a message that was handed in. */
function addedEvent(n) {
  const groups = groupsOf(n);
  const at = arrivedAtMs(n);
  const data = {
    node_id: MARKS.node,
    queue_id: n.toString(16).toUpperCase().padStart(12, '0'),
    store: 'spool',
    size_bytes: 2_000 + ((n * 977) % 60_000),
    sha256: n.toString(16).padStart(64, '0'),
    score: n % 50 === 12 ? MARKS.minScore.score : (n % 2_000) / 100,
    symbols: symbolsOf(n),
    reason: n % 50 === 9 ? MARKS.reason.name : OTHER_REASONS[n % OTHER_REASONS.length],
    arrived_at: timestamp(at),
    expires_at: timestamp(at + RETENTION_MS),
    recipients_of: groups.map(({ mailDomain, addresses }) => ({
      mail_domain: String(mailDomain),
      count: addresses.length,
    })),
  };
  const personal = [
    { name: 'sender', value: senderOf(n), class: 'content' },
    { name: 'subject', value: subjectOf(n), class: 'content' },
    { name: 'message_id', value: `<${n}.${at}@mail.sender.example>`, class: 'content' },
    { name: 'client_ip', value: `192.0.2.${n % 250}`, class: 'network' },
    ...groups.map(({ mailDomain, addresses }) => ({
      ...{ name: recipientsMember(String(mailDomain)), value: addresses, class: 'content' },
    })),
  ];
  return toAppend({ type: 'quarantine.added', data, personal }, callOf(n, groups, 'added'));
}

function releasedEvent(n) {
  const [recipient] = groupsOf(n)[0].addresses;
  const data = { attempt: 1, results: [{ recipient: 0, outcome: 'accepted', code: 250 }] };
  const replies = [{ recipient, server: 'mx.example.com:25', reply: '250 2.0.0 OK' }];
  const personal = [{ name: 'replies', value: replies, class: 'content' }];
  return toAppend({ type: 'quarantine.released', data, personal }, callOf(n, groupsOf(n), 'end'));
}

const callOf = (n, groups, step) => ({
  resource: { type: 'quarantined_message', id: idOf(n) },
  mailDomains: groups.map(({ mailDomain }) => String(mailDomain)),
  commandId: idOf(n),
  step,
  meta: {
    actor: { type: 'api_key', id: '1' },
    source: { node: MARKS.node, ip: '192.0.2.1', userAgent: 'rspamd-3.8' },
    requestId: null,
    correlationId: `c-${n}`,
    causationId: null,
    outcome: 'success',
    occurredAt: timestamp(arrivedAtMs(n)),
  },
});

function groupsOf(n) {
  const mailDomain = mailDomainOf(n);
  const own = { mailDomain, addresses: [`user${n % 5_000}@d${mailDomain}.example.com`] };
  if (n % 50 !== 13) return [own];
  // In a mail domain of a lower number, whose recipients come first.
  const { mailDomain: marked, address } = MARKS.recipient;
  return [{ mailDomain: marked, addresses: [address] }, own];
}

function mailDomainOf(n) {
  if (n % 10 === 6 || n % MARKS.apart.every === 14) return MARKS.domain.id;
  if (n % 50 === 3) return MARKS.pair.mailDomain;
  return FIRST_OTHER + (n % OTHER_DOMAINS);
}

function senderOf(n) {
  if (n % 50 === 1) return MARKS.sender.address;
  if (n % 50 === 2) return `x${n % 1_000}@${MARKS.senderDomain.name}`;
  if (n % 10 === 3) return `y${n % 1_000}@${MARKS.pair.senderDomain}`;
  return `s${n % 20_011}@d${n % 499}.sender.example`;
}

function symbolsOf(n) {
  const symbols = Array.from(
    { length: SYMBOLS_EACH },
    (_, i) => `SYMBOL_${(n + i * 11) % SYMBOLS}`,
  );
  if (n % 50 === 7) symbols.push(MARKS.symbol.name);
  if (n % 10 === 4) symbols.push(MARKS.apart.symbol);
  return symbols;
}

function subjectOf(n) {
  const what = n % 100 === 17 ? MARKS.subject.text : WORDS[n % WORDS.length];
  return `Re: your ${what} no. ${n} as discussed on the phone`;
}
