import { nextId } from '../../db/ids.ts';
import { isNarrowed } from '../../domain/access.ts';
import { DomainError } from '../../domain/errors.ts';
import type { FilterWish } from '../../domain/quarantine-language.ts';
import { FILTER_SCOPES } from '../../domain/sender-filter.ts';
import { findBackends } from '../../projections/mail-domains.ts';
import type { IntentKind } from '../../projections/quarantine.ts';
import { findMessages, type MessageRow } from '../../projections/quarantine-list.ts';
import type { Context } from '../context.ts';
import { invalid } from '../input.ts';
import { type ActionCall, findActionable, OUTCOME_WAIT_MS, tell } from '../quarantine-acting.ts';
import {
  type NumberedRecipient,
  numbered,
  QuarantineItem,
  viewMessage,
} from '../quarantine-view.ts';
import { type Answer, route } from '../route.ts';
import { Text, Timestamp } from '../schemas.ts';
import { z } from '../zod.ts';
import { atBothPaths } from './quarantine-paths.ts';

const tag = 'Quarantine';
const act = { operation: 'quarantine_act', reach: 'mail_domain' } as const;
const FILTERS_MAX = 100;

const Filter = z
  .strictObject({
    scope: z.enum(FILTER_SCOPES),
    expires_at: Timestamp.optional(),
  })
  .openapi({ description: 'A sender filter that is made with the action.' });
const Reason = Text(1_000).optional();
const errors = ['not_found', 'foreign_recipients', 'state_conflict', 'stale'] as const;

const releases = atBothPaths('release', (at) =>
  route({
    ...at,
    id: at.named('releaseMessage'),
    method: 'post',
    conditional: true,
    tag,
    summary: 'Deliver a held message to its recipients.',
    description:
      'One SMTP transaction per mail domain to its backend servers. 200 once every recipient who was asked ' +
      'for was accepted, 202 while it is tried again, 409 `release_failed` (with the item) when a ' +
      'server refused for good. A repeat answers the first result and sends nothing twice. From a hold queue ' +
      'the mail server delivers, to all recipients alone; what it answers per recipient is followed in its log.',
    permission: act,
    body: z.strictObject({
      recipients: z
        .array(z.string().max(320))
        .min(1)
        .max(1_000)
        .optional()
        .openapi({ description: 'All of them, when left out.' }),
      allow_sender: Filter.optional(),
      reason: Reason,
    }),
    bodyOptional: true,
    reply: QuarantineItem,
    message: 'Released',
    example: { body: { reason: 'It is from a customer.' } },
    errors: [...errors, 'no_route', 'release_failed'],
    handle: (context, call) => release(context, call),
  }),
);

const discards = atBothPaths('discard', (at) =>
  route({
    ...at,
    id: at.named('discardMessage'),
    method: 'post',
    conditional: true,
    tag,
    summary: 'Delete a held message; nobody is told.',
    permission: act,
    body: z.strictObject({ block_sender: Filter.optional(), reason: Reason }),
    bodyOptional: true,
    reply: QuarantineItem,
    message: 'Discarded',
    example: { body: { reason: 'It is spam.' } },
    errors,
    async handle(context, call) {
      const row = await findActionable(context, call);
      const wish = call.body.block_sender;
      const blockSender = wish === undefined ? null : await toWish(context, call, row, wish, null);
      const reason = call.body.reason ?? null;
      const told = await tell(context, call, row, { type: 'RequestDiscard', blockSender, reason });
      requireWishHeard(told, blockSender);
      return outcomeOf(context, call, row, 'discard');
    },
  }),
);

const rejects = atBothPaths('reject', (at) =>
  route({
    ...at,
    id: at.named('rejectMessage'),
    method: 'post',
    conditional: true,
    tag,
    summary: 'Send a held message back to its sender, and delete it.',
    description:
      'The bounce goes through `MAILGUARD_SMTP_RELAY`, or from a hold queue through its own mail server. Senders of spam are often forged: a bounce then ' +
      'reaches somebody who has sent nothing.',
    permission: act,
    body: z.strictObject({ reason: Reason }),
    bodyOptional: true,
    reply: QuarantineItem,
    message: 'Rejected',
    errors: [...errors, 'reject_failed'],
    async handle(context, call) {
      const row = await findActionable(context, call);
      requireBounceable(context, row);
      const reason = call.body.reason ?? null;
      await tell(context, call, row, { type: 'RequestReject', reason });
      return outcomeOf(context, call, row, 'reject');
    },
  }),
);

export const quarantineActionRoutes = [...releases, ...discards, ...rejects];

type Item = z.input<typeof QuarantineItem>;

type Release = Readonly<{
  recipients?: string[] | undefined;
  allow_sender?: z.output<typeof Filter> | undefined;
  reason?: string | undefined;
}>;

async function release(context: Context, call: ActionCall<Release>): Promise<Answer<Item>> {
  const row = await findActionable(context, call);
  const { body } = call;
  const wanted = chooseRecipients(row, body.recipients);
  const isIdle = row.state === 'held' || row.state === 'release_failed';
  if (row.store === 'postfix' && wanted !== null) {
    throw invalid([{ path: 'recipients', message: 'a hold queue lets go of a message whole' }]);
  }
  if (isIdle && row.store === 'spool')
    await requireRoutes(context, wanted ?? numbered(row.recipients));
  const allowSender =
    body.allow_sender === undefined
      ? null
      : await toWish(context, call, row, body.allow_sender, wanted);
  const told = await tell(context, call, row, {
    type: 'RequestRelease',
    recipients: wanted?.map(({ number }) => number) ?? null,
    allowSender,
    reason: body.reason ?? null,
  });
  requireWishHeard(told, allowSender);
  return outcomeOf(context, call, row, 'release');
}

