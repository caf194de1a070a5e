import type pg from 'pg';
import { type Clock, toTimestamp } from '../clock.ts';
import { sweepOrphanCredentials } from '../db/credentials.ts';
import { type ApiKeyCommand, apiKey, apiKeyStream } from '../domain/api-key.ts';
import type { EventLog, EventMeta } from '../eventlog/eventlog.ts';
import { commandIdOf, handleCommand } from '../eventlog/handle-command.ts';
import { systemMeta } from '../eventlog/system-meta.ts';
import type { LiveKey, LiveKeys } from '../projections/live-keys.ts';
import { findLivingMailDomains } from '../projections/mail-domains.ts';
import type { Projector } from '../projections/projector.ts';

/**
 * What follows from events: the rest of composite commands, and ends that come with time. Each is
 * decided by the key's own stream, so doing one again changes nothing.
 */
export type ReactorDeps = Readonly<{
  log: EventLog;
  liveKeys: LiveKeys;
  clock: Clock;
  nodeId: string;
}>;
type RevokeDeps = Pick<ReactorDeps, 'log' | 'liveKeys'>;

/** The rest of a mail domain's deletion: keys that are bound to it have nothing left to reach. */
export async function revokeKeysOfMailDomain(
  deps: RevokeDeps,
  mailDomain: number,
  meta: EventMeta,
): Promise<void> {
  for (const key of [...deps.liveKeys.all()]) {
    if (key.principal.mailDomain !== mailDomain || hasEnded(key)) continue;
    await settle(deps, key, { type: 'RevokeApiKey', reason: 'its mail domain was deleted' }, meta);
  }
}

/** Ends the keys whose expiry has passed. They are refused from that moment on; this records it. */
export async function expireKeys(deps: ReactorDeps): Promise<void> {
  const now = deps.clock.now();
  deps.liveKeys.cutEnded();
  for (const key of [...deps.liveKeys.all()]) {
    if (key.status !== 'active' || key.expiresAtMs === null) continue;
    if (key.expiresAtMs > now.getTime()) continue;
    const command = { type: 'ExpireApiKey', now: toTimestamp(now) } as const;
    await settle(deps, key, command, systemMeta(deps, now));
  }
}

/**
 * Settles what a crash has left half done, before anything is served. A successor whose predecessor
 * does not name it was told to nobody, so it is ended and the predecessor goes on; keys of a mail
 * domain that is gone are revoked.
 */
export async function settleUnfinished(deps: ReactorDeps, pool: pg.Pool): Promise<void> {
  const meta = systemMeta(deps, deps.clock.now());
  for (const key of [...deps.liveKeys.all()]) {
    if (hasEnded(key)) continue;
    if (key.predecessor !== null && deps.liveKeys.successorOf(key.predecessor) !== key.id) {
      const command = { type: 'RevokeApiKey', reason: 'its rotation was cut short' } as const;
      await settle(deps, key, command, meta);
    }
  }
  await revokeOrphanKeys(deps, pool);
}

/** Revokes keys of mail domains that are gone: made while the deletion was under way, or left by a crash. */
export async function revokeOrphanKeys(deps: ReactorDeps, pool: pg.Pool): Promise<void> {
  const bound = [...deps.liveKeys.all()].flatMap((key) =>
    hasEnded(key) || key.principal.mailDomain === null ? [] : [key.principal.mailDomain],
  );
  const living = await findLivingMailDomains(pool, [...new Set(bound)]);
  const meta = systemMeta(deps, deps.clock.now());
  for (const id of new Set(bound)) {
    if (!living.has(id)) await revokeKeysOfMailDomain(deps, id, meta);
  }
}

/** Forgets verifiers of keys that were never made, where the read model of keys is sure to have those that were. */
export async function forgetUnmadeKeys({
  pool,
  log,
  projector,
}: Pick<ReactorDeps, 'log'> &
  Readonly<{ pool: pg.Pool; projector: Pick<Projector, 'caughtUp'> }>): Promise<void> {
  const { position } = await log.head();
  if (await projector.caughtUp(position, ['api_keys'])) await sweepOrphanCredentials(pool);
}

const hasEnded = (key: LiveKey): boolean => key.status === 'revoked' || key.status === 'expired';

async function settle(
  deps: RevokeDeps,
  key: LiveKey,
  command: ApiKeyCommand,
  meta: EventMeta,
): Promise<void> {
  const { mailDomain } = key.principal;
  await handleCommand(deps.log, apiKey, {
    stream: apiKeyStream(key.id),
    resource: { type: 'api_key', id: String(key.id) },
    mailDomains: mailDomain === null ? [] : [String(mailDomain)],
    command,
    meta,
    commandId: commandIdOf(
      Date.parse(meta.occurredAt),
      `${command.type}/${key.id}/${meta.correlationId}`,
    ),
  });
  await deps.liveKeys.changed(key.id);
}
