import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import type { ProjectedEvent, Projection } from '../../src/projections/projection.ts';
import { quarantineProjection } from '../../src/projections/quarantine.ts';
import { findMessages, type MessageRow } from '../../src/projections/quarantine-list.ts';
import { findSenderFilter, senderFiltersProjection } from '../../src/projections/sender-filters.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { NOW } from '../support/held-message.ts';
import { clearTables, foldAnew } from '../support/projecting.ts';
import {
  liveThroughFilters,
  liveThroughMessages,
  MESSAGE_LIVES,
  RECIPIENTS,
} from '../support/quarantine-lives.ts';

let database: TestDatabase;
let pool: pg.Pool;
let log: EventLog;
let events: readonly ProjectedEvent[];
let ids: ReadonlyMap<string, string>;
beforeAll(async () => {
  database = await createDatabase();
  ({ pool } = database);
  log = await database.openLog();
  ids = await liveThroughMessages(log);
  await liveThroughFilters(log, ids.get('discarded') ?? null);
  const { position } = await log.head();
  const page = await log.readAll({ after: 0n, until: position, filter: {}, limit: 10_000 });
  events = page.events.map((stored) => ({ event: readLine(stored.line), stored }));
});
afterAll(() => database.drop());

const QUARANTINE_ROWS = [
  'select * from quarantined_messages order by id',
  'select * from quarantine_terms order by term, is_open, message_id',
  'select * from quarantine_intents order by message_id, kind',
];
const CASES: readonly Readonly<{
  projection: Projection;
  rows: readonly string[];
  leastRows: number;
}>[] = [
  { projection: quarantineProjection, rows: QUARANTINE_ROWS, leastRows: 200 },
  {
    projection: senderFiltersProjection,
    rows: ['select * from sender_filters order by id'],
    leastRows: 2,
  },
];

async function readRows(sqls: readonly string[]): Promise<unknown[]> {
  const found: unknown[] = [];
  for (const sql of sqls) found.push(...(await pool.query(sql)).rows);
  return found;
}

describe.each(CASES)('$projection.name', ({ projection, rows, leastRows }) => {
  const relevant = () => events.filter(({ event }) => projection.types.includes(event.type));

  async function applyAll(pages: readonly (readonly ProjectedEvent[])[]): Promise<unknown[]> {
    const db = await pool.connect();
    try {
      await clearTables(db, projection);
      for (const page of pages) await projection.apply(db, page);
    } finally {
      db.release();
    }
    return readRows(rows);
  }

  it('gives the same rows event by event, page by page, and every event twice', async () => {
    const once = await applyAll([relevant()]);
    expect(once.length).toBeGreaterThanOrEqual(leastRows);
    expect(await applyAll(relevant().map((event) => [event]))).toEqual(once);
    expect(await applyAll(relevant().map((event) => [event, event]))).toEqual(once);
    expect(await applyAll([relevant(), relevant()])).toEqual(once);
  });

  it('gives the same rows when its runner folds it', async () => {
    const once = await applyAll([relevant()]);
    await foldAnew({ pool, log }, projection);
    expect(await readRows(rows)).toEqual(once);
  });
});

/** Its first event alone, with nothing of it disclosed any more. */
async function applyErased(projection: Projection): Promise<void> {
  const first = events.find(({ event }) => projection.types.includes(event.type));
  if (first === undefined) throw new Error('no event');
  const db = await pool.connect();
  try {
    await clearTables(db, projection);
    await projection.apply(db, [{ ...first, stored: { ...first.stored, disclosures: '' } }]);
  } finally {
    db.release();
  }
}

describe('the quarantine', () => {
  beforeAll(() => foldAnew({ pool, log }, quarantineProjection));

  const messageOf = async (life: string): Promise<MessageRow> => {
    const [row] = await findMessages(pool, [ids.get(life) ?? '']);
    if (row === undefined) throw new Error(`no message that was ${life}`);
    return row;
  };

  it('applies any event of a message again, whatever came after it', async () => {
    const once = await readRows(QUARANTINE_ROWS);
    const db = await pool.connect();
    try {
      // Backwards, so that one that was forgotten to be old would be the last word.
      for (const projected of events.toReversed()) {
        if (!quarantineProjection.types.includes(projected.event.type)) continue;
        await quarantineProjection.apply(db, [projected]);
      }
    } finally {
      db.release();
    }
    expect(await readRows(QUARANTINE_ROWS)).toEqual(once);
  });

  it.each(Object.entries(MESSAGE_LIVES))('knows one that is %s', async (life, [state, intents]) => {
    expect((await messageOf(life)).state).toBe(state);
    const { rows } = await pool.query<{ kind: string }>(
      'select kind from quarantine_intents where message_id = $1 order by kind',
      [ids.get(life)],
    );
    expect(rows.map(({ kind }) => kind).join()).toBe(intents);
  });

  it('has the terms of open messages apart from those of closed ones', async () => {
    const { rows } = await pool.query<{ id: string; is_open: boolean; flags: boolean[] }>(
      `select m.id, m.is_open, array_agg(distinct t.is_open) as flags, count(*) as terms
       from quarantined_messages m left join quarantine_terms t on t.message_id = m.id
       group by m.id`,
    );
    expect(rows).toHaveLength(ids.size);
    for (const { is_open, flags } of rows) expect(flags).toEqual([is_open]);
  });

  it('tells how each recipient fared last, and by which server', async () => {
    const { results, recipients } = await messageOf('released in two tries');
    expect(recipients).toEqual([
      { mail_domain: 7, addresses: RECIPIENTS[7] },
      { mail_domain: null, addresses: RECIPIENTS.none },
    ]);
    const fared = (outcome: string, code: number | null, reply: string) =>
      expect.objectContaining({ outcome, code, reply, server: '192.0.2.25:25' });
    expect(results).toEqual({
      0: fared('accepted', 250, 'reply 1.0'),
      1: fared('accepted', 250, 'reply 2.1'),
      2: fared('accepted', 250, 'reply 2.2'),
    });
    // A bounce is no delivery to a recipient.
    expect((await messageOf('rejected late')).results).toEqual({});
  });

  it('puts an action off until its time', async () => {
    const { rows } = await pool.query<{ due: string }>(
      'select extract(epoch from due_at)::int as due from quarantine_intents where message_id = $1',
      [ids.get('put off')],
    );
    expect(rows).toEqual([{ due: Date.parse(NOW) / 1_000 + 5 }]);
  });

  it('keeps what is left of one whose envelope was erased', async () => {
    await applyErased(quarantineProjection);
    expect(await messageOf('just held')).toMatchObject({
      sender: null,
      subject: null,
      recipients: [
        { mail_domain: 7, addresses: [] },
        { mail_domain: null, addresses: [] },
      ],
    });
    await foldAnew({ pool, log }, quarantineProjection);
  });
});

describe('the sender filters', () => {
  it('are those that have not ended, with whom they are about', async () => {
    await foldAnew({ pool, log }, senderFiltersProjection);
    const found = await Promise.all([1, 2, 3, 4].map((id) => findSenderFilter(pool, id)));
    expect(found.map((row) => row?.id ?? null)).toEqual([1, null, null, 4]);
    expect(found[0]).toMatchObject({
      kind: 'block',
      scope: 'recipient',
      mailDomain: 7,
      sender: '@spam.example',
      recipient: 'r0@d7.example',
      expiresAt: NOW,
      madeBy: ids.get('discarded'),
    });
  });

  it('are nobody’s when the sender was erased', async () => {
    await applyErased(senderFiltersProjection);
    expect(await findSenderFilter(pool, 1)).toBeNull();
  });
});
