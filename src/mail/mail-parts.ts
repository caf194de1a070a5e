import { decodeWords } from 'postal-mime';
import { decodeText } from './mail-content.ts';
import { firstOfEach, type MailField, splitHead } from './mail-head.ts';
import { textOfLatin1, toStorableText } from './mail-text.ts';

type Described = Readonly<{
  /** In lower case, without parameters. */
  contentType: string;
  charset: string;
  /** The transfer encoding, in lower case. */
  encoding: string;
  /** In lower case; null when nothing is said. */
  disposition: string | null;
  filename: string | null;
}>;

/** A part that holds no others. Its content stands from `start` to before `end` in the text. */
export type MailPart = Described & Readonly<{ start: number; end: number; isClosed: boolean }>;

export type MailParts = Readonly<{
  fields: readonly MailField[];
  bodyStart: number;
  parts: readonly MailPart[];
  problem: 'too_deeply_nested' | 'unparsable' | null;
  /** Whether there are more parts than were looked at. */
  isCut: boolean;
}>;

const PARTS_MAX = 1_000;
const NESTING_MAX = 256;
/** How deep messages within messages are looked into; what is deeper is an attachment. */
const MESSAGES_MAX = 10;
const PART_HEAD_LENGTH_MAX = 65_536;
/** RFC 2046 section 5.1.1 allows 70 and white space behind them. */
const BOUNDARY_LENGTH_MAX = 200;
const PARAMETERS_LENGTH_MAX = 4_096;
const SECTIONS_MAX = 100;
const FILENAME_LENGTH_MAX = 255;

type Container = Readonly<{ boundary: string; defaultType: string; messages: number }>;
/** The multiparts that a place is in, by their boundaries, from the outermost. */
type Open = Map<string, Container>;
type Delimiter = Readonly<{ container: Container; isLast: boolean; start: number; end: number }>;
type Entity = Readonly<{ start: number; defaultType: string; messages: number }>;

/**
 * Finds the parts of a message (RFC 2046) whose bytes are given as Latin-1. Nothing is decoded or
 * copied, so that time and memory follow from the message's length alone, whatever it holds.
 */
export function splitMail(text: string): MailParts {
  const { fields, bodyStart } = splitHead(text);
  const found = { fields, bodyStart: bodyStart ?? text.length, problem: null, isCut: false };
  const parts: MailPart[] = [];
  const open: Open = new Map();
  let entity: Entity | null = { start: 0, defaultType: 'text/plain', messages: 0 };
  for (let looked = 0; entity !== null; looked += 1) {
    if (looked === PARTS_MAX) return { ...found, parts, isCut: true };
    const head: Head = readEntityHead(text, entity, open);
    const { messages }: Entity = entity;
    if (isMessage(head) && messages < MESSAGES_MAX) {
      entity = { start: head.end, defaultType: 'text/plain', messages: messages + 1 };
      continue;
    }
    const isContainer = head.boundary !== '';
    if (isContainer && open.size === NESTING_MAX) {
      return { ...found, parts: [], problem: 'too_deeply_nested' };
    }
    if (isContainer) open.set(head.boundary, toContainer(head, messages));
    const delimiter = nextDelimiter(text, head.end, open);
    if (!isContainer) parts.push(toPart(text, head, delimiter));
    entity = nextEntity(text, delimiter, open);
  }
  // Parts that are promised and not there, or a head that is none.
  const isBroken = parts.every(({ contentType }) => contentType.startsWith('multipart/'));
  return { ...found, parts, problem: isBroken || fields.length === 0 ? 'unparsable' : null };
}

type Head = Described & Readonly<{ boundary: string; end: number }>;

/** A part's own header, which ends at a delimiter if its blank line was forgotten. */
function readEntityHead(text: string, { start, defaultType }: Entity, open: Open): Head {
  const near = start === 0 ? text : text.slice(start, start + PART_HEAD_LENGTH_MAX);
  const own = near.slice(0, nextDelimiter(near, 0, open)?.start);
  const { fields, bodyStart } = splitHead(own);
  const values = firstOfEach(fields);
  const type = parseParameters(values.get('content-type') ?? '');
  const disposition = parseParameters(values.get('content-disposition') ?? '');
  const isType = type.value.includes('/');
  const contentType = toStorableText(isType ? type.value : defaultType, FILENAME_LENGTH_MAX);
  const boundary = type.parameters.get('boundary')?.trimEnd() ?? '';
  const isMultipart =
    contentType.startsWith('multipart/') && boundary.length <= BOUNDARY_LENGTH_MAX;
  const filename = parameterOf(disposition, 'filename') ?? parameterOf(type, 'name');
  return {
    contentType,
    charset: type.parameters.get('charset') ?? '',
    encoding: parseParameters(values.get('content-transfer-encoding') ?? '').value,
    disposition: toStorableText(disposition.value, FILENAME_LENGTH_MAX) || null,
    filename: filename === null ? null : toFilename(filename),
    boundary: isMultipart ? boundary : '',
    end: start + (bodyStart ?? own.length),
  };
}

