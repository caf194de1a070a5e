import type pg from 'pg';
import type { PersonalMember } from '../domain/decider.ts';
import type { AddedData } from '../domain/quarantine-language.ts';
import type { Secrets } from '../secrets.ts';
import {
  findMailDomainsByStreams,
  type MailDomainRow,
  mailDomainStream,
  normaliseMailDomainName,
} from './mail-domains.ts';
import { type RecipientGroup, recipientsMember } from './quarantine.ts';

const DAY_MS = 86_400_000;
/** Days that mail of no known mail domain is held. */
const RETENTION_DAYS = 30;

/** The recipients of one living mail domain, or of none. */
export type AddressedGroup = RecipientGroup & Readonly<{ row: MailDomainRow | null }>;

/** Recipients by living mail domain, in the order of their ids; those of none come last. */
export async function groupRecipients(
  { pool, secrets }: Readonly<{ pool: pg.Pool; secrets: Secrets }>,
  recipients: readonly string[],
): Promise<AddressedGroup[]> {
  const streams = new Map(
    recipients.map((address) => {
      const domain = domainOf(address);
      const name = normaliseMailDomainName(domain) ?? domain;
      return [domain, mailDomainStream(secrets, name)] as const;
    }),
  );
  const living = await findMailDomainsByStreams(pool, [...new Set(streams.values())]);
  const byId = new Map<number, { row: MailDomainRow | null; addresses: string[] }>();
  for (const address of recipients) {
    const row = living.get(streams.get(domainOf(address)) ?? '') ?? null;
    const key = row?.id ?? Number.MAX_SAFE_INTEGER;
    const group = byId.get(key) ?? { row, addresses: [] };
    group.addresses.push(address);
    byId.set(key, group);
  }
  return [...byId]
    .sort(([a], [b]) => a - b)
    .map(([, { row, addresses }]) => ({ row, mail_domain: row?.id ?? null, addresses }));
}

/** The part of an address behind its `@`: a domain or an address literal in square brackets. */
export const domainOf = (address: string): string => address.slice(address.lastIndexOf('@') + 1);

/** How long mail for these recipients is held: the longest retention of their mail domains. */
export function retentionMsOf(groups: readonly AddressedGroup[]): number {
  const days = groups.map(({ row }) => row?.settings.quarantine_retention_days ?? 0);
  return (Math.max(...days) || RETENTION_DAYS) * DAY_MS;
}

export const countsOf = (groups: readonly AddressedGroup[]): AddedData['recipients_of'] =>
  groups.map(({ mail_domain: mailDomain, addresses }) => ({
    mail_domain: mailDomain === null ? null : String(mailDomain),
    count: addresses.length,
  }));

/** The envelope, and what of the message's head is shown. */
type Told = Readonly<{
  sender: string;
  subject: string;
  messageId: string | null;
  clientIp: string | null;
}>;

/** The personal members of `quarantine.added`, which `readAdded` reads back. */
export const personalOf = (
  told: Told,
  groups: readonly AddressedGroup[],
): readonly PersonalMember[] => [
  { name: 'sender', value: told.sender, class: 'content' },
  { name: 'subject', value: told.subject, class: 'content' },
  { name: 'message_id', value: told.messageId, class: 'content' },
  { name: 'client_ip', value: told.clientIp, class: 'network' },
  ...groups.map(({ mail_domain: id, addresses }) => ({
    name: recipientsMember(id === null ? null : String(id)),
    value: addresses,
    class: 'content' as const,
  })),
];
