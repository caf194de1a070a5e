import { isUtf8 } from 'node:buffer';
import { decodeWords } from 'postal-mime';

/** Decoding is bounded by this, and what is decoded is far longer than what is shown. */
const FIELD_BYTES_MAX = 16_384;

/**
 * A header's value for people: its bytes, given as Latin-1, are read as UTF-8 or else Windows-1252,
 * encoded words (RFC 2047) are decoded, and the rest is as `toStorableText` leaves it. No more than
 * 16 KiB of it is looked at, since joining encoded words takes quadratic time.
 */
export const decodeHeaderText = (latin1: string, lengthMax: number): string =>
  toStorableText(decodeWords(textOfLatin1(cutBytes(latin1, FIELD_BYTES_MAX))), lengthMax);

/** The start of bytes given as Latin-1; half a character of UTF-8 would make all another charset. */
export function cutBytes(latin1: string, lengthMax: number): string {
  let end = lengthMax;
  while (end > lengthMax - 4 && (latin1.charCodeAt(end) & 0xc0) === 0x80) end -= 1;
  return latin1.slice(0, end);
}

/** The text whose bytes were read as Latin-1, as Node does with headers: UTF-8 if it can be. */
export function textOfLatin1(latin1: string): string {
  const bytes = Buffer.from(latin1, 'latin1');
  return isUtf8(bytes) ? bytes.toString('utf8') : latin1;
}

/**
 * One line of text that PostgreSQL and JSON can hold: line ends and tabs are spaces, other control
 * characters and halves of surrogate pairs are U+FFFD. Cut to a length in UTF-16 units.
 */
export const toStorableText = (text: string, lengthMax: number): string =>
  cutText(toStorableLines(text.replace(/[\t-\r\u2028\u2029]+/g, ' ')).trim(), lengthMax);

/** Text that PostgreSQL and JSON can hold, with the tabs and line feeds that it had. */
export const toStorableLines = (text: string): string =>
  toWellFormed(text)
    .replace(/[\x80-\x9f]/g, (control) => WINDOWS_1252[control.charCodeAt(0) - 0x80] ?? '')
    .replace(/(?![\t\n])\p{Cc}/gu, '\ufffd');

/**
 * What stands at 0x80 to 0x9F in Windows-1252, which is what mail calls Latin-1. Node 20 reads C1
 * control characters there, which nobody writes.
 */
const WINDOWS_1252 = '€\ufffd‚ƒ„…†‡ˆ‰Š‹Œ\ufffdŽ\ufffd\ufffd‘’“”•–—˜™š›œ\ufffdžŸ';

/** The start of a text, never with half of a surrogate pair at its end. */
export function cutText(text: string, lengthMax: number): string {
  if (text.length <= lengthMax) return text;
  const last = text.charCodeAt(lengthMax - 1);
  return text.slice(0, last >= 0xd800 && last <= 0xdbff ? lengthMax - 1 : lengthMax);
}

/** ES2024's `String.prototype.toWellFormed`, which Node has had since 20. */
const toWellFormed = (text: string): string =>
  (text as string & { toWellFormed: () => string }).toWellFormed();
