import pg from 'pg';
import { DomainError } from '../domain/errors.ts';

/**
 * True when the database could not be reached or went away, so that the same call may succeed later:
 * SQLSTATE classes 08 (connection), 57P (shutdown, crash, starting up), 57014 (time limit) and 53
 * (out of resources), or no SQLSTATE at all.
 */
export function isConnectionError(error: unknown): boolean {
  if (error instanceof pg.DatabaseError) return /^(08|57P|57014|53)/.test(error.code ?? '');
  if (!(error instanceof Error)) return false;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  return (
    ['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ENOENT', 'ETIMEDOUT', 'EACCES'].includes(code) ||
    /Connection terminated|connection timeout|timeout exceeded|not queryable|Client was closed|has already been connected/i.test(
      error.message,
    )
  );
}

/** What a caller is told then. */
export const unavailable = (): DomainError =>
  new DomainError('unavailable', 'The database cannot be reached; try again.', {
    retry_after_seconds: 1,
  });
