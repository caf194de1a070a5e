import { HEAD_BYTES_MAX } from '../domain/message-store.ts';
import { decodeContent, decodedLengthOf, decodeText, toLines } from './mail-content.ts';
import { stripMboxLine } from './mail-head.ts';
import { cleanHtml } from './mail-html.ts';
import { type MailPart, type MailParts, splitMail } from './mail-parts.ts';
import { cutBytes, cutText, decodeHeaderText, textOfLatin1 } from './mail-text.ts';

/** How much of a message is looked at for its preview. */
export const PREVIEW_BYTES_MAX = 4_194_304;

type PreviewedAttachment = {
  filename: string | null;
  content_type: string;
  /** Unpacked from its transfer encoding only, and as far as the message was looked at. */
  size_bytes: number;
  disposition: string | null;
  is_truncated: boolean;
};

/** A message as it may be shown: all of it is text for people, and can be sent as JSON. */
export type MailPreview = {
  headers: { name: string; value: string }[];
  text: string | null;
  /** As `cleanHtml` leaves it. */
  html: string | null;
  attachments: PreviewedAttachment[];
  /** Whether the HTML would have loaded something from elsewhere. */
  remote_content: boolean;
  /** Whether there are more fields, more text or more parts than are shown. */
  is_truncated: boolean;
  problem: 'too_deeply_nested' | 'unparsable' | null;
};

const HEADERS_MAX = 200;
const NAME_LENGTH_MAX = 200;
const VALUE_LENGTH_MAX = 2_000;
const TEXT_LENGTH_MAX = 262_144;
/** Four times what is shown of HTML, the most that its characters take in UTF-8. */
const TEXT_BYTES_MAX = 2_097_152;
const RAW_TEXT_LENGTH_MAX = 65_536;
const ATTACHMENTS_MAX = 100;

/**
 * Shows the first bytes of a message, whatever they are, without throwing: what cannot be taken apart
 * is shown as text, with its `problem`. Nothing is unpacked but transfer encodings.
 */
export function previewMail(given: Uint8Array, sizeBytes: number): MailPreview {
  const bytes = given.subarray(0, PREVIEW_BYTES_MAX);
  const message = withLineFeeds(bytes.subarray(stripMboxLine(bytes)));
  const text = message.toString('latin1');
  const mail = splitMail(text);
  const isOpen = sizeBytes > bytes.length;
  const shown = mail.problem === null ? showParts(message, mail, isOpen) : showRaw(text, mail);
  const isHeadCut = mail.fields.length > HEADERS_MAX || mail.bodyStart > HEAD_BYTES_MAX;
  return {
    headers: mail.fields.slice(0, HEADERS_MAX).map(({ name, value }) => ({
      name: cutText(name, NAME_LENGTH_MAX),
      value: decodeHeaderText(value, VALUE_LENGTH_MAX),
    })),
    ...shown,
    is_truncated: isOpen || mail.isCut || isHeadCut || shown.is_truncated,
    problem: mail.problem,
  };
}

/** A message may have lone CRs for line ends, and then it has no others. */
const withLineFeeds = (bytes: Uint8Array): Buffer =>
  Buffer.from(bytes.includes(0x0a) ? bytes : bytes.map((byte) => (byte === 0x0d ? 0x0a : byte)));

type Shown = Omit<MailPreview, 'headers' | 'problem'>;

function showParts(message: Buffer, { parts }: MailParts, isOpen: boolean): Shown {
  const plain = readTexts(message, parts, 'text/plain');
  const pages = readTexts(message, parts, 'text/html');
  const text = plain.texts.join('\n');
  const { html, isRemote, isCut } = cleanHtml(pages.texts);
  const attached = parts.filter((part) => isAttached(part) || part.filename !== null);
  return {
    text: cutText(text, TEXT_LENGTH_MAX) || null,
    html: html || null,
    attachments: attached.slice(0, ATTACHMENTS_MAX).map((part) => ({
      filename: part.filename,
      content_type: part.contentType,
      size_bytes: decodedLengthOf(contentOf(message, part), part.encoding),
      disposition: part.disposition,
      is_truncated: isOpen && !part.isClosed,
    })),
    remote_content: isRemote,
    is_truncated:
      [plain, pages].some(({ isLong }) => isLong) ||
      isCut ||
      text.length > TEXT_LENGTH_MAX ||
      attached.length > ATTACHMENTS_MAX,
  };
}

const contentOf = (message: Buffer, { start, end }: MailPart): Buffer =>
  message.subarray(start, end);

/** What stands in the parts of one type that are there to be read, as far as it may be shown. */
function readTexts(message: Buffer, parts: readonly MailPart[], contentType: string) {
  let bytesLeft = TEXT_BYTES_MAX;
  const texts: string[] = [];
  for (const part of parts) {
    if (part.contentType !== contentType || isAttached(part)) continue;
    const content = decodeContent(contentOf(message, part), part.encoding);
    const text = toLines(decodeText(content.subarray(0, Math.max(bytesLeft, 0)), part.charset));
    if (text !== '') texts.push(text);
    bytesLeft -= content.length;
  }
  return { texts, isLong: bytesLeft < 0 };
}

const isAttached = ({ contentType, disposition }: MailPart): boolean =>
  disposition === 'attachment' || !['text/plain', 'text/html'].includes(contentType);

function showRaw(text: string, { fields, bodyStart }: MailParts): Shown {
  const body = text.slice(fields.length === 0 ? 0 : bodyStart);
  const start = toLines(textOfLatin1(cutBytes(body, RAW_TEXT_LENGTH_MAX)));
  return {
    text: start || null,
    html: null,
    attachments: [],
    remote_content: false,
    is_truncated: body.length > RAW_TEXT_LENGTH_MAX,
  };
}
