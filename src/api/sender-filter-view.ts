import { FILTER_KINDS, FILTER_SCOPES } from '../domain/sender-filter.ts';
import { normaliseMailDomainName } from '../projections/mail-domains.ts';
import type { SenderFilterRow } from '../projections/sender-filters.ts';
import type { Context } from './context.ts';
import { Id, Instant, Text, TimestampOrNull } from './schemas.ts';
import { z } from './zod.ts';

const ADDRESS_LENGTH_MAX = 320;
/** RFC 5321 section 4.5.3.1.3, less the angle brackets. */
const ADDRESS_BYTES_MAX = 254;
/** An atom, as widely as mail servers take it, or a quoted string (RFC 5321 section 4.1.2). */
const LOCAL_PART =
  /^(?:[^\s\p{Cc}\p{Cs}"<>@,;:()\\]+|"(?:[^\p{Cc}\p{Cs}"\\]|\\[^\p{Cc}\p{Cs}])*")$/u;

/** A mail address with its domain as lower-case A-labels; null for what is none. */
function normaliseAddress(text: string): string | null {
  const at = text.lastIndexOf('@');
  const domain = normaliseDomain(text.slice(at + 1));
  if (at < 1 || domain === null || !LOCAL_PART.test(text.slice(0, at))) return null;
  const address = `${text.slice(0, at)}@${domain}`;
  return Buffer.byteLength(address) <= ADDRESS_BYTES_MAX ? address : null;
}

/** A sender as filters name it: an address, or `@` and a domain, which may be given bare. */
function normaliseSender(text: string): string | null {
  const domain = normaliseDomain(text.replace(/^@/, ''));
  return domain === null ? normaliseAddress(text) : `@${domain}`;
}

const normaliseDomain = (text: string): string | null =>
  /\s/.test(text) ? null : normaliseMailDomainName(text);

const normalised = (normalise: (text: string) => string | null, message: string) =>
  Text(ADDRESS_LENGTH_MAX)
    .transform((text, context) => {
      const value = normalise(text);
      if (value === null) context.issues.push({ code: 'custom', message, input: text });
      return value ?? '';
    })
    .openapi({ type: 'string' });

/** A sender as it may be written; comes out as filters name it. */
export const Sender = normalised(normaliseSender, 'is neither a mail address nor a domain').openapi(
  { description: 'An address, or `@` and a domain.' },
);

const Kind = z.enum(FILTER_KINDS).openapi({
  description: '`allow`: not quarantined as spam. `block`: not delivered.',
});
const Scope = z.enum(FILTER_SCOPES).openapi({ description: 'Whose mail is filtered.' });

/** A sender filter as callers see it. */
export const SenderFilterView = z
  .object({
    id: Id,
    kind: Kind,
    scope: Scope,
    mail_domain: z.string().nullable().openapi({ description: 'Null for a global filter.' }),
    sender: z.string().openapi({ description: 'An address, or `@` and a domain.' }),
    recipient: z.string().nullable(),
    expires_at: Instant.nullable(),
    made_by: z
      .object({ message_id: z.string() })
      .nullable()
      .openapi({ description: 'The held message whose release or discard made it.' }),
    created_at: Instant,
  })
  .openapi('SenderFilter');

/** What a caller says of a new one. Members that its scope does not have are null or left out. */
export const NewSenderFilter = z.strictObject({
  kind: Kind,
  scope: Scope,
  sender: Sender,
  recipient: normalised(normaliseAddress, 'is no mail address')
    .nullish()
    .openapi({ type: ['string', 'null'] }),
  mail_domain: z.union([Text(253), Id]).nullish(),
  expires_at: TimestampOrNull.optional(),
});

/** Rows with the names of their mail domains. */
export async function viewSenderFilters(
  { log }: Context,
  rows: readonly SenderFilterRow[],
): Promise<z.input<typeof SenderFilterView>[]> {
  const ids = new Set(rows.flatMap(({ mailDomain }) => mailDomain ?? []));
  const names = await log.readNames([...ids].map((id) => `mail_domain:${id}`));
  return rows.map((row) => ({
    id: row.id,
    kind: row.kind,
    scope: row.scope,
    mail_domain: names.get(`mail_domain:${row.mailDomain}`)?.name ?? null,
    sender: row.sender,
    recipient: row.recipient,
    expires_at: row.expiresAt,
    made_by: row.madeBy === null ? null : { message_id: row.madeBy },
    created_at: row.createdAt,
  }));
}

export async function viewSenderFilter(
  context: Context,
  row: SenderFilterRow,
): Promise<z.input<typeof SenderFilterView>> {
  const [view] = await viewSenderFilters(context, [row]);
  if (view === undefined) throw new Error('a sender filter without a view');
  return view;
}
