import type { IncomingMessage } from 'node:http';
import { isIP, isIPv4, isIPv6 } from 'node:net';
import { decodeWords } from 'postal-mime';
import { REASONS, type Reason } from '../domain/quarantine-language.ts';
import {
  distinctSymbols,
  namesToKeep,
  type RatedSymbol,
  reasonOf,
  symbolsOfText,
  toSymbol,
} from '../domain/symbols.ts';
import { decodeHeaderText, textOfLatin1 } from '../mail/mail-text.ts';
import { normaliseMailDomainName } from '../projections/mail-domains.ts';
import { invalid } from './input.ts';
import { Timestamp } from './schemas.ts';

/** What whoever hands in a message says about it; nothing of it is taken from the message. */
export type IngestEnvelope = Readonly<{
  /** Empty for the null sender. */
  sender: string;
  /** From 1 to 1,000, each once, in the order they were given. */
  recipients: readonly string[];
  /** Null when it is not known, which is not 0. */
  score: number | null;
  reason: Reason;
  symbols: readonly string[];
  queueId: string | null;
  arrivedAt: Date | null;
  clientIp: string | null;
  user: string | null;
  /** For a message that has none of its own. */
  subject: string | null;
  /** Whether rspamd's metadata exporter speaks: it sends a message once, and reads no answer. */
  isRspamd: boolean;
}>;

const RECIPIENTS_MAX = 1_000;
const SCORE_MAX = 1_000_000;
const SUBJECT_LENGTH_MAX = 998;
const USER_LENGTH_MAX = 320;
/** RFC 5321 section 4.5.3.1.3, less the angle brackets. */
const ADDRESS_BYTES_MAX = 254;
const ENCODED_ADDRESS_LENGTH_MAX = 2_048;
const FUTURE_MS_MAX = 5 * 60_000;
const AGE_MS_MAX = 10 * 366 * 24 * 3_600_000;

/** Each member by our header's name and by rspamd's (its `meta_headers`), where there is one. */
const HEADERS = {
  sender: ['X-Mail-From', 'X-Rspamd-From'],
  recipients: ['X-Rcpt-To', 'X-Rspamd-Rcpt'],
  score: ['X-Spam-Score', 'X-Rspamd-Score'],
  reason: ['X-Quarantine-Reason', null],
  symbols: ['X-Spam-Symbols', 'X-Rspamd-Symbols'],
  queueId: ['X-Queue-Id', 'X-Rspamd-Qid'],
  arrivedAt: ['X-Arrived-At', null],
  clientIp: [null, 'X-Rspamd-Ip'],
  user: [null, 'X-Rspamd-User'],
  subject: [null, 'X-Rspamd-Subject'],
} as const;
const RSPAMD_NAMES = /^x-rspamd-(?:from|rcpt|score|action|symbols|qid|ip|subject|user)$/;
const REPEATABLE: readonly string[] = ['X-Rcpt-To', 'X-Rspamd-Rcpt'];

type Given = Readonly<{ values: readonly string[]; text: string; isRspamd: boolean }>;
/** Notes what is wrong with a header, which then counts as not given. */
type Refuse = (message: string) => null;
type Parser<T> = (given: Given, refuse: Refuse) => T | null;

/**
 * The envelope that the headers of a request tell, in our words or in those of rspamd's metadata
 * exporter. Throws `validation_failed`, naming every header that is wrong.
 */
