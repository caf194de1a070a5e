import { saveWebhookSecret } from '../db/credentials.ts';
import { isNarrowed, type Principal, sees } from '../domain/access.ts';
import { DomainError } from '../domain/errors.ts';
import { type WebhookCommand, webhook, webhookStream } from '../domain/webhook.ts';
import type { Position } from '../eventlog/eventlog.ts';
import { handleCommand } from '../eventlog/handle-command.ts';
import { findWebhook, type WebhookRow } from '../projections/webhooks.ts';
import {
  issueWebhookSecret,
  parseWebhookSecret,
  secretFingerprint,
  webhookSecretPurpose,
} from '../secrets.ts';
import type { Context } from './context.ts';
import { invalid } from './input.ts';
import { findMailDomainId } from './mail-domain-name.ts';
import type { Answer, Call } from './route.ts';
import { type LogPlace, viewWebhooks, type WebhookView } from './webhook-view.ts';
import type { z } from './zod.ts';

/** Where the events of one subscription go. */
export const targetOf = ({ id, mailDomain }: Pick<WebhookRow, 'id' | 'mailDomain'>) => ({
  stream: webhookStream(String(id)),
  resource: { type: 'webhook', id: String(id) },
  mailDomains: mailDomain === null ? [] : [String(mailDomain)],
});

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

/** A subscription as the answer to whoever asked for it. */
export async function answerWithWebhook(
  context: Context,
  row: WebhookRow,
): Promise<Extract<Answer<z.input<typeof WebhookView>>, { data: unknown }>> {
  const [data] = await viewWebhooks(context, [row]);
  if (data === undefined) throw new Error('a webhook without a view');
  return { data, revision: row.revision, subject: `webhook:${row.id}` };
}

/**
 * Appends a command about one subscription, lets whoever delivers it know, and answers with it as it is
 * then: when the answer leaves, nothing is begun any more as it was before.
 */
export async function commandWebhook(
  context: Context,
  call: Pick<Call<unknown, unknown, unknown>, 'meta' | 'commandId' | 'ifMatch'>,
  row: WebhookRow,
  command: WebhookCommand,
): Promise<Extract<Answer<z.input<typeof WebhookView>>, { data: unknown }>> {
  const { position } = await handleCommand(context.log, webhook, {
    ...targetOf(row),
    command,
    meta: call.meta,
    commandId: call.commandId,
    ifRevision: call.ifMatch,
  });
  const isDone = position === null || (await settled(context, row.id, position));
  const after = (await findWebhook(context.pool, row.id)) ?? row;
  return { ...(await answerWithWebhook(context, after)), ...(isDone ? {} : { status: 202 }) };
}

/** True when a change is in the read model, and known to whoever delivers. */
export async function settled(context: Context, id: number, position: Position): Promise<boolean> {
  const isVisible = await context.projector.caughtUp(position, ['webhooks']);
  if (isVisible) await context.webhooks.changed(id);
  return isVisible;
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

/** Makes a secret, or takes the given one, and keeps it sealed before any event names it. */
export async function keepSecret(
  { pool, secrets }: Context,
  id: number,
  given: string | null,
): Promise<Readonly<{ secret: string; fingerprint: string }>> {
  const secret = given ?? issueWebhookSecret();
  const bytes = parseWebhookSecret(secret);
  if (bytes === null) throw invalid([{ path: 'secret', message: SECRET_FORM }]);
  const fingerprint = secretFingerprint(bytes);
  const purpose = webhookSecretPurpose(id, fingerprint);
  const sealed = secrets.seal(bytes, purpose);
  const kept = await saveWebhookSecret(pool, `webhook:${id}`, { fingerprint, sealed });
  // Kept by an earlier try of the same it is as good as new; another of the same fingerprint cannot be told apart.
  if (!secrets.unseal(kept, purpose).equals(bytes)) {
    throw invalid([{ path: 'secret', message: 'looks like another one of this webhook' }]);
  }
  return { secret, fingerprint };
}

/** Refuses a secret that is none, before anything is done. */
export function requireSecret(given: string | null): void {
  if (given === null || parseWebhookSecret(given) !== null) return;
  throw invalid([{ path: 'secret', message: SECRET_FORM }]);
}

const SECRET_FORM = 'must be whsec_ and 24 to 64 random bytes in base64';

/** The position that a cursor stands at to begin with what is at, or was recorded at or behind, a place. */
export async function positionBefore(
  { log }: Context,
  place: z.output<typeof LogPlace>,
  path: string,
): Promise<Position> {
  if ('at' in place) return log.positionBefore(place.at);
  const position = BigInt(place.position);
  const { position: head } = await log.head();
  if (position > head + 1n)
    throw invalid([{ path, message: `lies beyond the log's end, ${head}` }]);
  return position > 0n ? position - 1n : 0n;
}
