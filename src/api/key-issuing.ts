import { eraseCredentials, saveCredential } from '../db/credentials.ts';
import { nextId } from '../db/ids.ts';
import type { Scope } from '../domain/access.ts';
import { type ApiKey, apiKey, apiKeyStream } from '../domain/api-key.ts';
import type { AllowedCidrs } from '../domain/cidr.ts';
import type { ResourceRef } from '../domain/decider.ts';
import type { EventMeta } from '../eventlog/eventlog.ts';
import { type Handled, handleCommand, madeBefore } from '../eventlog/handle-command.ts';
import type { ApiKeyRow } from '../projections/api-keys.ts';
import { issueApiKey, keyPrefixOf } from '../secret-text.ts';
import type { Context } from './context.ts';

export type NewKey = Readonly<{
  name: string;
  scope: Scope;
  mailDomain: number | null;
  rateLimitPerMinute: number;
  expiresAt: string | null;
  allowedCidrs: AllowedCidrs;
  owner: ResourceRef;
  predecessor: Readonly<{ id: number; bucket: number }> | null;
}>;

export type Issued = Readonly<{
  id: number;
  /** Null when the key had been issued by an earlier run of the same request: it is told only once. */
  secret: string | null;
  position: bigint;
  row: ApiKeyRow;
}>;

type IssueDeps = Pick<Context, 'pool' | 'log' | 'secrets'>;
type Run = Readonly<{ meta: EventMeta; commandId: string; step?: string; secret?: string }>;

/** Makes a key: the verifier first, then the event, so that a recorded key can always be used. */
export async function issueKey(deps: IssueDeps, wanted: NewKey, run: Run): Promise<Issued> {
  const id = await nextId(deps.pool, 'api_key');
  const secret = run.secret ?? issueApiKey();
  const subject = `api_key:${id}`;
  const { pepperId, verifierOf } = deps.secrets;
  await saveCredential(deps.pool, {
    subject,
    kind: 'api_key',
    lookup: keyPrefixOf(secret),
    verifier: verifierOf(pepperId, secret),
    pepper: pepperId,
  });
  const mailDomain = wanted.mailDomain === null ? null : String(wanted.mailDomain);
  const handled = await handleCommand(deps.log, apiKey, {
    stream: apiKeyStream(id),
    resource: { type: 'api_key', id: String(id) },
    mailDomains: mailDomain === null ? [] : [mailDomain],
    meta: run.meta,
    commandId: run.commandId,
    ...(run.step === undefined ? {} : { step: run.step }),
    command: {
      type: 'CreateApiKey',
      allowedCidrs: wanted.allowedCidrs?.map(({ text }) => text) ?? null,
      names: { name: wanted.name, key_prefix: keyPrefixOf(secret) },
      data: {
        scope: wanted.scope,
        mail_domain: mailDomain,
        rate_limit_per_minute: wanted.rateLimitPerMinute,
        expires_at: wanted.expiresAt,
        owner: wanted.owner,
        predecessor: wanted.predecessor === null ? null : String(wanted.predecessor.id),
        bucket: String(wanted.predecessor?.bucket ?? id),
      },
    },
  });
  const before = madeBefore(handled, id);
  if (before !== null) await eraseCredentials(deps.pool, subject);
  const madeId = before === null ? id : Number(before.resource.id);
  return {
    id: madeId,
    secret: before === null ? secret : null,
    position: handled.position ?? 0n,
    row: {
      ...rowOf(madeId, before === null ? handled.state : foldEarlier(handled), handled),
      // The same request asks for the same list, whichever run of it recorded the key.
      allowedCidrs: wanted.allowedCidrs,
    },
  };
}

const foldEarlier = ({ earlier }: Handled<ApiKey>): ApiKey =>
  (earlier ?? []).reduce(
    (state, event) => apiKey.evolve(state, event as never),
    apiKey.initialState,
  );

/** A key as it was just made, without waiting for the read model. */
function rowOf(
  id: number,
  state: ApiKey,
  handled: Handled<ApiKey>,
): Omit<ApiKeyRow, 'allowedCidrs'> {
  const { created } = state;
  if (created === null) throw new Error('a created key has no creation');
  return {
    id,
    revision: handled.revision,
    status: 'active',
    scope: created.scope,
    mailDomain: created.mail_domain === null ? null : Number(created.mail_domain),
    rateLimitPerMinute: state.rateLimitPerMinute,
    expiresAt: state.expiresAt,
    owner: created.owner,
    predecessor: created.predecessor === null ? null : Number(created.predecessor),
    successor: null,
    graceUntil: null,
    bucket: Number(created.bucket),
    createdAt: handled.recordedAt ?? '',
    revokedAt: null,
    endedAt: null,
    endedBy: null,
  };
}
