import { oneLine } from './one-line.ts';

/** What a delivery agent said of one recipient, last. */
export type RecipientFact = Readonly<{
  status: 'sent' | 'deferred' | 'bounced' | 'expired';
  dsn: string | null;
  relay: string | null;
  /** The reply code in the text, null when there is none. */
  code: number | null;
  /** In one line, at most 500 characters. */
  reply: string;
}>;

/** What a line says of a queue id. `process` tells apart two processes of one program. */
export type QueueIdLine = Readonly<
  { queueId: string } & (
    | { kind: 'begun'; process: string; requeuedFrom: string | null }
    /** Cleanup has its headers: once a message, and all there is of a bounce's begin. */
    | { kind: 'written'; process: string }
    | { kind: 'held'; process: string; by: 'filter' | 'filter_down' | 'rule' }
    | { kind: 'postsuper'; did: HandledAs }
    | { kind: 'result'; address: string; originalAddress: string | null; fact: RecipientFact }
    | { kind: 'bounce_sent'; bounceId: string }
    /** It was too old, or declared to be: who has it not by now gets it no more. */
    | { kind: 'returned' }
    | { kind: 'over' }
  )
>;

/**
 * What a process said ahead of the line that names the queue id: the hold of a first recipient is
 * logged before there is an id, and a filter that fails is told from its verdict by this alone.
 * `none` ends what it said before.
 */
export type OmenLine = Readonly<{
  kind: 'omen';
  process: string;
  of: 'rule' | 'filter_down' | 'none';
}>;

type HandledAs = 'held' | 'released' | 'removed' | 'requeued' | 'expired';
type About = Readonly<{ queueId: string; process: string; text: string }>;

const ID = '(?:[0-9A-F]{6,20}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{11,30})';
const DATE =
  '(?:[A-Z][a-z]{2} [ \\d]\\d \\d\\d:\\d\\d:\\d\\d' +
  '|\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:[.,]\\d+)?(?:Z|[+-]\\d\\d:?\\d\\d))';
// A host ends in no colon: `su: postfix/…` without a host is what a user of the machine says.
const HOST = '(?:[\\w.:-]*[\\w.-] )?';
const TAG = '(postfix(?:-[\\w.-]+)?(?:/[\\w.-]+)*/(\\w+)\\[\\d+\\])';
const HEAD = new RegExp(`^${DATE} ${HOST}${TAG}: (.*)$`, 's');
const NAMED = new RegExp(`^(${ID}): (.*)$`, 's');

