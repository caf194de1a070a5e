import { textOfLatin1, toStorableLines } from './mail-text.ts';

/** More padding than a message of the longest lines has; each costs a call. */
const BASE64_UNITS_MAX = 100_000;

/** A part's bytes without their transfer encoding (RFC 2045 section 6), as far as they can be read. */
export function decodeContent(content: Buffer, encoding: string): Buffer {
  if (encoding === 'base64') return decodeBase64(content);
  if (encoding === 'quoted-printable') return decodeQuotedPrintable(content);
  return content;
}

/** How many bytes `decodeContent` would give, without making them where that can be told. */
export function decodedLengthOf(content: Buffer, encoding: string): number {
  if (encoding !== 'base64') return decodeContent(content, encoding).length;
  let digits = 0;
  for (const byte of content) digits += IS_BASE64[byte] ?? 0;
  return Math.floor((digits * 3) / 4);
}

const IS_BASE64 = Uint8Array.from({ length: 256 }, (_, byte) =>
  /[A-Za-z0-9+/]/.test(String.fromCharCode(byte)) ? 1 : 0,
);

/** Padding ends a unit, not the content: some programs pad each line. */
function decodeBase64(content: Buffer): Buffer {
  const units = content.toString('latin1').split(/=[=\s]*/, BASE64_UNITS_MAX);
  return Buffer.concat(units.map((unit) => Buffer.from(unit, 'base64')));
}

function decodeQuotedPrintable(content: Buffer): Buffer {
  const decoded = Buffer.alloc(content.length);
  let length = 0;
  for (let at = 0; at < content.length; at += 1) {
    const byte = content[at] ?? 0;
    const isEscape = byte === EQUALS;
    const high = isEscape ? hexDigitOf(content[at + 1]) : -1;
    const low = isEscape ? hexDigitOf(content[at + 2]) : -1;
    const lineEnd = isEscape ? softLineEnd(content, at + 1) : -1;
    if (high !== -1 && low !== -1) {
      decoded[length++] = high * 16 + low;
      at += 2;
    } else if (lineEnd !== -1) {
      at = lineEnd;
    } else {
      decoded[length++] = byte;
    }
  }
  return decoded.subarray(0, length);
}

const EQUALS = 0x3d;

function hexDigitOf(byte: number | undefined): number {
  const digit = Number.parseInt(String.fromCharCode(byte ?? 0), 16);
  return Number.isNaN(digit) ? -1 : digit;
}

/** Where the line end is that an `=` takes back, with blanks that a server has added; -1 if nowhere. */
function softLineEnd(content: Buffer, from: number): number {
  let at = from;
  while (content[at] === 0x20 || content[at] === 0x09) at += 1;
  if (content[at] === 0x0d && content[at + 1] === 0x0a) return at + 1;
  return content[at] === 0x0a || content[at] === 0x0d ? at : -1;
}

/** Text in a charset that the Encoding Standard knows, and else in UTF-8 or Windows-1252. */
export function decodeText(bytes: Buffer, charset: string): string {
  const label = /^[^\s(]*/.exec(charset)?.[0].toLowerCase() ?? '';
  // ASCII is what programs say that do not know.
  if (/^(?:us-)?(?:ascii)?$/.test(label)) return textOfLatin1(bytes.toString('latin1'));
  try {
    return new TextDecoder(label).decode(bytes);
  } catch {
    return textOfLatin1(bytes.toString('latin1'));
  }
}

/** Lines of text that can be stored and sent, ended as here. */
export const toLines = (text: string): string =>
  toStorableLines(text.replace(/\r\n?|[\f\v]/g, '\n'));
