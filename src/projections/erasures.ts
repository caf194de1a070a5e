import type pg from 'pg';
import { eraseCredentials } from '../db/credentials.ts';
import { eraseIdempotentAnswers } from '../db/idempotency.ts';
import { ERASING_TYPES } from '../domain/events.ts';
import { type EventLog, subjectOf } from '../eventlog/eventlog.ts';
import { readLine } from '../eventlog/upcast.ts';
import type { Projection } from './projection.ts';

/**
 * Carries out the erasures that the log records: a subject's names and identity values, its
 * credentials, and answers that are kept for replay. Every step can be repeated, so that after a
 * restore all of them are applied again (`rebuild`), before anything is served.
 */
export function erasuresProjection(log: EventLog): Projection {
  return {
    name: 'erasures',
    version: 1,
    types: ERASING_TYPES,
    async apply(db, events) {
      for (const { event } of events) {
        await erase(db, log, subjectOf(event.resource));
      }
    },
    // What is erased stays erased; a rebuild applies every erasure once more.
    tables: [],
  };
}

async function erase(db: pg.Pool | pg.ClientBase, log: EventLog, subject: string): Promise<void> {
  await log.eraseSubject(subject);
  await eraseCredentials(db, subject);
  await eraseIdempotentAnswers(db, subject);
}

const PAGE_EVENTS = 1_000;

/**
 * Applies again what the log says is erased and a restored backup has brought back. Only subjects of
 * which something is left cost more than a look. Returns how many there were.
 */
export async function reapplyErasures(pool: pg.Pool, log: EventLog): Promise<number> {
  const { position: until } = await log.head();
  let after = 0n;
  let erased = 0;
  while (after < until) {
    const filter = { types: ERASING_TYPES };
    const page = await log.readAll({ after, until, filter, limit: PAGE_EVENTS });
    const subjects = page.events.map(({ line }) => subjectOf(readLine(line).resource));
    for (const subject of await findLeftovers(pool, log, subjects)) {
      await erase(pool, log, subject);
      erased += 1;
    }
    after = page.scannedTo;
  }
  return erased;
}

async function findLeftovers(
  pool: pg.Pool,
  log: EventLog,
  subjects: readonly string[],
): Promise<ReadonlySet<string>> {
  if (subjects.length === 0) return new Set();
  const named = await log.readNames(subjects);
  const { rows } = await pool.query<{ subject: string }>(
    `select subject from credentials where subject = any($1)
     union select subject from idempotency_keys where subject = any($1) and body is not null`,
    [subjects],
  );
  // A webhook has no names by which to tell that what was personal about it is back; there are few of them.
  const unnamed = subjects.filter((subject) => subject.startsWith('webhook:'));
  return new Set([...named.keys(), ...rows.map(({ subject }) => subject), ...unnamed]);
}