export function readIngestHeaders(
  request: Pick<IncomingMessage, 'headers' | 'rawHeaders'>,
  now: Date,
): IngestEnvelope {
  const headers = valuesByName(request.rawHeaders);
  const issues: { path: string; message: string }[] = [];
  const read = <T>(member: keyof typeof HEADERS, parse: Parser<T>): T | null => {
    const [ours, theirs] = HEADERS[member];
    const names = [ours, theirs].filter((name) => headers.has(name?.toLowerCase() ?? ''));
    const path = names[0] ?? ours ?? '';
    const refuse = (message: string): null => {
      issues.push({ path, message });
      return null;
    };
    const values = headers.get(path.toLowerCase()) ?? [];
    if (names.length > 1) return refuse(`is given together with ${theirs ?? ''}`);
    const isNeeded = member === 'sender' || member === 'recipients';
    if (values.length === 0) return isNeeded ? refuse('is required') : null;
    if (values.length > 1 && !REPEATABLE.includes(path)) return refuse('is given twice');
    const text = textOfLatin1(values[0] ?? '').trim();
    return parse({ values, text, isRspamd: path === theirs }, refuse);
  };
  const score = read('score', parseScore);
  const symbols = read('symbols', parseSymbols) ?? [];
  const envelope = {
    sender: read('sender', parseSender) ?? '',
    recipients: read('recipients', parseRecipients) ?? [],
    score,
    reason: read('reason', parseReason) ?? reasonOf(symbols, score),
    symbols: namesToKeep(symbols),
    queueId: read('queueId', parseQueueId),
    arrivedAt: read('arrivedAt', parseArrivedAt(now)),
    clientIp: read('clientIp', ({ text }) => (isAddressOfHost(text) ? text : null)),
    user: read('user', (given) => textOf(given, USER_LENGTH_MAX)),
    subject: read('subject', (given) => textOf(given, SUBJECT_LENGTH_MAX)),
    isRspamd: [...headers.keys()].some((name) => RSPAMD_NAMES.test(name)),
  };
  if (issues.length > 0) throw invalid(issues);
  return envelope;
}

/** Every header's values as they came: `headers` would have joined some and dropped others. */
function valuesByName(rawHeaders: readonly string[]): ReadonlyMap<string, readonly string[]> {
  const values = new Map<string, string[]>();
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]?.toLowerCase() ?? '';
    values.set(name, values.get(name) ?? []);
    values.get(name)?.push(rawHeaders[at + 1] ?? '');
  }
  return values;
}

