import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { Principal } from '../domain/access.ts';
import { DomainError } from '../domain/errors.ts';
import type { Numbering } from '../domain/webhook-delivery.ts';
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

/** Where a cursor stands; numbered where its reader is a subscription, whose events have numbers of their own. */
export type CursorPlace = Readonly<{ position: Position; numbering: Numbering | null }>;

export type Cursors = Readonly<{
  bind: (filter: CursorFilter, principal: Principal) => Bound;
  encode: (bound: Bound, position: Position, numbering?: Numbering) => string;
  /** The place a cursor stands on, or the documented refusal. */
  decode: (bound: Bound, cursor: string, head: Position) => CursorPlace;
  /** Refuses a position that this log does not have, or has no more. */
  requireInLog: (position: Position, head: Position) => Position;
}>;

const PLAIN = 1;
const NUMBERED = 2;
const LOG_ID_BYTES = 16;
const FILTER_BYTES = 8;
const MAC_BYTES = 16;
const PLAIN_BYTES = 1 + LOG_ID_BYTES + 4 + 8 + FILTER_BYTES;
const NUMBERED_BYTES = PLAIN_BYTES + 4 + 8;
/** A letter first: no tool takes it for a number and rounds it. */
const PATTERN = /^c[A-Za-z0-9_-]+$/;

/**
 * Cursors: `c` and the base64url of version, log id, epoch of the log, position, filter hash, for a numbered one the
 * subscription's epoch and sequence, and a truncated HMAC-SHA-256 over them. They hold no secret and never expire;
 * whoever alters one is told so.
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
    encode({ filterHash }, position, numbering) {
      const signed = Buffer.allocUnsafe(numbering === undefined ? PLAIN_BYTES : NUMBERED_BYTES);
      signed.writeUInt8(numbering === undefined ? PLAIN : NUMBERED, 0);
      logId.copy(signed, 1);
      signed.writeUInt32BE(identity.epoch, 17);
      signed.writeBigUInt64BE(position, 21);
      filterHash.copy(signed, 29);
      if (numbering !== undefined) {
        signed.writeUInt32BE(numbering.epoch, PLAIN_BYTES);
        signed.writeBigUInt64BE(BigInt(numbering.sequence), PLAIN_BYTES + 4);
      }
      return `c${Buffer.concat([signed, macOf(signed)]).toString('base64url')}`;
    },
    decode({ filterHash }, cursor, head) {
      const bytes = PATTERN.test(cursor) ? Buffer.from(cursor.slice(1), 'base64url') : null;
      const signed = bytes?.subarray(0, -MAC_BYTES);
      if (bytes === null || signed === undefined || !isWhole(signed)) throw invalid();
      // The last character has bits to spare; one cursor has one spelling.
      if (`c${bytes.toString('base64url')}` !== cursor) throw invalid();
      // Another log signs with another key, so that is asked first: its holder deserves the reason.
      if (!signed.subarray(1, 17).equals(logId)) throw otherLog();
      if (!timingSafeEqual(macOf(signed), bytes.subarray(signed.length))) throw invalid();
      if (signed.readUInt32BE(17) !== identity.epoch) throw otherLog();
      if (!signed.subarray(29, PLAIN_BYTES).equals(filterHash)) {
        throw new DomainError(
          'cursor_filter_mismatch',
          'A cursor continues the filter and the scope it was given for.',
        );
      }
      const position = requireInLog(signed.readBigUInt64BE(21), head);
      return { position, numbering: numberingIn(signed) };
    },
  };
}

/** Of the length that its version has. */
const isWhole = (signed: Buffer): boolean =>
  (signed.length === PLAIN_BYTES && signed[0] === PLAIN) ||
  (signed.length === NUMBERED_BYTES && signed[0] === NUMBERED);

const numberingIn = (signed: Buffer): Numbering | null =>
  signed[0] === NUMBERED
    ? {
        epoch: signed.readUInt32BE(PLAIN_BYTES),
        sequence: Number(signed.readBigUInt64BE(PLAIN_BYTES + 4)),
      }
    : null;

const invalid = () => new DomainError('invalid_cursor', 'This is not a cursor of this log.');
const otherLog = () =>
  new DomainError(
    'cursor_log_mismatch',
    'This cursor belongs to another log, or to this one before it was restored. Start anew.',
  );
