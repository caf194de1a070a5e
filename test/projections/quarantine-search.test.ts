import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OPEN_STATES, STATES } from '../../src/domain/quarantined-message.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { type Projector, startProjector } from '../../src/projections/projector.ts';
import { quarantineProjection } from '../../src/projections/quarantine.ts';
import {
  type ListPlace,
  type MessageRow,
  type MessageSearch,
  searchMessages,
} from '../../src/projections/quarantine-list.ts';
import { term } from '../../src/projections/quarantine-terms.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import {
  discard,
  finish,
  hold,
  type Mail,
  reject,
  release,
  start,
  tell,
} from '../support/quarantine-log.ts';

const ALL: MessageSearch = {
  isOpen: true,
  terms: [],
  since: null,
  until: null,
  states: null,
  reasons: null,
  minScore: null,
  maxScore: null,
  expiresBefore: null,
  subject: null,
  text: null,
  recipientOf: null,
};
const FIRST = { after: null, offset: 0, limit: 1_000 };

let database: TestDatabase;
let pool: pg.Pool;
let log: EventLog;
let projector: Projector;
beforeAll(async () => {
  database = await createDatabase();
  ({ pool } = database);
  log = await database.openLog();
  const logger = { warn: () => undefined, error: () => undefined };
  projector = await startProjector({ pool, log, logger }, [quarantineProjection]);
});
afterAll(async () => {
  await projector.stop();
  await database.drop();
});
const caughtUp = async () => projector.caughtUp((await log.head()).position);

/** A second of 1 May; times have six digits. */
const at = (second: number, micros = 0): string =>
  `2026-05-01T07:${String(Math.floor(second / 60)).padStart(2, '0')}:${String(second % 60).padStart(2, '0')}.${String(micros).padStart(6, '0')}Z`;
/** Marks the messages of one test, so that it sees no others. */
const markOf = (name: string) => term.node(name);

/** Holds mails under names, from the first to the last; gives back the names of rows. */
async function holdAll<Name extends string>(
  node: string,
  mails: Readonly<Record<Name, Mail>>,
): Promise<{ ids: Record<Name, string>; namesOf: (rows: readonly MessageRow[]) => string[] }> {
  const ids = {} as Record<Name, string>;
  let second = 0;
  for (const name of Object.keys(mails) as Name[]) {
    ids[name] = await hold(log, { node_id: node, arrived_at: at(second), ...mails[name] });
    second += 1;
  }
  await caughtUp();
  const names = new Map(Object.entries<string>(ids).map(([name, id]) => [id, name]));
  return { ids, namesOf: (rows) => rows.map(({ id }) => names.get(id) ?? id) };
}

describe('exact terms', () => {
  const node = 'terms';
  let namesOf: (rows: readonly MessageRow[]) => string[];
  beforeAll(async () => {
    ({ namesOf } = await holdAll(node, {
      a: { sender: 'Bob@Spam.Example', symbols: ['BAYES_SPAM', 'X'], reason: 'spam' },
      b: { sender: 'eve@spam.example', symbols: ['X'], recipients: { 8: ['Ann@d8.example'] } },
      c: { sender: '', symbols: [], reason: 'virus', recipients: { none: ['jo@x.example'] } },
      d: {
        sender: 'bob@spam.example.org',
        recipients: { 7: ['jo@d7.example'], 8: ['jo@d8.example'] },
      },
    }));
  });
  const find = async (...terms: string[]) =>
    namesOf((await searchMessages(pool, { ...ALL, terms: [...terms, markOf(node)] }, FIRST)).rows);

  it.each<[string, string, string]>([
    ['node', term.node(node), 'd,c,b,a'],
    ['mail domain', term.domain(7), 'd,a'],
    ['another mail domain', term.domain(8), 'd,b'],
    ['sender, in any case', term.sender('BOB@spam.example'), 'a'],
    ['domain of a sender', term.senderDomain('SPAM.example'), 'b,a'],
    ['recipient, in any case', term.recipient('ann@D8.example'), 'b'],
    ['recipient in no mail domain', term.recipient('jo@x.example'), 'c'],
    ['symbol', term.symbol('X'), 'b,a'],
    ['symbol in another case', term.symbol('x'), ''],
    ['reason', term.reason('virus'), 'c'],
    ['null sender', term.sender(''), 'c'],
    ['part of an address', term.sender('bob@spam'), ''],
    ['nothing like it', term.domain(9), ''],
  ])('by %s', async (_, one, names) => {
    expect((await find(one)).join()).toBe(names);
  });

  it('that must all be there, in whatever order', async () => {
    const both = [term.symbol('X'), term.domain(8)];
    expect(await find(...both)).toEqual(['b']);
    expect(await find(...both.toReversed())).toEqual(['b']);
    expect(await find(...both, term.sender('eve@spam.example'))).toEqual(['b']);
    expect(await find(...both, term.reason('virus'))).toEqual([]);
  });

  it('of a narrowed caller: recipients of its own mail domain alone', async () => {
    const search = async (mailDomain: number, address: string) => {
      const terms = [term.recipient(address), term.domain(mailDomain), markOf(node)];
      const recipientOf = { mailDomain, address };
      return namesOf((await searchMessages(pool, { ...ALL, terms, recipientOf }, FIRST)).rows);
    };
    expect(await search(7, 'JO@d7.example')).toEqual(['d']);
    expect(await search(8, 'jo@d8.example')).toEqual(['d']);
    expect(await search(8, 'ann@d8.example')).toEqual(['b']);
    // It would learn that a message it knows also went to somebody else.
    expect(await search(7, 'jo@d8.example')).toEqual([]);
    expect(await search(8, 'jo@d7.example')).toEqual([]);
  });
});

