import { connect, openLog, startDatabase } from './database.js';
import { anEvent, namingEvent } from './events.js';

/**
 * Who and what the events are about, the same in a log of any size: of every thousand consecutive
 * events one has the `rare` value of each dimension, ten the `some` and a hundred the `many`.
 */
export const SHARES = { many: 10, some: 100, rare: 1_000 };
export const MARKED = {
  actor: { many: 1, some: 2, rare: 3 },
  resource: { many: 1, some: 2, rare: 3 },
  type: { many: 'message.many', some: 'message.some', rare: 'message.rare' },
  mailDomain: { many: 1, some: 2, rare: 3 },
};
const OTHER_ACTORS = 50;
const OTHER_DOMAINS = 20;
const FIRST_OTHER = 10;
/** Commands of a hundred events each: what is measured afterwards is reading. */
const COMMAND_EVENTS = 100;
const IN_FLIGHT = 20;

/**
 * A running database whose log holds at least `events` events; one that a shared directory already holds is
 * used again. Resolves to its URL.
 */
export async function startSeeded({ defer, sharedDir, workDir }, events) {
  const name = `log-${events}`;
  const dataDir = sharedDir(name) ?? workDir(name);
  const { url } = await startDatabase(defer, dataDir);
  const client = await connect(url);
  const { rows } = await client.query(
    'select coalesce(max(position), 0) as head from eventlog.events',
  );
  const head = Number(rows[0].head);
  if (head > 0 && head < events) {
    throw new Error(`${dataDir} was not seeded to its end: remove it and begin anew`);
  }
  if (head === 0) await seed(client, url, events);
  await client.end();
  return { url, dataDir };
}

async function seed(client, url, events) {
  console.log(`  seeding ${events} events …`);
  const begun = performance.now();
  const stops = [];
  const log = await openLog((stop) => stops.push(stop), url);
  await Promise.all(namingCommands().map((command) => log.append(command)));
  let next = 0;
  async function caller() {
    while (next < events) {
      const from = next;
      next += COMMAND_EVENTS;
      const count = Math.min(COMMAND_EVENTS, events - from);
      const list = Array.from({ length: count }, (_, i) => markedEvent(from + i));
      const { kind } = await log.append({ stream: `seed-${from}`, expected: 'none', events: list });
      if (kind !== 'appended') throw new Error(`not appended: ${kind}`);
    }
  }
  await Promise.all(Array.from({ length: IN_FLIGHT }, caller));
  for (const stop of stops) await stop();
  // As after some minutes of rest: hint bits set, visibility map and statistics there.
  await client.query('vacuum (analyze) eventlog.events');
  await client.query('vacuum (analyze) eventlog.event_personal');
  await client.query('vacuum (analyze) eventlog.event_mail_domains');
  await client.query('checkpoint');
  console.log(`  seeded in ${Math.round((performance.now() - begun) / 1_000)} s`);
}

/** Each dimension is shifted by a prime, so that its marked events are not those of another. */
function markedEvent(n) {
  const many = OTHER_ACTORS + FIRST_OTHER;
  return anEvent(n, {
    actor: markOf('actor', n) ?? FIRST_OTHER + (n % OTHER_ACTORS),
    resource: markOf('resource', n + 137) ?? many + n,
    type: markOf('type', n + 271) ?? `message.other${n % 7}`,
    mailDomain: markOf('mailDomain', n + 409) ?? FIRST_OTHER + (n % OTHER_DOMAINS),
  });
}

function markOf(dimension, n) {
  const marks = MARKED[dimension];
  if (n % SHARES.many === 1) return marks.many;
  if (n % SHARES.some === 2) return marks.some;
  if (n % SHARES.rare === 3) return marks.rare;
  return undefined;
}

/** Readers see names, so actors and mail domains have some. */
function namingCommands() {
  const ids = (count) => [1, 2, 3, ...Array.from({ length: count }, (_, i) => FIRST_OTHER + i)];
  const one = (type, id, name) => ({
    stream: `bench-${type}-${id}`,
    expected: 'none',
    events: [namingEvent(type, id, name)],
  });
  return [
    ...ids(OTHER_ACTORS).map((id) => one('operator', id, `Operator ${id}`)),
    ...ids(OTHER_DOMAINS).map((id) => one('mail_domain', id, `d${id}.example.com`)),
  ];
}
