import type { IncomingMessage } from 'node:http';
import { DomainError } from '../domain/errors.ts';
import type { ReceivedMessage } from '../domain/message-store.ts';
import { type IngestEnvelope, readIngestHeaders } from './ingest-headers.ts';
import { type MailHead, readMailHead, stripMboxLine } from './mail-head.ts';
import type { Intake } from './route.ts';
import { z } from './zod.ts';

/** A message that was handed in: safe on the disk, looked at, and not yet part of the quarantine. */
export type IncomingMail = Readonly<{
  envelope: IngestEnvelope;
  received: ReceivedMessage;
  head: MailHead;
}>;

const needed = (description: string) => z.string().openapi({ description });
const text = (description: string) => z.string().optional().openapi({ description });

/** Takes in a raw message and what its headers say of it; of one that is refused nothing is left. */
export const mailIntake: Intake = {
  mediaTypes: ['message/rfc822', 'text/rfc822', 'text/plain', 'application/octet-stream'],
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
    const envelope = readIngestHeaders(request, clock.now());
    requireFits(request, config.messageBytesMax);
    const received = await quarantine.store.receive(request);
    const release = () => quarantine.store.drop(received);
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

function requireFits({ headers }: IncomingMessage, bytesMax: number): void {
  if (Number(headers['content-length'] ?? 0) <= bytesMax) return;
  throw new DomainError('payload_too_large', `A message takes at most ${bytesMax} bytes.`);
}

function requireMail({ head }: ReceivedMessage): MailHead {
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

/** What this intake has taken in, for the handler of its route. */
export const incomingMail = ({ taken }: Readonly<{ taken: unknown }>): IncomingMail =>
  taken as IncomingMail;
