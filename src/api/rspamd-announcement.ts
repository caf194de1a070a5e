import type { Announcement, Reason } from '../domain/quarantine-language.ts';
import {
  distinctSymbols,
  namesToKeep,
  type RatedSymbol,
  reasonOf,
  toSymbol,
} from '../domain/symbols.ts';
import {
  type IngestEnvelope,
  isAddressOfHost,
  isNothing,
  isQueueId,
  QUEUE_ID_FORM,
  SCORE_FORM,
  scoreOf,
} from './ingest-headers.ts';
import { invalid } from './input.ts';

/** Notes what is wrong with a member, which then counts as not given. */
type Refuse = (message: string) => null;
type Parser<T> = (given: unknown, refuse: Refuse) => T | null;

/**
 * Reads the JSON form of rspamd's metadata exporter (3.4 to 4.x). Throws `validation_failed`, naming
 * every member that is wrong. Source: `get_general_metadata` of rspamd's `metadata_exporter.lua`.
 */
export function readAnnouncement(body: unknown): Announcement {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw invalid([{ path: '', message: 'must be a JSON object' }]);
  }
  const members = new Map<string, unknown>(Object.entries(body));
  const issues: { path: string; message: string }[] = [];
  const read = <T>(path: string, parse: Parser<T>): T | null => {
    const given = members.get(path) ?? 'unknown';
    const refuse = (message: string): null => {
      issues.push({ path, message });
      return null;
    };
    return parse(given, refuse);
  };
  const score = read('score', parseScore);
  const symbols = read('symbols', parseSymbols) ?? [];
  const announcement = {
    queueId: read('qid', parseQueueId) ?? '',
    score,
    symbols: namesToKeep(symbols),
    reason: reasonOfAnnounced(symbols, score),
    clientIp: read('ip', parseClientIp),
  };
  if (issues.length > 0) throw invalid(issues);
  return announcement;
}

/** The same from the exporter's headers. Throws `validation_failed` for a message without a queue id. */
export function announcementOfEnvelope(envelope: IngestEnvelope): Announcement {
  const { queueId, score, symbols, reason, clientIp } = envelope;
  if (queueId === null) throw invalid([{ path: 'X-Queue-Id', message: QUEUE_ID_FORM }]);
  // The envelope's reason has weighed the symbols, but does not know that this was looked at.
  const wasUnscored = reason === 'unscanned' && score === null && symbols.length > 0;
  return { queueId, score, symbols, reason: wasUnscored ? 'spam' : reason, clientIp };
}

/** Whoever names symbols has looked at the message, even when its score was lost. */
const reasonOfAnnounced = (symbols: readonly RatedSymbol[], score: number | null): Reason =>
  reasonOf(symbols, symbols.length > 0 ? (score ?? 0) : score);

const isMissing = (given: unknown): boolean => typeof given === 'string' && isNothing(given);

/** An announcement without the mail server's id could never be joined to what it announces. */
const parseQueueId: Parser<string> = (given, refuse) =>
  typeof given === 'string' && !isNothing(given) && isQueueId(given)
    ? given
    : refuse(QUEUE_ID_FORM);

const parseScore: Parser<number> = (given, refuse) =>
  isMissing(given) ? null : (scoreOf(given) ?? refuse(SCORE_FORM));

const parseSymbols: Parser<readonly RatedSymbol[]> = (given, refuse) => {
  if (isMissing(given)) return null;
  if (Array.isArray(given)) return distinctSymbols(given.map(toSymbol));
  // Lua has one value for `[]` and `{}`.
  const isEmpty = typeof given === 'object' && Object.keys(given ?? {}).length === 0;
  return isEmpty ? null : refuse('must be a list of symbols');
};

/** What is no address is left out: it is worth less than the rest, and nobody would see a refusal. */
const parseClientIp: Parser<string> = (given) =>
  typeof given === 'string' && isAddressOfHost(given) ? given : null;
