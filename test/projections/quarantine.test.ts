import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { QuarantineCommand } from '../../src/domain/quarantine-language.ts';
import {
  type SenderFilterCommand,
  senderFilter,
  senderFilterStream,
} from '../../src/domain/sender-filter.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { handleCommand } from '../../src/eventlog/handle-command.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import {
  type ProjectedEvent,
  type Projection,
  rebuildProjection,
} from '../../src/projections/projector.ts';
import { quarantineProjection } from '../../src/projections/quarantine.ts';
import { findMessages, type MessageRow } from '../../src/projections/quarantine-list.ts';
import { findSenderFilter, senderFiltersProjection } from '../../src/projections/sender-filters.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { meta } from '../support/events.ts';
import { NOW } from '../support/held-message.ts';
import { discard, finish, hold, reject, release, start, tell } from '../support/quarantine-log.ts';

const RECIPIENTS = { 7: ['r0@d7.example', 'r1@d7.example'], none: ['r2@elsewhere.example'] };
const retrain: QuarantineCommand = { type: 'RequestRetrain', class: 'spam' };
const learned: QuarantineCommand = {
  type: 'FinishRetrain',
  class: 'spam',
  outcome: 'learned',
  status: 200,
};
const discarded: QuarantineCommand = { type: 'FinishDiscard' };

/** Every way that a message can go, where it then is, and what is left to do. */
const LIVES: Readonly<
  Record<string, readonly [state: string, intents: string, ...QuarantineCommand[]]>
> = {
  'just held': ['held', ''],
  'to be released': ['release_requested', 'release', release()],
  'being released': ['release_requested', 'release', release(), start],
  'put off': ['release_requested', 'release', release(), start, finish(1, { 0: 'deferred' })],
  'released in two tries': [
    ...(['released', '', release(), start, finish(1, { 0: 'accepted', 1: 'unknown' })] as const),
    ...[start, finish(2, { 1: 'accepted', 2: 'accepted' })],
  ],
  'released in two parts': [
    ...(['released', '', release([0]), start, finish(1, { 0: 'accepted' })] as const),
    ...[release(), start, finish(1, { 1: 'accepted', 2: 'accepted' })],
  ],
  'released in part': ['held', '', release([0]), start, finish(1, { 0: 'accepted' })],
  refused: [
    ...(['release_failed', '', release(), start] as const),
    finish(1, { 0: 'accepted', 1: 'refused', 2: 'accepted' }),
  ],
  'without a route': ['release_failed', '', release(), start, finish(1, {}, 'no_route')],
  'cut off once': ['release_requested', 'release', release(), start, start],
  'to be discarded': ['discard_requested', 'discard', discard],
  discarded: ['discarded', '', discard, discarded],
  'to be rejected': ['reject_requested', 'reject', reject],
  'rejected late': [
    ...(['rejected', '', reject, start, finish(1, { 0: 'deferred' })] as const),
    ...[start, finish(2, { 0: 'accepted' })],
  ],
  'not rejected': ['held', '', reject, start, finish(1, { 0: 'refused' })],
  'to be taught': ['held', 'retrain/1', retrain],
  'taught after its end': ['discarded', '', discard, discarded, retrain, learned],
  'taught and to be discarded': ['discard_requested', 'discard,retrain/1', retrain, discard],
  expired: ['expired', '', { type: 'Expire' }],
  vanished: ['vanished', '', { type: 'Vanish' }],
  'vanished while it was to be released': ['vanished', '', release(), { type: 'Vanish' }],
};

let database: TestDatabase;
let pool: pg.Pool;
let log: EventLog;
let events: readonly ProjectedEvent[];
const ids = new Map<string, string>();
beforeAll(async () => {
  database = await createDatabase();
  ({ pool } = database);
  log = await database.openLog();
  for (const [name, [, , ...commands]] of Object.entries(LIVES)) {
    const id = await hold(log, { recipients: RECIPIENTS, sender: `${ids.size}@spam.example` });
    ids.set(name, id);
    for (const command of commands) await tell(log, id, command);
  }
  await liveThroughFilters();
  const { position } = await log.head();
  const page = await log.readAll({ after: 0n, until: position, filter: {}, limit: 10_000 });
  events = page.events.map((stored) => ({ event: readLine(stored.line), stored }));
});
afterAll(() => database.drop());

async function liveThroughFilters(): Promise<void> {
  const created: SenderFilterCommand = {
    type: 'CreateSenderFilter',
    data: {
      kind: 'block',
      scope: 'recipient',
      mail_domain: '7',
      expires_at: NOW,
      made_by: ids.get('discarded') ?? null,
    },
    sender: '@spam.example',
    recipient: 'r0@d7.example',
  };
  const ends: (SenderFilterCommand | null)[] = [
    null,
    { type: 'DeleteSenderFilter' },
    { type: 'ExpireSenderFilter', now: NOW },
    null,
  ];
  for (const [index, end] of ends.entries()) {
    const id = String(index + 1);
    for (const command of end === null ? [created] : [created, end]) {
      await handleCommand(log, senderFilter, {
        stream: senderFilterStream(id),
        resource: { type: 'sender_filter', id },
        mailDomains: ['7'],
        command,
        meta,
        commandId: randomUUID(),
      });
    }
  }
}

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
      await projection.clear(db);
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

  it('gives the same rows when it is rebuilt', async () => {
    const once = await applyAll([relevant()]);
    await rebuildProjection({ pool, log }, projection);
    expect(await readRows(rows)).toEqual(once);
  });
});

/** Its first event alone, with nothing of it disclosed any more. */
async function applyErased(projection: Projection): Promise<void> {
  const first = events.find(({ event }) => projection.types.includes(event.type));
  if (first === undefined) throw new Error('no event');
  const db = await pool.connect();
  try {
    await projection.clear(db);
    await projection.apply(db, [{ ...first, stored: { ...first.stored, disclosures: '' } }]);
  } finally {
    db.release();
  }
}

describe('the quarantine', () => {
  beforeAll(() => rebuildProjection({ pool, log }, quarantineProjection));

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

  it.each(Object.entries(LIVES))('knows one that is %s', async (life, [state, intents]) => {
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
    await rebuildProjection({ pool, log }, quarantineProjection);
  });
});

describe('the sender filters', () => {
  it('are those that have not ended, with whom they are about', async () => {
    await rebuildProjection({ pool, log }, senderFiltersProjection);
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
