import type pg from 'pg';
import { utc } from '../clock.ts';
import type { SubjectNames } from '../domain/decider.ts';
import { appender, bytesOf } from './append-batch.ts';
import type { EventLog, LogIdentity, Position } from './eventlog.ts';
import { followHead, headSignal } from './follow.ts';
import { groupCommit } from './group-commit.ts';
import { prepareEvent } from './line.ts';
import { listen } from './listen.ts';
import { pooledRandom, type Random } from './personal.ts';
import { copyEvidence, copySegment } from './postgres-copy.ts';
import {
  countMatching,
  EVENT_COLUMNS,
  readFiltered,
  readLines,
  toStoredEvent,
} from './postgres-read.ts';

export type PostgresLogOptions = Readonly<{
  /** For reading; its sessions need no more than select. */
  pool: pg.Pool;
  /** For exports, so that they cannot starve anybody else of a connection. */
  exportPool: pg.Pool;
  /** Makes a connection for appending, and one for listening. */
  connect: () => pg.Client;
  random?: Random;
}>;

const READ_STREAM_MAX = 100_000;

/**
 * The log in PostgreSQL: dense positions in commit order, which no reader can skip (the proof stands
 * in docs/adr/0002-gapless-positions.md), durable when `append` resolves.
 */
export async function postgresEventLog(options: PostgresLogOptions): Promise<EventLog> {
  const { pool, exportPool, connect, random = pooledRandom() } = options;
  const identity = await readIdentity(pool);
  const writer = appender(connect);
  const commits = groupCommit(writer.appendBatch);
  const look = async () => (await readHead(pool)).position;
  const signal = headSignal(await look());
  const listening = listen(connect, signal);
  return {
    identity,
    async append({ stream, expected, events }) {
      const prepared = events.map((event) => prepareEvent(stream, event, random));
      const bytes = bytesOf(prepared);
      const outcome = await commits.append({ stream, expected, events: prepared, bytes });
      if (outcome.kind !== 'conflict') signal.moved(outcome.position);
      return outcome;
    },
    async readStream(stream, from = 0n, limit = READ_STREAM_MAX) {
      const { rows } = await pool.query<string[]>({
        ...READ_STREAM,
        values: [stream, from, limit],
      });
      return rows.map(toStoredEvent);
    },
    readAll: (range) => readFiltered(pool, range),
    readLines: (range) => readLines(pool, range),
    count: (range) => countMatching(pool, range),
    async positionOf(eventId) {
      const { rows } = await pool.query<{ position: string }>(
        'select position from eventlog.events where event_id = $1',
        [eventId],
      );
      return rows[0] === undefined ? null : BigInt(rows[0].position);
    },
    readSegment: (after, until) => copySegment(exportPool, after, until),
    readEvidence: (after, until) => copyEvidence(exportPool, after, until),
    follow: (after, abort) => followHead({ signal, look }, after, abort),
    head: () => readHead(pool),
    async positionBefore(time) {
      const { rows } = await pool.query<{ position: string }>(
        'select eventlog.position_before($1::timestamptz) as position',
        [time],
      );
      return BigInt(rows[0]?.position ?? 0);
    },
    async readNames(subjects) {
      const { rows } = await pool.query<NameRow>(
        'select subject, name, key_prefix from eventlog.subject_names where subject = any($1)',
        [subjects],
      );
      return new Map(rows.map((row) => [row.subject, toNames(row)]));
    },
    async eraseSubject(subject) {
      await pool.query('select eventlog.erase_subject($1)', [subject]);
    },
    queueDepth: commits.depth,
    async close() {
      await commits.close();
      await Promise.all([writer.close(), listening.close()]);
    },
  };
}

const READ_STREAM = {
  name: 'read_stream',
  text: `
    select ${EVENT_COLUMNS}
    from eventlog.events e
    left join eventlog.event_personal p on p.position = e.position
    where e.stream = $1 and e.revision >= $2
    order by e.revision
    limit $3`,
  rowMode: 'array',
} as const;

async function readHead(pool: pg.Pool): Promise<{ position: Position; recordedAt: string | null }> {
  const { rows } = await pool.query<[string, string]>({
    name: 'read_head',
    text: `
      select position, ${utc('recorded_at')}
      from eventlog.events order by position desc limit 1`,
    rowMode: 'array',
  });
  const head = rows[0];
  if (head === undefined) return { position: 0n, recordedAt: null };
  return { position: BigInt(head[0]), recordedAt: head[1] };
}

async function readIdentity(pool: pg.Pool): Promise<LogIdentity> {
  const { rows } = await pool.query<{ log_id: string; epoch: number; minimum_position: string }>(
    'select log_id, epoch, minimum_position from eventlog.log_info',
  );
  const row = rows[0];
  if (row === undefined) throw new Error('eventlog.log_info is empty');
  return {
    logId: row.log_id,
    epoch: row.epoch,
    minimumPosition: BigInt(row.minimum_position),
  };
}

type NameRow = { subject: string; name: string; key_prefix: string | null };

const toNames = (row: NameRow): SubjectNames => ({
  name: row.name,
  ...(row.key_prefix === null ? {} : { key_prefix: row.key_prefix }),
});