describe('states', () => {
  const node = 'states';
  let namesOf: (rows: readonly MessageRow[]) => string[];
  beforeAll(async () => {
    const held = await holdAll(node, {
      held: {},
      release_requested: {},
      release_failed: {},
      released: {},
      undelivered: {},
      discard_requested: {},
      discarded: {},
      reject_requested: {},
      rejected: {},
      expired: {},
      vanished: {},
    });
    ({ namesOf } = held);
    const { ids } = held;
    const releases = ['release_requested', 'release_failed', 'released', 'undelivered'] as const;
    for (const name of releases) {
      await tell(log, ids[name], release());
    }
    for (const name of ['release_failed', 'released', 'rejected'] as const) {
      if (name === 'rejected') await tell(log, ids.rejected, reject);
      await tell(log, ids[name], start);
      await tell(
        log,
        ids[name],
        finish(1, { 0: name === 'release_failed' ? 'refused' : 'accepted' }),
      );
    }
    await tell(log, ids.undelivered, start);
    const refused = finish(1, { 0: 'refused' });
    if (refused.type !== 'FinishTransfer') throw new Error(refused.type);
    await tell(log, ids.undelivered, { ...refused, hasLeft: true });
    for (const name of ['discard_requested', 'discarded'] as const)
      await tell(log, ids[name], discard);
    await tell(log, ids.discarded, { type: 'FinishDiscard' });
    await tell(log, ids.reject_requested, reject);
    await tell(log, ids.expired, { type: 'Expire' });
    await tell(log, ids.vanished, { type: 'Vanish' });
    await caughtUp();
  });
  const find = async (wish: Partial<MessageSearch>) => {
    const terms = [...(wish.terms ?? []), markOf(node)];
    return namesOf((await searchMessages(pool, { ...ALL, ...wish, terms }, FIRST)).rows);
  };
  const newestFirst = (states: readonly string[]) =>
    [...STATES.filter((state) => states.includes(state))].toReversed();
  const order = [
    'held',
    'release_requested',
    'release_failed',
    'released',
    'undelivered',
    'discard_requested',
    'discarded',
    'reject_requested',
    'rejected',
    'expired',
    'vanished',
  ];

  it('open, closed, or any', async () => {
    expect(order).toEqual(STATES);
    const closed = STATES.filter((state) => !OPEN_STATES.includes(state));
    expect(await find({ isOpen: true })).toEqual(newestFirst(OPEN_STATES));
    expect(await find({ isOpen: false })).toEqual(newestFirst(closed));
    expect(await find({ isOpen: null })).toEqual(newestFirst(STATES));
  });

  it.each(STATES)('%s alone', async (state) => {
    const isOpen = OPEN_STATES.includes(state);
    expect(await find({ isOpen, states: [state] })).toEqual([state]);
    expect(await find({ isOpen: null, states: [state] })).toEqual([state]);
    // Those that are closed have a term for it.
    const byTerm = await find({ isOpen, terms: [term.state(state)] });
    expect(byTerm).toEqual(isOpen ? [] : [state]);
  });

  it('several, on both sides', async () => {
    const states = ['held', 'released', 'vanished'];
    expect(await find({ isOpen: null, states })).toEqual(newestFirst(states));
  });
});

