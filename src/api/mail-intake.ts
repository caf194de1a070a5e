import type { IncomingMessage } from 'node:http';
import { finished } from 'node:stream/promises';
import { DomainError } from '../domain/errors.ts';
import type { ReceivedMessage } from '../domain/message-store.ts';
import type { Announcement, Store } from '../domain/quarantine-language.ts';
import { type MailHead, readMailHead, stripMboxLine } from '../mail/mail-head.ts';
import { type IngestEnvelope, readIngestHeaders } from './ingest-headers.ts';
import type { Intake, Taken } from './route.ts';
import { announcementOfEnvelope, readAnnouncement } from './rspamd-announcement.ts';
import { z } from './zod.ts';

/** A message that was handed in: safe on the disk, looked at, and not yet part of the quarantine. */
export type IncomingMail = Readonly<{
  envelope: IngestEnvelope;
  received: ReceivedMessage;
  head: MailHead;
}>;

/** Symbols, recipients and header fields of one message. */
const ANNOUNCEMENT_BYTES_MAX = 1_048_576;

const JSON_BEGIN_BYTES = 256;

const needed = (description: string) => z.string().openapi({ description });
const text = (description: string) => z.string().optional().openapi({ description });

/** Takes in a raw message and what its headers say of it; of one that is refused nothing is left. */
export const mailIntake: Intake = {
  mediaTypes: [
    'message/rfc822',
    'text/rfc822',
    'text/plain',
    'application/octet-stream',
    'application/json',
  ],
  headers: z.object({
    'X-Mail-From': needed('Envelope sender; empty or `<>` for the null sender.'),
    'X-Rcpt-To': needed('Envelope recipients, with commas or one header each.'),
    'X-Spam-Score': text('Leave it out when nobody has looked: that is not 0.'),
    'X-Spam-Symbols': text('Names of rules, with commas.'),
    'X-Quarantine-Reason': text('spam, phishing, sandbox, rbl, virus, policy or unscanned.'),
    'X-Queue-Id': text('The id by which the mail server knows it.'),
    'X-Arrived-At': text('When it arrived (RFC 3339); now, when left out.'),
  }),
  async receive({ quarantine, clock, config }, request) {
    const { spool } = quarantine;
    requireFits(request, config.messageBytesMax, spool === null ? 'postfix' : 'spool');
    if (spool === null) return takeAnnouncement(request, clock.now());
    if (isJson(request)) {
      throw new DomainError(
        'unsupported_media_type',
        'This gateway holds mail in its spool: send the message itself (message/rfc822).',
      );
    }
    const envelope = readIngestHeaders(request, clock.now());
    const received = await spool.receive(request);
    const release = () => spool.drop(received);
    try {
      const mail: IncomingMail = { envelope, received, head: requireMail(received) };
      const { sender, recipients, score, reason, symbols, queueId } = envelope;
      const said = { sender, recipients, score, reason, symbols, queueId };
      return { body: mail, fingerprint: { sha256: received.sha256, ...said }, release };
    } catch (error) {
      await release();
      throw error;
    }
  },
};

/** Where the mail server holds the mail itself, only what is said of it counts, in either form. */
async function takeAnnouncement(request: IncomingMessage, now: Date): Promise<Taken> {
  const announcement = isJson(request)
    ? readAnnouncement(await readJson(request))
    : announcementOfEnvelope(readIngestHeaders(request, now));
  // A message that comes along is read to its end, or its sender would take the answer for a break.
  request.resume();
  await finished(request);
  return { body: announcement, fingerprint: announcement, release: async () => undefined };
}

const isJson = ({ headers }: IncomingMessage): boolean =>
  /^application\/json\s*(?:;|$)/i.test(headers['content-type'] ?? '');

/** Text of the message stands in it, so that bytes which are no UTF-8 must not hide the rest. */
async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > ANNOUNCEMENT_BYTES_MAX) {
      const text = `An announcement takes at most ${ANNOUNCEMENT_BYTES_MAX} bytes.`;
      throw new DomainError('payload_too_large', text);
    }
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new DomainError('bad_request', 'The body is not valid JSON.');
  }
}

/** Told along: the bound, and where mail is held, so that an import knows both before its first message. */
function requireFits({ headers }: IncomingMessage, bytesMax: number, store: Store): void {
  if (Number(headers['content-length'] ?? 0) <= bytesMax) return;
  const text = `A message takes at most ${bytesMax} bytes.`;
  throw new DomainError('payload_too_large', text, { bytes_max: bytesMax, store });
}

/** RFC 5322 lets the name of a field begin so, and nobody does; rspamd's exporter calls its JSON plain text. */
const JSON_BEGIN = /^\s*\{\s*"/;

function requireMail({ head }: ReceivedMessage): MailHead {
  if (JSON_BEGIN.test(Buffer.from(head.subarray(0, JSON_BEGIN_BYTES)).toString('latin1'))) {
    throw new DomainError(
      'not_a_message',
      'This is JSON and no mail: this gateway holds mail in its spool, send the message itself.',
    );
  }
  const read = readMailHead(head);
  if (read === null) {
    throw new DomainError(
      'not_a_message',
      'This is no mail: it does not begin with a header field.',
    );
  }
  if (stripMboxLine(head) > 0) {
    throw new DomainError('not_a_message', 'This begins with the line of an mbox; leave it out.');
  }
  return read;
}

/** What this intake has taken in, for the handler of its route: mail, or what is said of it. */
export const incoming = ({ taken }: Readonly<{ taken: unknown }>): IncomingMail | Announcement =>
  taken as IncomingMail | Announcement;
