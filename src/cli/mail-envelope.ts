import addressparser from 'nodemailer/lib/addressparser';
import { HEAD_BYTES_MAX } from '../domain/message-store.ts';
import { firstOfEach, readMailHead, splitHead } from '../mail/mail-head.ts';
import { textOfLatin1 } from '../mail/mail-text.ts';
import type { Refusal } from './mail-reader.ts';

/** What is said to the gateway of a message. */
export type MailEnvelope = Readonly<{
  /** Empty for the null sender. */
  sender: string;
  recipients: readonly string[];
  /** Null when nobody has looked at the message. */
  score: number | null;
  reason: string | null;
  symbols: readonly string[];
}>;

/** What is known of every message, whatever it says itself; nothing of it for null. */
export type Wish = Readonly<{
  sender: string | null;
  recipients: readonly string[] | null;
  score: number | null;
  reason: string | null;
}>;

const RECIPIENT_FIELDS = ['delivered-to', 'x-original-to', 'to'];
const SENDER_FIELDS = ['return-path', 'from'];

/**
 * The envelope of a message, from what is known and else from the fields that the delivering mail
 * server wrote. Nothing is believed of what filters wrote into it. A message that says no sender at
 * all has the null sender.
 */
export function envelopeOf(
  bytes: Buffer,
  wish: Wish,
): Readonly<{ envelope: MailEnvelope }> | Readonly<{ refusal: Refusal }> {
  if (readMailHead(bytes) === null) {
    const why = 'it is no mail: it does not begin with a header field';
    return { refusal: { reason: 'not_a_message', why } };
  }
  const head = splitHead(bytes.toString('latin1', 0, HEAD_BYTES_MAX));
  const fields = firstOfEach(head.fields);
  const recipients = wish.recipients ?? recipientsIn(fields);
  if (recipients.length === 0) {
    const why = 'it names no recipient in Delivered-To, X-Original-To or To: give --recipient';
    return { refusal: { reason: 'no_recipient', why } };
  }
  const sender = wish.sender ?? senderIn(fields);
  return {
    envelope: { sender, recipients, score: wish.score, reason: wish.reason, symbols: [] },
  };
}

type Fields = ReadonlyMap<string, string>;

function recipientsIn(fields: Fields): readonly string[] {
  for (const name of RECIPIENT_FIELDS) {
    const addresses = addressesIn(fields.get(name));
    if (addresses.length > 0) return addresses;
  }
  return [];
}

function senderIn(fields: Fields): string {
  // Not an address, and yet an answer: the message is itself a notice (RFC 5321 section 4.5.5).
  if (fields.get('return-path')?.trim() === '<>') return '';
  for (const name of SENDER_FIELDS) {
    const [address] = addressesIn(fields.get(name));
    if (address !== undefined) return address;
  }
  return '';
}

const addressesIn = (value: string | undefined): readonly string[] => {
  const addresses = addressparser(textOfLatin1(value ?? ''), { flatten: true });
  return [...new Set(addresses.map(({ address }) => address).filter(isAddress))];
};

const LOCAL_PART = String.raw`(?:[^\s\p{Cc}\p{Cs}"<>@,\\]+|"(?:[^\p{Cc}\p{Cs}"\\]|\\[^\p{Cc}\p{Cs}])*")`;
const LABEL = String.raw`(?:[^\s\p{P}\p{Cc}\p{Cs}]|[_-])+`;
const LITERAL = String.raw`\[(?:\d+(?:\.\d+){3}|IPv6:[\da-f:.]+)\]`;
const ADDRESS = new RegExp(`^${LOCAL_PART}@(?:${LABEL}(?:\\.${LABEL})*|${LITERAL})$`, 'iu');

/** Whether mail can have been sent to it; what cannot be an address was none in the envelope either. */
export const isAddress = (text: string): boolean => ADDRESS.test(text);
