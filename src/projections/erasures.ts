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