describe('what is checked per message', () => {
  const node = 'residue';
  let namesOf: (rows: readonly MessageRow[]) => string[];
  beforeAll(async () => {
    ({ namesOf } = await holdAll(node, {
      a: { subject: '100% off', score: 5, reason: 'spam', messageId: 'one@x.example' },
      b: { subject: '100 percent OFF', score: 7.5, reason: 'phishing' },
      c: { subject: 'snake_case', score: null, reason: 'unscanned', sender: 'a_b@x.example' },
      d: { subject: 'snakeXcase', score: -1, reason: 'spam', sender: 'aXb@x.example' },
      e: { subject: 'back\\slash', score: 12, expires_at: '2026-05-02T00:00:00.000000Z' },
      f: { subject: 'Ünïcode ÄÖ', score: 18, messageId: '100%@y.example' },
    }));
  });
  const find = async (wish: Partial<MessageSearch>, terms: readonly string[] = [markOf(node)]) =>
    namesOf((await searchMessages(pool, { ...ALL, terms, ...wish }, FIRST)).rows).join();

  it.each<[string, Partial<MessageSearch>, string]>([
    ['part of a subject', { subject: 'case' }, 'd,c'],
    ['in any case', { subject: 'OfF' }, 'b,a'],
    ['in any case beyond ASCII', { subject: 'ünÏCODE äö' }, 'f'],
    ['a percent sign is one', { subject: '100%' }, 'a'],
    ['a percent sign alone', { subject: '%' }, 'a'],
    ['an underscore is one', { subject: 'e_c' }, 'c'],
    ['a backslash is one', { subject: 'k\\s' }, 'e'],
    ['a backslash before a percent sign', { subject: '\\%' }, ''],
    ['a quote', { subject: "'" }, ''],
    ['in sender, subject or Message-ID', { text: '100%' }, 'f,a'],
    ['an underscore in the sender', { text: 'a_b@' }, 'c'],
    ['the Message-ID', { text: 'ONE@x' }, 'a'],
    ['at least a score', { minScore: 7.5 }, 'f,e,b'],
    ['at most a score', { maxScore: 5 }, 'd,a'],
    ['between scores', { minScore: 5, maxScore: 12 }, 'e,b,a'],
    ['reasons', { reasons: ['phishing', 'unscanned'] }, 'c,b'],
    ['no reason', { reasons: [] }, ''],
    ['expiry', { expiresBefore: '2026-05-31T00:00:00.000000Z' }, 'e'],
    ['expiry, at the very time', { expiresBefore: '2026-05-02T00:00:00.000000Z' }, ''],
    ['since', { since: at(4) }, 'f,e'],
    ['since, a microsecond later', { since: at(4, 1) }, 'f'],
    ['until', { until: at(1) }, 'a'],
    ['until, a microsecond later', { until: at(1, 1) }, 'b,a'],
    ['since and until', { since: at(2), until: at(4) }, 'd,c'],
    ['an empty time', { since: at(4), until: at(4) }, ''],
    ['all at once', { since: at(0), minScore: 0, reasons: ['spam'], subject: '%' }, 'a'],
  ])('%s', async (_, wish, names) => {
    expect(await find(wish)).toBe(names);
  });

  it('also without a term, and with several', async () => {
    expect(await find({ subject: 'snake_case' }, [])).toBe('c');
    const terms = [term.reason('spam'), term.domain(7), markOf(node)];
    expect(await find({ maxScore: 0 }, terms)).toBe('d');
  });
});

describe('messages that arrive at the same moment', () => {
  it('come in the order of their ids, page by page', async () => {
    const node = 'ties';
    const ids: string[] = [];
    for (let n = 0; n < 10; n += 1) ids.push(await hold(log, { node_id: node }));
    await caughtUp();
    const seen: string[] = [];
    let after: ListPlace | null = null;
    do {
      const page = await searchMessages(
        pool,
        { ...ALL, terms: [markOf(node)] },
        { after, offset: 0, limit: 3 },
      );
      seen.push(...page.rows.map(({ id }) => id));
      after = page.next;
    } while (after !== null);
    expect(seen).toEqual(ids.toSorted().toReversed());
  });
});