/** rspamd writes `unknown` for what it does not have, also where a list or a number is expected. */
export const isNothing = (text: string): boolean => text === '' || text === 'unknown';
const isJson = (text: string): boolean => /^[[{]/.test(text);

const textOf = ({ values, text }: Given, lengthMax: number): string | null =>
  isNothing(text) ? null : decodeHeaderText(values[0] ?? '', lengthMax) || null;

const parseSender: Parser<string> = ({ text, isRspamd }, refuse) => {
  if (text.length > ENCODED_ADDRESS_LENGTH_MAX) return refuse('is no mail address');
  // From 4.0 on rspamd writes what is not ASCII in encoded words.
  const written = isRspamd ? decodeWords(text) : text;
  if (/^(?:|<>|<?MAILER-DAEMON>?)$/.test(written) || (isRspamd && isNothing(written))) return '';
  return normaliseAddress(written) ?? refuse('is no mail address');
};

const parseRecipients: Parser<readonly string[]> = ({ values }, refuse) => {
  const recipients = new Set<string>();
  let place = 0;
  for (const value of values) {
    const list = listOf(textOfLatin1(value).trim());
    if (list === null) return refuse('is no JSON array of mail addresses');
    for (const text of list) {
      place += 1;
      const address = normaliseAddress(text);
      if (address === null) return refuse(`is no list of mail addresses: see number ${place}`);
      recipients.add(address);
      if (recipients.size > RECIPIENTS_MAX) return refuse(`names over ${RECIPIENTS_MAX}`);
    }
  }
  return recipients.size === 0 ? refuse('names no recipient') : [...recipients];
};

/** A list of texts, as a JSON array or separated by commas; null when it is neither. */
function listOf(text: string): readonly string[] | null {
  if (isNothing(text)) return [];
  if (!isJson(text)) return splitAtCommas(text);
  const list = parseJsonList(text);
  const texts = list?.filter((item) => typeof item === 'string') ?? [];
  return texts.length === list?.length ? texts.filter((item) => !isNothing(item)) : null;
}

/** At each comma that no quoted string holds (RFC 5322 section 3.2.4). */
function splitAtCommas(text: string): readonly string[] {
  const parts: string[] = [];
  let start = 0;
  let isQuoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    if (isQuoted && character === '\\') at += 1;
    else if (character === '"') isQuoted = !isQuoted;
    else if (character === ',' && !isQuoted) {
      parts.push(text.slice(start, at));
      start = at + 1;
    }
  }
  return [...parts, text.slice(start)].filter((part) => part.trim() !== '');
}

/** The items of a JSON array; null for what is none. Lua has one value for `[]` and `{}`. */
function parseJsonList(text: string): readonly unknown[] | null {
  try {
    const list: unknown = text === '{}' ? [] : JSON.parse(text);
    return Array.isArray(list) ? list : null;
  } catch {
    return null;
  }
}

const UNPRINTABLE = /(?!\t)\p{Cc}/u;
/** An atom is taken as widely as mail servers take it; a quoted string may hold spaces. */
const LOCAL_PART = /^(?:[^\s\p{Cc}\p{Cs}"<>@,\\]+|"(?:[^\p{Cc}\p{Cs}"\\]|\\[^\p{Cc}\p{Cs}])*")$/u;
/** What mail comes from though no domain can be registered so: `localhost`, `my_pc.example`. */
const HOST = /^(?=.{1,253}$)[a-z0-9_][a-z0-9_-]{0,62}(?:\.[a-z0-9_-]{1,63})*$/i;

/** A mail address without angle brackets, its domain in A-labels; null for what is none. */
function normaliseAddress(text: string): string | null {
  if (UNPRINTABLE.test(text)) return null;
  const bare = /^<(.*)>$/.exec(text.trim())?.[1] ?? text.trim();
  if (bare.length > ADDRESS_BYTES_MAX) return null;
  const at = bare.lastIndexOf('@');
  const domain = normaliseDomain(bare.slice(at + 1));
  if (at < 1 || domain === null || !LOCAL_PART.test(bare.slice(0, at))) return null;
  const address = `${bare.slice(0, at)}@${domain}`;
  return Buffer.byteLength(address) <= ADDRESS_BYTES_MAX ? address : null;
}

function normaliseDomain(text: string): string | null {
  const [, version, literal = ''] = /^\[(IPv6:)?([^\]%]+)\]$/i.exec(text) ?? [];
  if (literal !== '') {
    return (version === undefined ? isIPv4(literal) : isIPv6(literal)) ? text.toLowerCase() : null;
  }
  if (/\s/.test(text)) return null;
  return normaliseMailDomainName(text) ?? (HOST.test(text) ? text.toLowerCase() : null);
}

/** Whether this is an IP address; a zone (`fe80::1%eth0`) means something to its own machine alone. */
export const isAddressOfHost = (text: string): boolean => isIP(text) !== 0 && !text.includes('%');

const NUMBER = /^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?$/i;
export const SCORE_FORM = `must be a number from -${SCORE_MAX} to ${SCORE_MAX}`;

/** A score within its bounds from a number or its decimal text; null for what is none. */
export function scoreOf(given: unknown): number | null {
  const isText = typeof given === 'string' && NUMBER.test(given);
  const score = isText || typeof given === 'number' ? Number(given) : NaN;
  return Math.abs(score) <= SCORE_MAX ? score : null;
}

const parseScore: Parser<number> = ({ text }, refuse) =>
  isNothing(text) ? null : (scoreOf(text) ?? refuse(SCORE_FORM));

const parseReason: Parser<Reason> = ({ text }, refuse) => {
  if (isNothing(text)) return null;
  return REASONS.find((one) => one === text) ?? refuse(`must be one of ${REASONS.join(', ')}`);
};

export const QUEUE_ID_FORM = 'must be 4 to 64 letters and digits';
/** Postfix's ids are shorter; the form keeps out what could be more than a name (`../`, `-`). */
export const isQueueId = (text: string): boolean => /^[A-Za-z0-9]{4,64}$/.test(text);

/** Another mail server's ids may look otherwise; rspamd's users could do nothing about a refusal. */
const parseQueueId: Parser<string> = ({ text, isRspamd }, refuse) => {
  if (isNothing(text)) return null;
  if (isQueueId(text)) return text;
  return isRspamd ? null : refuse(QUEUE_ID_FORM);
};

const parseArrivedAt =
  (now: Date): Parser<Date> =>
  ({ text }, refuse) => {
    if (isNothing(text)) return null;
    const parsed = Timestamp.safeParse(text);
    if (!parsed.success) return refuse('must be an RFC 3339 date and time with an offset');
    const arrivedAt = new Date(parsed.data);
    const age = now.getTime() - arrivedAt.getTime();
    if (age < -FUTURE_MS_MAX) return refuse('is in the future');
    return age > AGE_MS_MAX ? refuse('is more than 10 years ago') : arrivedAt;
  };

const parseSymbols: Parser<readonly RatedSymbol[]> = ({ text }, refuse) => {
  if (isNothing(text)) return null;
  const list = isJson(text) ? parseJsonList(text)?.map(toSymbol) : symbolsOfText(text);
  return list === undefined ? refuse('is no JSON array of symbols') : distinctSymbols(list);
};
