import assert from 'node:assert/strict';
import { encode, wrap } from 'nodemailer/lib/qp';

const HEADER_BYTES_MAX = 65_536;
const REASON_CHARS_MAX = 2_000;
/** RFC 5322 2.1.1, without the line end. */
const LINE_BYTES_MAX = 998;
/** Delivery not authorized, message refused (RFC 3463 3.8). */
const STATUS = '5.7.1';
const BOUNDARY = /^[A-Za-z0-9'()+_,./:=?-]{1,60}$/;

export type Bounce = Readonly<{
  /** Host name of this gateway. */
  reportingMta: string;
  /** Envelope sender of the rejected message, to whom the notice goes. */
  sender: string;
  /** Those who do not get the message. */
  recipients: readonly string[];
  /** Whatever the operator wrote; at most 2,000 characters of it are told. */
  reason: string | null;
  /** Left side of the notice's own Message-ID; the same for each attempt at the same notice. */
  messageId: string;
  arrivedAt: Date;
  /** The first bytes of the rejected message, of which only the header is shown, 64 KiB at most. */
  head: Uint8Array;
  at: Date;
  /** At most 60 characters of a MIME boundary; random, so that no message can have it in itself. */
  boundary: string;
}>;

/**
 * A non-delivery report in English: a multipart/report (RFC 6522) with the text, the delivery status
 * (RFC 3464) and the header of the rejected message, in lines of 7-bit text that end in CRLF. It
 * goes out with the null sender (RFC 5321 4.5.5). No argument can add a header field or a part to
 * it; addresses that are not ASCII make it an internationalised message (RFC 6532).
 */
export function buildBounce(bounce: Bounce): Uint8Array {
  const host = hostOf(bounce.reportingMta);
  const parts = [
    part('text/plain; charset=utf-8', textOf(bounce, host), 'utf8'),
    `Content-Type: message/delivery-status\r\n\r\n${statusOf(bounce, host)}`,
    part('text/rfc822-headers', headerOf(bounce.head), 'latin1'),
  ];
  const boundary = boundaryFor(bounce.boundary, parts);
  const header = [
    `From: Mail Delivery System <MAILER-DAEMON@${host}>`,
    `To: <${addressOf(bounce.sender)}>`,
    'Subject: Undelivered mail returned to sender',
    `Date: ${toDate(bounce.at)}`,
    `Message-ID: <${bounce.messageId.replace(/[^A-Za-z0-9.-]/g, '')}@${host}>`,
    // RFC 3834 5.1: nobody's automaton is to answer this.
    'Auto-Submitted: auto-replied',
    'MIME-Version: 1.0',
    'Content-Type: multipart/report; report-type=delivery-status;',
    `\tboundary="${boundary}"`,
  ];
  const body = parts.map((text) => `--${boundary}\r\n${text}\r\n`).join('');
  return Buffer.from(`${header.join('\r\n')}\r\n\r\n${body}--${boundary}--\r\n`);
}

function textOf({ reason, recipients, arrivedAt }: Bounce, host: string): string {
  const said = plain(reason ?? '')
    .slice(0, REASON_CHARS_MAX)
    .trimEnd();
  return [
    `This is the mail gateway ${host}.`,
    '',
    `Your message of ${toDate(arrivedAt)} was not delivered to:`,
    '',
    ...recipients.map((address) => `    ${addressOf(address)}`),
    '',
    "It was rejected by the recipient's mail gateway. This is final: the message is not kept, and",
    'will not be tried again.',
    ...(said === '' ? [] : ['', 'The reason that was given:', '', said.replace(/^/gm, '    ')]),
    '',
  ].join('\n');
}

function statusOf({ arrivedAt, recipients }: Bounce, host: string): string {
  const message = [`Reporting-MTA: dns; ${host}`, `Arrival-Date: ${toDate(arrivedAt)}`];
  const groups = recipients.map((address) => [
    `Final-Recipient: ${typedAddress(addressOf(address))}`,
    'Action: failed',
    `Status: ${STATUS}`,
  ]);
  return [message, ...groups].map((group) => `${group.join('\r\n')}\r\n`).join('\r\n');
}

/** RFC 6533 3: an address that is not ASCII is written in ASCII, for readers that know no better. */
function typedAddress(address: string): string {
  if (!/\P{ASCII}/u.test(address)) return `rfc822; ${address}`;
  const escaped = Array.from(address, (character) =>
    /[!-*,-<>-[\]-~]/.test(character)
      ? character
      : `\\x{${character.codePointAt(0)?.toString(16).toUpperCase()}}`,
  );
  return `utf-8; ${escaped.join('')}`;
}

/** The header block, up to its empty line, with each byte as a character of Latin-1. */
function headerOf(head: Uint8Array): string {
  const text = toLines(Buffer.from(head.subarray(0, HEADER_BYTES_MAX)).toString('latin1'));
  const [header = ''] = text.split(/^\n|\n\n/, 1);
  return `${header}\n`;
}

/** In quoted-printable when it is not plain text in lines of an allowed length (RFC 6522 4). */
function part(type: string, text: string, encoding: 'utf8' | 'latin1'): string {
  const lines = text.split('\n');
  const isPlain = !/[^\t\n -~]/.test(text) && lines.every(({ length }) => length <= LINE_BYTES_MAX);
  const body = text.replaceAll('\n', '\r\n');
  if (isPlain) return `Content-Type: ${type}\r\n\r\n${body}`;
  const encoded = wrap(encode(Buffer.from(body, encoding)));
  return `Content-Type: ${type}\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n${encoded}`;
}

/**
 * The boundary that was asked for, or the first longer one that no part has in itself; each that is
 * tried in vain stands in the parts, so their size bounds the search.
 */
function boundaryFor(wished: string, parts: readonly string[]): string {
  assert(BOUNDARY.test(wished), 'a boundary is 1 to 60 characters of RFC 2046 5.1.1');
  const isFree = (boundary: string) => !parts.some((text) => text.includes(boundary));
  let boundary = wished;
  for (let tries = 1; !isFree(boundary); tries += 1) boundary = `${wished}_${tries}`;
  return boundary;
}

const toLines = (text: string): string => text.replace(/\r\n?/g, '\n');

/** Without control characters but tabs and line ends. */
const plain = (text: string): string =>
  toLines(text.replace(/[\p{Zl}\p{Zp}]/gu, '\n')).replace(/(?![\t\n])\p{Cc}/gu, '');

const addressOf = (address: string): string => address.replace(/[\p{Cc}\p{Zl}\p{Zp}<>]/gu, '');

const hostOf = (name: string): string => name.replace(/[^A-Za-z0-9.:_[\]-]/g, '') || 'localhost';

/** RFC 5322 3.3. */
const toDate = (date: Date): string => date.toUTCString().replace('GMT', '+0000');
