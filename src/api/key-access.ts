import { isNarrowed, type Principal, sees } from '../domain/access.ts';
import { type ApiKey, apiKeyStream } from '../domain/api-key.ts';
import { DomainError } from '../domain/errors.ts';
import type { Handled } from '../eventlog/handle-command.ts';
import { type ApiKeyRow, findApiKey, type KeySelection } from '../projections/api-keys.ts';
import type { Context } from './context.ts';
import { type KeyView, type NewKeyView, viewKeys } from './key-view.ts';
import { BASE_PATH } from './paths.ts';
import type { Answer } from './route.ts';
import type { z } from './zod.ts';

/** Where the events of one key go. */
export const targetOf = (row: ApiKeyRow) => ({
  stream: apiKeyStream(row.id),
  resource: { type: 'api_key', id: String(row.id) },
  mailDomains: row.mailDomain === null ? [] : [String(row.mailDomain)],
});

/** A key as the answer to whoever asked for it. */
export async function answerWith(
  context: Context,
  row: ApiKeyRow,
): Promise<Extract<Answer<z.input<typeof KeyView>>, { data: unknown }>> {
  const [view] = await viewKeys(context, [row]);
  if (view === undefined) throw new Error('a key without a view');
  return { data: view, revision: row.revision, subject: `api_key:${row.id}` };
}

/** A key as it is after a command, where its row is behind. */
export function rowAfter(
  { liveKeys }: Context,
  row: ApiKeyRow,
  { state, revision, recordedAt }: Handled<ApiKey>,
): ApiKeyRow {
  const live = liveKeys.find(row.id);
  return {
    ...row,
    revision,
    status: state.status === 'absent' ? row.status : state.status,
    rateLimitPerMinute: state.rateLimitPerMinute,
    expiresAt: state.expiresAt,
    allowedCidrs: live === null ? row.allowedCidrs : live.principal.allowedCidrs,
    revokedAt: state.status === 'revoked' ? (row.revokedAt ?? recordedAt) : row.revokedAt,
  };
}

/** A key that this caller may know of; anybody else's is not there. */
export async function findVisibleKey(
  context: Context,
  principal: Principal,
  id: number,
): Promise<ApiKeyRow> {
  const row = await findApiKey(context.pool, id);
  const notFound = new DomainError('not_found', 'No such API key.');
  if (row === null || row.status === 'deleted' || !sees(principal, row.mailDomain)) throw notFound;
  const { owner } = selectionOf(principal);
  const isOwn =
    owner === undefined ||
    row.id === principal.id ||
    (row.owner.type === owner.type && row.owner.id === owner.id);
  if (!isOwn) throw notFound;
  return row;
}

/** Refuses what only a living key can undergo; its end may have come and not be recorded yet. */
export function requireNotExpired({ clock }: Context, { expiresAt }: ApiKeyRow): void {
  if (expiresAt === null || Date.parse(expiresAt) > clock.now().getTime()) return;
  throw new DomainError('state_conflict', 'The API key is expired.');
}

/** Which keys a caller's list holds. */
export function selectionOf(principal: Principal): KeySelection {
  const isManager = principal.scope === 'full-admin' || principal.scope === 'domain-admin';
  return {
    ...(isManager ? {} : { owner: principal.owner, selfId: principal.id }),
    ...(isNarrowed(principal) ? { mailDomain: principal.mailDomain ?? 0 } : {}),
  };
}

/** A key that was just made: its secret is in this answer, and left out of every replay of it. */
export async function answerWithNew(
  context: Context,
  made: Readonly<{ id: number; secret: string | null; row: ApiKeyRow }>,
  isVisible: boolean,
): Promise<Answer<z.input<typeof NewKeyView>>> {
  const { data, ...rest } = await answerWith(context, made.row);
  return {
    ...rest,
    data: made.secret === null ? data : { ...data, key: made.secret },
    replay: data,
    status: isVisible ? 201 : 202,
    headers: { Location: `${BASE_PATH}/auth/api-keys/${made.id}` },
  };
}