// Quoted as RFC 5322 does, the default of `info_log_address_format` since Postfix 3.5: outside
// quotes there is no space and no bracket, so an address ends where its bracket does.
const ADDRESS = '<((?:"(?:[^"\\\\]|\\\\.)*"|[^"<>\\s])*)>';
// Fields that later versions may add are stepped over; the text is the rest, whatever it looks like.
const RESULT = new RegExp(
  `^to=${ADDRESS}, (?:orig_to=${ADDRESS}, )?relay=([^\\s,]+), ` +
    '(?:(?!dsn=|status=)[a-z_]+=[^\\s,<>()]+, )*' +
    '(?:dsn=(\\d\\.\\d{1,3}\\.\\d{1,3}), )?status=([a-z-]+) \\((.*)$',
  's',
);
const PICKED_UP = new RegExp(`^uid=\\d+ from=${ADDRESS}(?: orig_id=(${ID}))?$`, 's');
const RETURNED = new RegExp(
  `^from=${ADDRESS}, status=(?:force-)?expired, returned to sender$`,
  's',
);
const BOUNCE_SENT = new RegExp(`^sender non-delivery notification: (${ID})$`);
const CODE = /^(?:host \S+ (?:said|refused to talk to me): )?([2-5]\d\d)(?=[ -]|$)/;
const FILTER_FAILS =
  /^warning: (?:connect to Milter service |milter \S+: (?:can't read|EOF while|error writing|read error|write error|malformed reply|unexpected filter|unreasonable packet|bad packet))/;
/** Postfix cuts what it logs, the id included, so a value at the end of this much may be half. */
const TEXT_BYTES_MAX = 2_000;

const STATUS: Readonly<Record<string, RecipientFact['status']>> = {
  sent: 'sent',
  deferred: 'deferred',
  bounced: 'bounced',
  expired: 'expired',
  'force-expired': 'expired',
};
const HANDLED: Readonly<Record<string, HandledAs>> = {
  'placed on hold': 'held',
  'released from hold': 'released',
  removed: 'removed',
  requeued: 'requeued',
  expired: 'expired',
};

/** Who says what: a kind of line is believed of the programs that write it, and of no other. */
const READERS: Readonly<Record<string, (about: About) => QueueIdLine | null>> = {
  smtpd: readSmtpd,
  qmqpd: readSmtpd,
  pickup: readPickup,
  cleanup: (about) => readCleanup(about) ?? readResult(about),
  postsuper: readPostsuper,
  qmgr: (about) => readQmgr(about) ?? readResult(about),
  oqmgr: (about) => readQmgr(about) ?? readResult(about),
  bounce: readBounce,
  smtp: readResult,
  lmtp: readResult,
  local: readResult,
  virtual: readResult,
  pipe: readResult,
  error: readResult,
  retry: readResult,
  discard: readResult,
};

/**
 * Reads one line, without its end, of Postfix's mail log (as of 3.7, with the date of syslog or of
 * RFC 3339); null when it says nothing of a queue id. Text of remote servers and senders stands in
 * such lines, and is never taken for a field, a queue id or another kind of line.
 */
export function parseMailLogLine(line: string): QueueIdLine | OmenLine | null {
  const [, process, program, text] = HEAD.exec(line) ?? [];
  if (process === undefined || program === undefined || text === undefined) return null;
  const [, queueId, rest] = NAMED.exec(text) ?? [];
  if (queueId === undefined || rest === undefined) return readOmen(process, program, text);
  if (!Object.hasOwn(READERS, program)) return null;
  return READERS[program]?.({ queueId, process, text: rest }) ?? null;
}

function readOmen(process: string, program: string, text: string): OmenLine | null {
  if (program === 'cleanup') {
    return FILTER_FAILS.test(text) ? { kind: 'omen', process, of: 'filter_down' } : null;
  }
  if (program !== 'smtpd') return null;
  if (text.startsWith('NOQUEUE: hold: RCPT from ')) return { kind: 'omen', process, of: 'rule' };
  // A refusal, and another client: the message that was to be held came to nothing.
  const isEnd = /^(?:NOQUEUE: (?!milter-hold: )|connect from |disconnect from )/.test(text);
  return isEnd ? { kind: 'omen', process, of: 'none' } : null;
}

function readSmtpd({ queueId, process, text }: About): QueueIdLine | null {
  if (text.startsWith('client=')) return { kind: 'begun', queueId, process, requeuedFrom: null };
  // A filter gives its verdict at the end of the message, to cleanup; before it, it is only missed.
  if (text.startsWith('milter-hold: ')) {
    return { kind: 'held', queueId, process, by: 'filter_down' };
  }
  return text.startsWith('hold: ') ? { kind: 'held', queueId, process, by: 'rule' } : null;
}

function readPickup({ queueId, process, text }: About): QueueIdLine | null {
  const match = PICKED_UP.exec(text);
  if (match === null) {
    // The sender is longer than a line may be.
    return text.startsWith('uid=') ? { kind: 'begun', queueId, process, requeuedFrom: null } : null;
  }
  const isCut = Buffer.byteLength(`${queueId}: ${text}`) >= TEXT_BYTES_MAX;
  return { kind: 'begun', queueId, process, requeuedFrom: isCut ? null : (match[2] ?? null) };
}

function readCleanup({ queueId, process, text }: About): QueueIdLine | null {
  if (/^(?:resent-)?message-id=/.test(text)) return { kind: 'written', queueId, process };
  if (text.startsWith('milter-hold: END-OF-MESSAGE ')) {
    return { kind: 'held', queueId, process, by: 'filter' };
  }
  if (text.startsWith('milter-hold: ')) {
    return { kind: 'held', queueId, process, by: 'filter_down' };
  }
  return text.startsWith('hold: ') ? { kind: 'held', queueId, process, by: 'rule' } : null;
}

function readPostsuper({ queueId, text }: About): QueueIdLine | null {
  const did = Object.hasOwn(HANDLED, text) ? HANDLED[text] : undefined;
  return did === undefined ? null : { kind: 'postsuper', queueId, did };
}

function readQmgr({ queueId, text }: About): QueueIdLine | null {
  if (text === 'removed') return { kind: 'over', queueId };
  return RETURNED.test(text) ? { kind: 'returned', queueId } : null;
}

function readBounce({ queueId, text }: About): QueueIdLine | null {
  const bounceId = BOUNCE_SENT.exec(text)?.[1];
  return bounceId === undefined ? null : { kind: 'bounce_sent', queueId, bounceId };
}

function readResult({ queueId, text }: About): QueueIdLine | null {
  const [, address, originalAddress, relay, dsn, word = '', said = ''] = RESULT.exec(text) ?? [];
  const status = Object.hasOwn(STATUS, word) ? STATUS[word] : undefined;
  if (address === undefined || status === undefined) return null;
  const reply = oneLine(said.replace(/\)$/, ''));
  const code = CODE.exec(reply)?.[1];
  const fact: RecipientFact = {
    status,
    dsn: dsn ?? null,
    relay: relay === undefined || relay === 'none' ? null : relay,
    code: code === undefined ? null : Number(code),
    reply,
  };
  return { kind: 'result', queueId, address, originalAddress: originalAddress ?? null, fact };
}