/** The recipients that were asked for; null for all. Addresses are compared without regard to case. */
function chooseRecipients(
  row: MessageRow,
  asked: readonly string[] | undefined,
): readonly NumberedRecipient[] | null {
  if (asked === undefined) return null;
  const all = numbered(row.recipients);
  const wanted = new Set(asked.map((address) => address.toLowerCase()));
  const found = all.filter(({ address }) => wanted.has(address.toLowerCase()));
  const known = new Set(found.map(({ address }) => address.toLowerCase()));
  const issues = [...wanted].flatMap((address, index) =>
    known.has(address) ? [] : [{ path: `recipients.${index}`, message: 'is no recipient of it' }],
  );
  if (issues.length > 0) throw invalid(issues);
  return found.length === all.length ? null : found;
}

async function requireRoutes(
  { pool }: Context,
  wanted: readonly NumberedRecipient[],
): Promise<void> {
  const domains = new Set(wanted.map(({ mailDomain }) => mailDomain));
  for (const domain of domains) {
    if (domain !== null && (await findBackends(pool, domain)).length > 0) continue;
    throw new DomainError('no_route', 'A recipient’s mail domain has no backend server.');
  }
}

function requireBounceable({ config }: Context, row: MessageRow): void {
  if (row.state !== 'held' && row.state !== 'release_failed') return;
  if (row.store === 'spool' && config.smtpRelay === null) {
    throw new DomainError('state_conflict', 'Nothing can be rejected: no SMTP relay is set.');
  }
  if (row.sender) return;
  // RFC 5321 section 4.5.5: what came from the null sender is itself a notice, and is not answered.
  throw new DomainError('state_conflict', 'The message has no sender to be sent back to.');
}

/** Ids for the filters that an action brings, given out before it so that each is made once. */
async function toWish(
  { pool, clock }: Context,
  { principal }: ActionCall<unknown>,
  row: MessageRow,
  asked: z.output<typeof Filter>,
  wanted: readonly NumberedRecipient[] | null,
): Promise<FilterWish> {
  if (asked.scope === 'global' && isNarrowed(principal)) {
    throw new DomainError('scope_forbidden', 'A global filter is not for a narrowed key.');
  }
  const issue = (message: string) => invalid([{ path: 'scope', message }]);
  if (!row.sender) throw issue('needs a sender, and the message has none');
  if (asked.expires_at !== undefined && Date.parse(asked.expires_at) <= clock.nowMs()) {
    throw invalid([{ path: 'expires_at', message: 'must be in the future' }]);
  }
  const count = {
    global: 1,
    mail_domain: row.mailDomains.length,
    recipient: (wanted ?? numbered(row.recipients)).length,
  }[asked.scope];
  if (count === 0) throw issue('needs a recipient in a known mail domain');
  if (count > FILTERS_MAX) throw issue(`would make more than ${FILTERS_MAX} filters`);
  const ids: string[] = [];
  for (let made = 0; made < count; made += 1) ids.push(String(await nextId(pool, 'sender_filter')));
  return { filter_ids: ids, scope: asked.scope, expires_at: asked.expires_at ?? null };
}

/** A repetition does nothing, so a filter that only it brings would be lost in silence. */
function requireWishHeard(
  { position }: Readonly<{ position: bigint | null }>,
  wish: FilterWish | null,
): void {
  if (position !== null || wish === null) return;
  throw new DomainError(
    'state_conflict',
    'The action was asked for before, without the sender filter; make it at /sender-filters.',
  );
}

const FAILED = {
  release: ['release_failed', 'Not every recipient was accepted'],
  reject: ['reject_failed', 'The bounce was not accepted'],
} as const;

/** The item once the action has an outcome, or as far as it is. */
async function outcomeOf(
  context: Context,
  { principal }: ActionCall<unknown>,
  { id }: MessageRow,
  kind: Exclude<IntentKind, 'retrain'>,
): Promise<Answer<Item>> {
  await context.quarantine.act(id, kind, OUTCOME_WAIT_MS);
  const { position } = await context.log.head();
  const isVisible = await context.projector.caughtUp(position, ['quarantine']);
  const [row] = await findMessages(context.pool, [id]);
  if (row === undefined) throw new Error('a message without a row');
  const data = await viewMessage(context, principal, row);
  // Read models that are behind do not tell the outcome, so none is claimed.
  const isUnderWay = !isVisible || row.state === `${kind}_requested`;
  if (isUnderWay) return { data, status: 202, message: 'Under way', revision: row.revision };
  const hasFailed =
    row.state === 'release_failed' ||
    row.state === 'undelivered' ||
    row.state === 'vanished' ||
    (kind === 'reject' && row.state === 'held');
  if (hasFailed && kind !== 'discard') {
    const [code, message] = FAILED[kind];
    const isHeld = row.state !== 'undelivered' && row.state !== 'vanished';
    throw new DomainError(
      code,
      `${message}; the message is ${isHeld ? 'still' : 'no longer'} held.`,
      data,
    );
  }
  return { data, revision: row.revision };
}
