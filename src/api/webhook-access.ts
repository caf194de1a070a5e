import { isNarrowed, type Principal, sees } from '../domain/access.ts';
import { DomainError } from '../domain/errors.ts';
import { findWebhook, type WebhookRow } from '../projections/webhooks.ts';
import type { Context } from './context.ts';
import { findMailDomainId } from './mail-domain-name.ts';
import { IdText } from './schemas.ts';
import { z } from './zod.ts';

export const tag = 'Webhooks';
export const read = { operation: 'read', reach: 'mail_domain' } as const;
export const write = { operation: 'write', reach: 'mail_domain' } as const;
export const WebhookParams = z.strictObject({ id: IdText });

/** A subscription that this caller may know of; anybody else's is not there. */
export async function findVisibleWebhook(
  { pool }: Context,
  principal: Principal,
  id: number,
): Promise<WebhookRow> {
  const row = await findWebhook(pool, id);
  if (row === null || !sees(principal, row.mailDomain)) {
    throw new DomainError('not_found', 'No such webhook.');
  }
  return row;
}

/** Whose events a new subscription is for; null for everybody's. */
export async function mailDomainFor(
  context: Context,
  given: string | number | null,
  principal: Principal,
): Promise<number | null> {
  if (given === null) return isNarrowed(principal) ? (principal.mailDomain ?? 0) : null;
  const id = await findMailDomainId(context, given);
  // A foreign mail domain is as unknown as one that does not exist.
  if (id !== null && sees(principal, id)) return id;
  throw new DomainError('unknown_mail_domain', 'There is no such mail domain.');
}

/** Refuses a URL that deliveries could not go to. */
export async function requireTarget({ webhooks }: Context, url: string): Promise<void> {
  const refusal = await webhooks.refuseTarget(url);
  if (refusal === null) return;
  throw new DomainError('target_refused', `Events cannot be posted there: ${refusal}.`, {
    issues: [{ path: 'url', message: refusal }],
  });
}
