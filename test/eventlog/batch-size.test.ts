import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { APP_ROLE, openClient } from '../../src/db/pool.ts';
import { appender, bytesOf } from '../../src/eventlog/append-batch.ts';
import type { EventLog, EventToAppend } from '../../src/eventlog/eventlog.ts';
import { BATCH_BYTES_MAX } from '../../src/eventlog/group-commit.ts';
import { prepareEvent } from '../../src/eventlog/line.ts';
import { postgresEventLog } from '../../src/eventlog/postgres.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent, meta } from '../support/events.ts';
import { readWhole } from '../support/log-checks.ts';

/** Ids, numbers and the frames of array elements, which are not counted one by one. */
const FRAME_BYTES_MAX = 256;

type Call = Readonly<{ values: readonly (Buffer | string)[] }>;
const sizeOf = ({ values }: Call): number =>
  values.reduce((sum, value) => sum + Buffer.byteLength(value), 0);

const text = fc.string({ unit: 'grapheme', maxLength: 500 });
const events: fc.Arbitrary<EventToAppend> = fc
  .record({ note: text, subject: text, address: text, agent: text, request: text, name: text })
  .map(({ note, subject, address, agent, request, name }) =>
    anEvent({
      data: { note },
      personal: [
        { name: 'subject', value: subject, class: 'content' },
        { name: 'address', value: address, class: 'identity' },
      ],
      names: { name },
      mailDomains: ['7'],
      meta: { ...meta, requestId: request, source: { ...meta.source, userAgent: agent } },
    }),
  );

describe('the size of what is appended', () => {
  it('is every byte that is sent, whatever member it is in', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(events, { minLength: 1, maxLength: 5 }), async (toAppend) => {
        const calls: Call[] = [];
        const { appendBatch } = appender(() => deaf(calls));
        const prepared = toAppend.map((event) => prepareEvent('s-1', event, randomBytes));
        const bytes = bytesOf(prepared);
        await appendBatch([{ stream: 's-1', expected: 'any', events: prepared, bytes }]);
        const [sent] = calls.map(sizeOf);
        expect(sent).toBeGreaterThanOrEqual(bytes);
        expect(sent).toBeLessThanOrEqual(bytes + FRAME_BYTES_MAX * (prepared.length + 1));
      }),
    );
  });
});

describe('a crowd of large commands', () => {
  let database: TestDatabase;
  let log: EventLog;
  const calls: Call[] = [];
  beforeAll(async () => {
    database = await createDatabase();
    log = await postgresEventLog({
      pool: database.pool,
      exportPool: database.pool,
      connect: () => overheard(openClient({ url: database.url, role: APP_ROLE }), calls),
    });
  });
  afterAll(async () => {
    await log.close();
    await database.drop();
  });

  it('is sent in calls within the bound, when what is large is personal and not of ASCII', async () => {
    const subject = 'ü€😀'.repeat(10_000);
    const personal = [{ name: 'subject', value: subject, class: 'content' }] as const;
    await Promise.all(
      Array.from({ length: 60 }, (_, n) =>
        log.append({ stream: `l-${n}`, expected: 'none', events: [anEvent({ personal })] }),
      ),
    );
    const sizes = calls.map(sizeOf);
    const total = sizes.reduce((sum, bytes) => sum + bytes, 0);
    // The control: all of them in one call would have been above the bound.
    expect(total).toBeGreaterThan(BATCH_BYTES_MAX);
    for (const bytes of sizes) expect(bytes).toBeLessThanOrEqual(BATCH_BYTES_MAX * 1.01);
    expect(await readWhole(log)).toHaveLength(60);
  });
});

/** A connection that takes calls and answers nothing. */
const deaf = (calls: Call[]) =>
  ({
    connect: async () => undefined,
    once: () => undefined,
    async query(call: Call) {
      calls.push(call);
      return { rows: [] };
    },
  }) as unknown as pg.Client;

/** A connection whose calls of the append function are kept. */
function overheard(client: pg.Client, calls: Call[]): pg.Client {
  const query = client.query.bind(client) as (call: unknown) => unknown;
  client.query = ((call: Call & { name?: string }) => {
    if (call.name === 'append_batch') calls.push(call);
    return query(call);
  }) as pg.Client['query'];
  return client;
}
