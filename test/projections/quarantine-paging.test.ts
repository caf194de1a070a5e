import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { type Projector, startProjector } from '../../src/projections/projector.ts';
import { quarantineProjection } from '../../src/projections/quarantine.ts';
import {
  type ListPlace,
  type MessageSearch,
  SCAN_MESSAGES_MAX,
  searchMessages,
} from '../../src/projections/quarantine-list.ts';
import { term } from '../../src/projections/quarantine-terms.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { discard, hold, tell } from '../support/quarantine-log.ts';

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
const MESSAGES = 40;

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

/** A moment of 1 May; several messages share one. */
const at = (minute: number): string =>
  `2026-05-01T07:${String(minute).padStart(2, '0')}:00.000000Z`;
const leave = async (id: string) => {
  await tell(log, id, discard);
  await tell(log, id, { type: 'FinishDiscard' });
};

/** Ways to search, each with all the messages of a node in it. */
const SEARCHES: Readonly<Record<string, (node: string) => Partial<MessageSearch>>> = {
  'by one term': (node) => ({ terms: [term.node(node)] }),
  'by several terms': (node) => ({ terms: [term.domain(7), term.node(node), term.reason('spam')] }),
  'by part of the subject': (node) => ({ subject: `of ${node}` }),
  'of any state': (node) => ({ isOpen: null, terms: [term.node(node)] }),
};

describe.each(Object.entries(SEARCHES))('paging %s', (name, toSearch) => {
  const node = name.replaceAll(' ', '-');
  const search = { ...ALL, ...toSearch(node) };
  const mail = (minute: number) => ({
    node_id: node,
    subject: `Mail of ${node}.`,
    arrived_at: at(minute),
  });
  const isAny = search.isOpen === null;
  let ids: string[];
  beforeAll(async () => {
    ids = [];
    for (let n = 0; n < MESSAGES; n += 1) ids.push(await hold(log, mail(20 + Math.floor(n / 3))));
    await caughtUp();
  });

  async function* pages(limit: number): AsyncGenerator<readonly string[]> {
    let after: ListPlace | null = null;
    for (let page = 0; page <= MESSAGES * 3; page += 1) {
      const found = await searchMessages(pool, search, { after, offset: 0, limit });
      yield found.rows.map(({ id }) => id);
      if (found.next === null) return;
      after = found.next;
    }
    throw new Error('it never ends');
  }
  const whole = async () => {
    const { rows } = await searchMessages(pool, search, { after: null, offset: 0, limit: 1_000 });
    return rows.map(({ id }) => id);
  };

  it.each([1, 2, 3, 7, MESSAGES - 1, MESSAGES, MESSAGES + 1])(
    '%i at a time gives all, once',
    async (limit) => {
      const seen: string[] = [];
      for await (const page of pages(limit)) {
        expect(page.length).toBeLessThanOrEqual(limit);
        seen.push(...page);
      }
      expect(seen).toEqual(await whole());
      expect(seen.toSorted()).toEqual(ids.toSorted());
    },
  );

  it.each([0, 1, 5, MESSAGES - 1, MESSAGES, MESSAGES + 5])('%i left out', async (offset) => {
    const found = await searchMessages(pool, search, { after: null, offset, limit: 3 });
    expect(found.rows.map(({ id }) => id)).toEqual((await whole()).slice(offset, offset + 3));
    expect(found.next === null).toBe(offset + 3 >= MESSAGES);
  });

  it('loses and repeats none while messages arrive and leave', async () => {
    const seen: string[] = [];
    const left = new Set<string>();
    const late: string[] = [];
    for await (const page of pages(4)) {
      seen.push(...page);
      // One that was seen leaves, one that was not, and the very last one of the page.
      const ahead = ids.find((id) => !seen.includes(id) && !left.has(id));
      for (const id of [seen[0], page.at(-1), ahead]) {
        if (id === undefined || left.has(id)) continue;
        left.add(id);
        await leave(id);
      }
      // The newest of all, which no later page shows, and one behind what was seen, which one must.
      await hold(log, mail(59));
      if (late.length < 3) late.push(await hold(log, mail(10)));
      await caughtUp();
    }
    expect(new Set(seen).size).toBe(seen.length);
    const stayed = ids.filter((id) => !left.has(id));
    expect(stayed.length).toBeGreaterThan(5);
    expect(stayed.filter((id) => !seen.includes(id))).toEqual([]);
    expect(late.filter((id) => !seen.includes(id))).toEqual([]);
    // What left is shown by those that ask for any state, and by nobody else who had not seen it yet.
    const unseen = [...left].filter((id) => !seen.includes(id));
    expect(unseen.length > 0).toBe(!isAny);
  });
});

describe('a search that looks at too much', () => {
  const search = { ...ALL, isOpen: false, subject: 'needle' };

  it('answers with what it has, and goes on behind what it has looked at', async () => {
    // It looks at whole batches, so at some more than that.
    await fill(SCAN_MESSAGES_MAX + 30_000);
    const [newest, oldest] = [await needle(3), await needle(2_000_000)];
    const first = await searchMessages(pool, search, { after: null, offset: 0, limit: 10 });
    expect(first.rows.map(({ id }) => id)).toEqual([newest]);
    expect(first.next).not.toBeNull();
    const seen: string[] = [];
    let after: ListPlace | null = first.next;
    while (after !== null) {
      const page = await searchMessages(pool, search, { after, offset: 0, limit: 10 });
      seen.push(...page.rows.map(({ id }) => id));
      after = page.next;
    }
    expect(seen).toEqual([oldest]);
  });

  it('stops where it has enough', async () => {
    const page = { after: null, offset: 0, limit: 1 };
    const found = await searchMessages(pool, { ...search, subject: 'hay' }, page);
    expect(found.rows).toHaveLength(1);
    expect(found.next).toEqual({ arrivedAt: found.rows[0]?.arrivedAt, id: found.rows[0]?.id });
  });

  const COLUMNS = `(id, revision, state, is_open, node_id, queue_id, sender, recipients, subject,
    symbols, reason, size_bytes, arrived_at, expires_at, mail_domains)`;
  const row = (subject: string) => `gen_random_uuid(), 0, 'expired', false, 'hay', 'q', '', '[]',
    '${subject}', '{}', 'spam', 1, timestamptz '2026-04-01Z' - make_interval(secs => n), now(), '{}'`;
  const fill = (count: number) =>
    pool.query(
      `insert into quarantined_messages ${COLUMNS}
      select ${row('hay')} from generate_series(1, $1::int) n`,
      [count],
    );

  async function needle(second: number): Promise<string> {
    const { rows } = await pool.query<{ id: string }>(
      `insert into quarantined_messages ${COLUMNS}
       select ${row('needle')} from (values ($1::int)) v (n) returning id`,
      [second],
    );
    return rows[0]?.id ?? randomUUID();
  }
});