const isMessage = ({ contentType, disposition, encoding }: Head): boolean =>
  contentType === 'message/rfc822' &&
  disposition !== 'attachment' &&
  /^(?:7bit|8bit|binary)?$/.test(encoding);

const toContainer = ({ boundary, contentType }: Head, messages: number): Container => ({
  boundary,
  defaultType: contentType === 'multipart/digest' ? 'message/rfc822' : 'text/plain',
  messages,
});

/** The line end before a delimiter belongs to the delimiter (RFC 2046 section 5.1.1). */
function toPart(text: string, head: Head, delimiter: Delimiter | null): MailPart {
  const { boundary: _, end: start, ...described } = head;
  let end = delimiter?.start ?? text.length;
  if (delimiter !== null && text[end - 1] === '\n') end -= text[end - 2] === '\r' ? 2 : 1;
  return { ...described, start, end: Math.max(start, end), isClosed: delimiter !== null };
}

/** What begins behind a delimiter, or behind the first one that follows and closes nothing. */
function nextEntity(text: string, first: Delimiter | null, open: Open): Entity | null {
  let delimiter = first;
  while (delimiter !== null) {
    const { container, isLast, end } = delimiter;
    closeUpTo(container, open);
    if (!isLast) return { start: end, ...container };
    open.delete(container.boundary);
    delimiter = nextDelimiter(text, end, open);
  }
  return null;
}

function closeUpTo(container: Container, open: Open): void {
  for (const boundary of [...open.keys()].reverse()) {
    if (boundary === container.boundary) return;
    open.delete(boundary);
  }
}

/** The next line that is the delimiter of an open multipart, from the start of a line on. */
function nextDelimiter(text: string, from: number, open: Open): Delimiter | null {
  if (open.size === 0) return null;
  for (let start = from; start !== -1; start = nextDashes(text, start)) {
    if (!text.startsWith('--', start)) continue;
    const lineEnd = text.indexOf('\n', start);
    const end = lineEnd === -1 ? text.length : lineEnd + 1;
    const line = text.slice(start + 2, Math.min(end, start + BOUNDARY_LENGTH_MAX + 8)).trimEnd();
    const container = open.get(line);
    const closed = line.endsWith('--') ? open.get(line.slice(0, -2)) : undefined;
    if (container !== undefined) return { container, isLast: false, start, end };
    if (closed !== undefined) return { container: closed, isLast: true, start, end };
  }
  return null;
}

function nextDashes(text: string, from: number): number {
  const lineEnd = text.indexOf('\n--', from);
  return lineEnd === -1 ? -1 : lineEnd + 1;
}

type Parameters = Readonly<{ value: string; parameters: ReadonlyMap<string, string> }>;

const PARAMETER = /;\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))/gs;

/** A structured field (RFC 2045 section 5.1): its value in lower case, the first of each parameter. */
function parseParameters(field: string): Parameters {
  const text = field.slice(0, PARAMETERS_LENGTH_MAX);
  const parameters = new Map<string, string>();
  for (const [, name = '', quoted, token = ''] of text.matchAll(PARAMETER)) {
    const key = name.toLowerCase();
    const value = quoted?.replace(/\\(.)/gs, '$1') ?? token.trim();
    if (!parameters.has(key)) parameters.set(key, value);
  }
  const [, value = ''] = /^\s*([^\s;(]*)/.exec(text) ?? [];
  return { value: value.toLowerCase(), parameters };
}

/** A parameter as text, also one that is cut into sections or names its charset (RFC 2231). */
function parameterOf({ parameters }: Parameters, name: string): string | null {
  const sections: string[] = [];
  for (let number = 0; number < SECTIONS_MAX; number += 1) {
    const plain = parameters.get(`${name}*${number}`);
    const encoded = parameters.get(`${name}*${number}*`);
    if (plain === undefined && encoded === undefined) break;
    sections.push(plain ?? unescapePercent(encoded ?? ''));
  }
  const single = parameters.get(`${name}*`);
  const extended = single === undefined ? sections.join('') : unescapePercent(single);
  if (extended === '') {
    const plain = parameters.get(name);
    return plain === undefined ? null : decodeWords(textOfLatin1(plain));
  }
  const [, charset = '', value = extended] = /^([\w-]*)'[\w-]*'(.*)$/s.exec(extended) ?? [];
  return decodeText(Buffer.from(value, 'latin1'), charset);
}

const unescapePercent = (text: string): string =>
  text.replace(/%([\da-f]{2})/gi, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );

/** A name such as `invoice<U+202E>fdp.exe` would be shown as `invoiceexe.pdf`. */
const toFilename = (text: string): string =>
  toStorableText(
    text.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, '\ufffd'),
    FILENAME_LENGTH_MAX,
  );
