import { randomBytes } from 'node:crypto';
import { getPostgreSQLEventStore } from '@event-driven-io/emmett-postgresql';
import pg from 'pg';
import { openClient, openPool } from '../../dist/db/pool.js';
import { appender } from '../../dist/eventlog/append-batch.js';
import { prepareEvent } from '../../dist/eventlog/line.js';
import { connect } from './database.js';
import { someCommands } from './events.js';

/** Connections of every arm that commits one command at a time. */
export const POOL_SIZE = 32;

/**
 * One way to append: `open` connects, `prepare` makes what is to be appended before the clock runs, and
 * `append` resolves when one of them is durable.
 * @typedef {{ append: (command: unknown) => Promise<unknown>, close: () => Promise<void> }} Open
 * @typedef {{ name: string, prepare: (from: number, count: number) => unknown[], open: () => Promise<Open> }} Arm
 */

/** The event log itself; commands that wait share a transaction. */
export const groupCommitArm = (log) => ({
  name: 'EventLog.append',
  prepare: someCommands,
  open: async () => ({
    append: async (command) => requireAppended(await log.append(command)),
    close: async () => undefined,
  }),
});

/** The same function, called with one command per transaction. */
export const oneByOneArm = (url, role) => ({
  name: `append_batch, one command each, ${POOL_SIZE} connections`,
  prepare: someCommands,
  async open() {
    const free = [];
    for (let i = 0; i < POOL_SIZE; i += 1) free.push(appender(() => openClient({ url, role })));
    const all = [...free];
    const waiting = [];
    const take = async () => free.pop() ?? new Promise((done) => waiting.push(done));
    const give = (own) => {
      const next = waiting.shift();
      if (next === undefined) free.push(own);
      else next(own);
    };
    return {
      async append(command) {
        const own = await take();
        try {
          const [outcome] = await own.appendBatch([prepare(command)]);
          requireAppended(outcome);
        } finally {
          give(own);
        }
      },
      close: async () => void (await Promise.all(all.map((own) => own.close()))),
    };
  },
});

/** A function written for one command: the strongest that one transaction per command can be here. */
export const leanArm = (url) => ({
  name: `lean function, one command each, ${POOL_SIZE} connections`,
  prepare: someCommands,
  async open() {
    const pool = openPool({ url, size: POOL_SIZE, role: null });
    return {
      async append(command) {
        const [e] = prepare(command).events;
        const { rows } = await pool.query({
          name: 'append_one',
          text: `select public.append_one($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13) as position`,
          values: [
            ...[command.stream, -1, e.eventId, e.type, e.actor, e.resource, e.head, e.mid, e.tail],
            ...[e.identity, e.network, e.content, e.mailDomains[0]],
          ],
        });
        requireAppended({ kind: rows[0].position === null ? 'conflict' : 'appended' });
      },
      close: () => pool.end(),
    };
  },
});

/** `@event-driven-io/emmett-postgresql` as its documentation uses it, one event per new stream. */
export const emmettArm = (connectionString) => ({
  name: `emmett-postgresql 0.42.0, ${POOL_SIZE} connections`,
  prepare: (from, count) =>
    Array.from({ length: count }, (_, i) => ({
      stream: `message-${from + i}`,
      event: emmettEvent(from + i),
    })),
  async open() {
    const pool = new pg.Pool({ connectionString, max: POOL_SIZE });
    pool.on('error', () => undefined);
    const store = getPostgreSQLEventStore(connectionString, {
      schema: { autoMigration: 'None' },
      connectionOptions: { pool },
    });
    return {
      append: ({ stream, event }) =>
        store.appendToStream(stream, [event], { expectedStreamVersion: 'STREAM_DOES_NOT_EXIST' }),
      async close() {
        await store.close();
        if (!pool.ended) await pool.end();
      },
    };
  },
});

export async function migrateEmmett(connectionString) {
  const store = getPostgreSQLEventStore(connectionString);
  await store.schema.migrate();
  await store.close();
}

/** 500 bytes of data as JSON; nothing personal, for emmett has no place apart for that. */
function emmettEvent(n) {
  const data = {
    actor: { type: 'operator', id: String(10 + (n % 50)) },
    resource: { type: 'message', id: String(n) },
    mail_domains: [String(1 + (n % 20))],
    score: n % 100,
    verdict: 'spam',
    outcome: 'success',
    correlation_id: `cor-${n}`,
    occurred_at: '2026-05-01T07:42:13.000000Z',
    source: { node: 'n1', ip: `192.0.2.${n % 250}`, user_agent: 'Mozilla/5.0 (X11; Linux x86_64)' },
    filler: '',
  };
  data.filler = 'x'.repeat(500 - JSON.stringify(data).length);
  return { type: 'message.quarantined', data };
}

function requireAppended({ kind }) {
  if (kind !== 'appended') throw new Error(`not appended: ${kind}`);
}

const prepare = ({ stream, expected, events }) => {
  const prepared = events.map((event) => prepareEvent(stream, event, randomBytes));
  return { stream, expected, events: prepared, bytes: 0 };
};

/**
 * The lock, the place, three inserts and nothing else; no duplicates found, no notification, no names.
 */
export async function createLeanFunction(url) {
  const client = await connect(url);
  await client.query(LEAN);
  await client.end();
}

const LEAN = `
create function public.append_one(
  p_stream text, p_expected bigint, p_id uuid, p_type text, p_actor text, p_resource text,
  p_head text, p_mid text, p_tail text, p_identity text, p_network text, p_content text,
  p_mail_domain bigint)
returns bigint language plpgsql volatile set search_path = eventlog, pg_temp as $$
declare
  v_position bigint;
  v_last timestamptz;
  v_now timestamptz;
  v_revision bigint;
begin
  perform pg_advisory_xact_lock(7310001);
  select position, recorded_at into v_position, v_last from events order by position desc limit 1;
  select revision into v_revision from events where stream = p_stream order by revision desc limit 1;
  if coalesce(v_revision, -1) <> p_expected then return null; end if;
  v_position := coalesce(v_position, 0) + 1;
  v_revision := p_expected + 1;
  v_now := greatest(clock_timestamp(), coalesce(v_last + interval '1 microsecond', '-infinity'));
  insert into events (position, revision, recorded_at, event_id, stream, type, actor, resource, line)
  values (v_position, v_revision, v_now, p_id, p_stream, p_type, p_actor, p_resource,
          p_head || v_position || '","recorded_at":"'
          || to_char(v_now at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
          || p_mid || v_revision || p_tail);
  insert into event_personal (event_id, position, identity, network, content)
  values (p_id, v_position, p_identity, p_network, p_content);
  insert into event_mail_domains (mail_domain, position) values (p_mail_domain, v_position);
  return v_position;
end $$`;
