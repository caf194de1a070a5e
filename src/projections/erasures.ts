import type pg from 'pg';
import { eraseCredentials } from '../db/credentials.ts';
import { eraseIdempotentAnswers } from '../db/idempotency.ts';
import { ERASING_TYPES } from '../domain/events.ts';
import { type EventLog, subjectOf } from '../eventlog/eventlog.ts';
import type { Projection } from './projector.ts';

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
        const subject = subjectOf(event.resource);
        await log.eraseSubject(subject);
        await eraseCredentials(db, subject);
        await eraseIdempotentAnswers(db, subject);
      }
    },
    async clear() {
      // What is erased stays erased; a rebuild applies every erasure once more.
    },
  };
}

/**
 * Applies again what the log says is erased and a restored backup has brought back. Looks only for
 * subjects of which something is left, so an ordinary start pays one query.
 */
export async function reapplyErasures(pool: pg.Pool, log: EventLog): Promise<number> {
  const { rows } = await pool.query<{ subject: string }>(
    `select e.resource as subject from eventlog.events e
     where e.type = any($1)
       and (exists (select from eventlog.subject_names s where s.subject = e.resource)
         or exists (select from credentials c where c.subject = e.resource)
         or exists (select from idempotency_keys k
                    where k.subject = e.resource and k.body is not null))`,
    [ERASING_TYPES],
  );
  for (const { subject } of rows) {
    await log.eraseSubject(subject);
    await eraseCredentials(pool, subject);
    await eraseIdempotentAnswers(pool, subject);
  }
  return rows.length;
}
