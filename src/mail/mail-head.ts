import { HEAD_BYTES_MAX } from '../domain/message-store.ts';
import { decodeHeaderText } from './mail-text.ts';

/** What a list shows of a message; every text can be stored by PostgreSQL and sent as JSON. */
export type MailHead = Readonly<{
  /** Empty when the message has none. */
  subject: string;
  /** As it is written, with its angle brackets. */
  messageId: string | null;
  /** The field `From`, as text for people: anybody can write anything there. */
  from: string | null;
  date: string | null;
  /** Whether the header block ended within what was read. */
  isWhole: boolean;
}>;

const SUBJECT_LENGTH_MAX = 998;
const TEXT_LENGTH_MAX = 500;
const FIELDS_MAX = 10_000;
const MBOX_LINE_BYTES_MAX = 1_024;

/** CRLF, LF, a lone CR, and the CR CR LF that some make of CRLF; bounded, so a search is linear. */
const LINE_END = String.raw`(?:\r{0,2}\n|\r(?!\r?\n))`;
const LINE_ENDS = new RegExp(LINE_END);
/** A field goes on where the next line begins with white space, which is kept (RFC 5322 2.2.3). */
const FOLDS = new RegExp(`${LINE_END}(?=[ \\t])`, 'g');
const HEAD_END = new RegExp(`^${LINE_END}|${LINE_END}${LINE_END}`);
const MBOX_LINE = new RegExp(`^From [^\\r\\n]*${LINE_END}`);
/** RFC 5322 section 2.2, with the white space before the colon that section 4.5 still allows. */
const FIELD = /^([!-9;-~]+)[ \t]*:/;

/**
 * Reads the first `HEAD_BYTES_MAX` bytes of a message (RFC 5322), in linear time. Null when they
 * are not a message: nothing, or a first line that is no header field.
 */
export function readMailHead(head: Uint8Array): MailHead | null {
  const bytes = bytesOf(head);
  const text = bytes.toString('latin1', stripMboxLine(head), HEAD_BYTES_MAX);
  if (!FIELD.test(text)) return null;
  const { fields, bodyStart } = splitHead(text);
  const shown = firstOfEach(fields);
  return {
    subject: textOf(shown.get('subject'), SUBJECT_LENGTH_MAX) ?? '',
    messageId: textOf(shown.get('message-id'), TEXT_LENGTH_MAX),
    from: textOf(shown.get('from'), TEXT_LENGTH_MAX),
    date: textOf(shown.get('date'), TEXT_LENGTH_MAX),
    // What is shorter than was asked for is the message to its end.
    isWhole: bodyStart !== null || bytes.length < HEAD_BYTES_MAX,
  };
}

/** A header field as it came, its bytes as Latin-1, unfolded. */
export type MailField = Readonly<{ name: string; value: string }>;

/**
 * The header fields that a message or a part of one begins with, its bytes given as Latin-1, as far as
 * `HEAD_BYTES_MAX` and 10,000 lines, and where the body starts; null when the fields do not end. A line that is no
 * field is left out.
 */
export function splitHead(
  text: string,
): Readonly<{ fields: readonly MailField[]; bodyStart: number | null }> {
  const end = HEAD_END.exec(text);
  const block = text.slice(0, Math.min(end?.index ?? text.length, HEAD_BYTES_MAX));
  const fields: MailField[] = [];
  for (const line of block.replace(FOLDS, '').split(LINE_ENDS, FIELDS_MAX)) {
    const [start = '', name] = FIELD.exec(line) ?? [];
    if (name !== undefined) fields.push({ name, value: line.slice(start.length) });
  }
  return { fields, bodyStart: end === null ? null : end.index + end[0].length };
}

/** The value of the first field of each name, in lower case; a second one would be a forger's. */
export function firstOfEach(fields: readonly MailField[]): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  for (const { name, value } of fields) {
    const key = name.toLowerCase();
    if (!values.has(key)) values.set(key, value);
  }
  return values;
}

/** Where the message starts: after the line that a mailbox file (RFC 4155) puts first, or at 0. */
export function stripMboxLine(message: Uint8Array): number {
  const start = bytesOf(message.subarray(0, MBOX_LINE_BYTES_MAX)).toString('latin1');
  return MBOX_LINE.exec(start)?.[0].length ?? 0;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Uint8Array): Buffer =>
  Buffer.from(buffer, byteOffset, byteLength);

function textOf(field: string | undefined, lengthMax: number): string | null {
  const text = decodeHeaderText(field ?? '', lengthMax);
  return text === '' ? null : text;
}
