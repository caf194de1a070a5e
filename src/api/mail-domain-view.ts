import { DIRECTIONS, type MailDomainSettings } from '../domain/mail-domain.ts';
import { type MailDomainRow, normaliseMailDomainName } from '../projections/mail-domains.ts';
import type { Context } from './context.ts';
import { invalid } from './input.ts';
import { Id, Instant, Text } from './schemas.ts';
import { z } from './zod.ts';

const BackendServer = z
  .string()
  .max(260)
  .regex(
    /^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?):(?:[1-9]\d{0,4})$/,
    'must be host:port',
  )
  .refine((text) => Number(/\d+$/.exec(text)?.[0]) <= 65_535, 'must end in a port');
const Threshold = z.number().min(-1_000).max(1_000);

const members = {
  direction: z.enum(DIRECTIONS),
  active: z.boolean(),
  backend_servers: z.array(BackendServer).max(20),
  quarantine_threshold: Threshold,
  reject_threshold: Threshold,
  dkim_active: z.boolean(),
  dmarc_reporting: z.boolean(),
  tenant_id: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,64}$/, 'must be 1 to 64 of A-Z a-z 0-9 . _ -')
    .nullable(),
  quarantine_retention_days: z.number().int().min(1).max(3_650),
};

/** A mail domain as callers see it. */
export const MailDomainView = z
  .object({
    id: Id,
    name: z.string().openapi({ description: 'Lower-case A-labels (IDNA).' }),
    ...members,
    created_at: Instant,
    updated_at: Instant,
  })
  .openapi('MailDomain');

/** What a caller may change; what cannot change may be sent along as it was read. */
export const MailDomainChanges = z.strictObject({
  id: Id.optional(),
  name: Text(253).optional(),
  direction: members.direction.optional(),
  active: members.active.optional(),
  backend_servers: members.backend_servers.optional(),
  quarantine_threshold: members.quarantine_threshold.optional(),
  reject_threshold: members.reject_threshold.optional(),
  dkim_active: members.dkim_active.optional(),
  dmarc_reporting: members.dmarc_reporting.optional(),
  tenant_id: members.tenant_id.optional(),
  quarantine_retention_days: members.quarantine_retention_days.optional(),
  created_at: z.string().optional(),
  updated_at: z.string().optional(),
});

export type MailDomainChange = z.output<typeof MailDomainChanges>;

/** What a mail domain is made with, where its maker says nothing else. */
export const DEFAULT_SETTINGS: MailDomainSettings = {
  direction: 'inbound',
  active: true,
  quarantine_threshold: 12,
  reject_threshold: 18,
  dkim_active: false,
  dmarc_reporting: false,
  tenant_id: null,
  quarantine_retention_days: 30,
};

/** Members that nobody can change may be sent as they are, so that a read object can be put back. */
export function requireUnchanged(
  view: z.input<typeof MailDomainView>,
  body: MailDomainChange,
): void {
  const name = body.name === undefined ? undefined : (normaliseMailDomainName(body.name) ?? '');
  const sent = { id: body.id, name, created_at: body.created_at, updated_at: body.updated_at };
  const issues = Object.entries(sent)
    .filter(([member, value]) => value !== undefined && value !== view[member as keyof typeof sent])
    .map(([path]) => ({ path, message: 'cannot be changed' }));
  if (issues.length > 0) throw invalid(issues);
}

/** The settings among what was sent; a member that was not sent is absent, not undefined. */
export function settingsIn(body: Partial<MailDomainChange>): Partial<MailDomainSettings> {
  const {
    id: _,
    name: _n,
    backend_servers: _b,
    created_at: _c,
    updated_at: _u,
    ...settings
  } = body;
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

/** Rows with their names. */
export async function viewMailDomains(
  { log }: Context,
  rows: readonly MailDomainRow[],
): Promise<z.input<typeof MailDomainView>[]> {
  const names = await log.readNames(rows.map(({ id }) => `mail_domain:${id}`));
  return rows.map((row) => ({
    id: row.id,
    name: names.get(`mail_domain:${row.id}`)?.name ?? '',
    ...row.settings,
    backend_servers: [...row.backendServers],
    created_at: row.createdAt,
    updated_at: row.updatedAt,
  }));
}

export async function viewMailDomain(
  context: Context,
  row: MailDomainRow,
): Promise<z.input<typeof MailDomainView>> {
  const [view] = await viewMailDomains(context, [row]);
  if (view === undefined) throw new Error('a mail domain without a view');
  return view;
}
