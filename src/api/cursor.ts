import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { Principal } from '../domain/access.ts';
import { DomainError } from '../domain/errors.ts';
import { canonicalJson } from '../eventlog/canonical.ts';
import type { LogFilter, LogIdentity, Position } from '../eventlog/eventlog.ts';

/** What a cursor is good for, beside its position. */
export type Bound = Readonly<{ filterHash: Buffer }>;

/**
 * A filter as its reader means it. `mailDomain` is an id, or the stream of a name: that stays what it is
 * when the name is deleted or registered again, and tells nobody the name.
 */
type CursorFilter = Omit<LogFilter, 'mailDomains'> &
  Readonly<{
    mailDomain?: string;
    from?: string;
    to?: string;
    q?: string;
    order?: 'asc' | 'desc';
    /** Whose events: a subscription's, whatever its filter is where the cursor stands. */
    webhook?: string;
  }>;

export type Cursors = Readonly<{
  bind: (filter: CursorFilter, principal: Principal) => Bound;
  encode: (bound: Bound, position: Position) => string;
  /** The position a cursor stands on, or the documented refusal. */
  decode: (bound: Bound, cursor: string, head: Position) => Position;
  /** Refuses a position that this log does not have, or has no more. */
  requireInLog: (position: Position, head: Position) => Position;
}>;

const VERSION = 1;
const LOG_ID_BYTES = 16;
const FILTER_BYTES = 8;
const MAC_BYTES = 16;
const SIGNED_BYTES = 1 + LOG_ID_BYTES + 4 + 8 + FILTER_BYTES;
/** A letter first: no tool takes it for a number and rounds it. */
const PATTERN = /^c[A-Za-z0-9_-]{71}$/;

/**
 * Cursors: `c` and the base64url of version, log id, epoch, position, filter hash and a truncated
 * HMAC-SHA-256 over them. They hold no secret and never expire; whoever alters one is told so.
 */
export function createCursors(identity: LogIdentity, key: Buffer): Cursors {
  const logId = Buffer.from(identity.logId.replaceAll('-', ''), 'hex');
  const macOf = (signed: Buffer) =>
    createHmac('sha256', key).update(signed).digest().subarray(0, MAC_BYTES);

  function requireInLog(position: Position, head: Position): Position {
    if (position > head) {
      throw new DomainError('cursor_ahead_of_log', `The log ends at position ${head}.`);
    }
    if (position + 1n < identity.minimumPosition) {
      throw new DomainError('cursor_gone', 'The events behind this cursor were archived.', {
        minimum_position: identity.minimumPosition.toString(),
      });
    }
    return position;
  }

  return {
    requireInLog,
    bind(filter, principal) {
      const text = canonicalJson({
        filter: filter as never,
        scope: principal.scope,
        mail_domain: principal.mailDomain,
      });
      return {
        filterHash: createHash('sha256').update(text).digest().subarray(0, FILTER_BYTES),
      };
    },
    encode({ filterHash }, position) {
      const signed = Buffer.allocUnsafe(SIGNED_BYTES);
      signed.writeUInt8(VERSION, 0);
      logId.copy(signed, 1);
      signed.writeUInt32BE(identity.epoch, 17);
      signed.writeBigUInt64BE(position, 21);
      filterHash.copy(signed, 29);
      return `c${Buffer.concat([signed, macOf(signed)]).toString('base64url')}`;
    },
    decode({ filterHash }, cursor, head) {
      const bytes = PATTERN.test(cursor) ? Buffer.from(cursor.slice(1), 'base64url') : null;
      if (bytes === null || bytes.readUInt8(0) !== VERSION) throw invalid();
      // The last character has bits to spare; one cursor has one spelling.
      if (`c${bytes.toString('base64url')}` !== cursor) throw invalid();
      const signed = bytes.subarray(0, SIGNED_BYTES);
      // Another log signs with another key, so that is asked first: its holder deserves the reason.
      if (!signed.subarray(1, 17).equals(logId)) throw otherLog();
      if (!timingSafeEqual(macOf(signed), bytes.subarray(SIGNED_BYTES))) throw invalid();
      if (signed.readUInt32BE(17) !== identity.epoch) throw otherLog();
      if (!signed.subarray(29).equals(filterHash)) {
        throw new DomainError(
          'cursor_filter_mismatch',
          'A cursor continues the filter and the scope it was given for.',
        );
      }
      return requireInLog(signed.readBigUInt64BE(21), head);
    },
  };
}

const invalid = () => new DomainError('invalid_cursor', 'This is not a cursor of this log.');
const otherLog = () =>
  new DomainError(
    'cursor_log_mismatch',
    'This cursor belongs to another log, or to this one before it was restored. Start anew.',
  );
