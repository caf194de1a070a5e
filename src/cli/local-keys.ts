import { issueKey } from '../api/key-issuing.ts';
import { findMailDomainId } from '../api/mail-domain-name.ts';
import { routes } from '../api/routes.ts';
import { systemClock, toTimestamp } from '../clock.ts';
import { type Config, loadConfig } from '../config.ts';
import { belongsToMasterKey } from '../db/installation.ts';
import type { Scope } from '../domain/access.ts';
import { apiKey, apiKeyStream } from '../domain/api-key.ts';
import type { Cidr } from '../domain/cidr.ts';
import { DomainError } from '../domain/errors.ts';
import type { EventMeta } from '../eventlog/eventlog.ts';
import { handleCommand, newCommandId, readState } from '../eventlog/handle-command.ts';
import { keyPrefixOf } from '../secret-text.ts';
import { deriveSecrets, type Secrets } from '../secrets.ts';
import { unusable } from './command.ts';
import { readSecretFile } from './data-dir.ts';
import { type Opened, withDatabase, withLog } from './join.ts';
import type { KeyShown, KeyWanted } from './keys.ts';
import type { Terminal } from './terminal.ts';

type Local = Opened & Readonly<{ secrets: Secrets }>;

const MASTER_KEY = /^[0-9a-fA-F]{64}$/;
const ACTOR = { type: 'system', id: 'cli' } as const;

/** Makes a key in the database itself, checked as the API would check it. */
export async function createLocally(wanted: KeyWanted, terminal: Terminal): Promise<KeyShown> {
  const config = loadConfig(terminal.env);
  const checked = check(wanted);
  return withLocal(config, async (local) => {
    const mailDomain = await resolveMailDomain(local, checked.mail_domain ?? null);
    const commandId = newCommandId();
    const issued = await issueKey(
      local,
      {
        name: checked.name,
        scope: checked.scope,
        mailDomain,
        rateLimitPerMinute: checked.rate_limit_per_minute,
        expiresAt: checked.expires_at ?? null,
        allowedCidrs: checked.allowed_cidrs ?? null,
        owner: ACTOR,
        predecessor: null,
      },
      { commandId, meta: metaOf(config, commandId) },
    );
    const names = await local.log.readNames([`mail_domain:${mailDomain ?? 0}`]);
    const { row, secret } = issued;
    if (secret === null) throw new Error('a new command found itself carried out');
    return {
      id: issued.id,
      key: secret,
      key_prefix: keyPrefixOf(secret),
      name: checked.name,
      scope: row.scope,
      mail_domain: names.get(`mail_domain:${mailDomain ?? 0}`)?.name ?? null,
      mail_domain_id: mailDomain,
      rate_limit_per_minute: row.rateLimitPerMinute,
      status: 'active',
      created_at: row.createdAt,
      last_used_at: null,
      expires_at: row.expiresAt,
      allowed_cidrs: row.allowedCidrs?.map(({ text }) => text) ?? null,
    };
  });
}

/** Revokes a key in the database itself. */
export async function revokeLocally(
  id: number,
  reason: string | null,
  terminal: Terminal,
): Promise<{ id: number; status: string }> {
  const config = loadConfig(terminal.env);
  return withLocal(config, async ({ log }) => {
    const stream = apiKeyStream(id);
    const { state } = await readState(log, apiKey, stream);
    const mailDomain = state.created?.mail_domain ?? null;
    const commandId = newCommandId();
    const { state: after } = await handleCommand(log, apiKey, {
      stream,
      resource: { type: 'api_key', id: String(id) },
      mailDomains: mailDomain === null ? [] : [mailDomain],
      command: { type: 'RevokeApiKey', reason },
      meta: metaOf(config, commandId),
      commandId,
    });
    return { id, status: after.status };
  });
}

async function withLocal<Result>(
  config: Config,
  work: (local: Local) => Promise<Result>,
): Promise<Result> {
  const secrets = deriveSecrets(masterKeyOf(config));
  return withDatabase(config, (joined) =>
    withLog(joined, async (opened) => {
      if (await belongsToMasterKey(opened.pool, secrets.fingerprint)) {
        return work({ ...opened, secrets });
      }
      throw unusable(
        'The master key is not the one of this database: set MAILGUARD_MASTER_KEY, or ' +
          'MAILGUARD_DATA_DIR to the data directory of its gateway.',
      );
    }),
  );
}

/** Read, never made: a key of our own would be no use to the gateway. */
function masterKeyOf(config: Config): Buffer {
  if (config.masterKey !== null) return config.masterKey;
  const text = readSecretFile(config, 'master-key', 'MAILGUARD_MASTER_KEY');
  if (MASTER_KEY.test(text)) return Buffer.from(text, 'hex');
  throw unusable('The master-key file does not hold a master key.');
}

type Checked = Readonly<{
  name: string;
  scope: Scope;
  mail_domain?: string | number | null;
  rate_limit_per_minute: number;
  expires_at?: string | null;
  allowed_cidrs?: readonly Cidr[] | null;
}>;

/** The checks of the API, by the very schema of its route, and those that its handler adds. */
function check(wanted: KeyWanted): Checked {
  const body = routes.find(({ id }) => id === 'createApiKey')?.body;
  if (body === undefined) throw new Error('the API makes no keys');
  const parsed = body.safeParse(wanted);
  if (!parsed.success) {
    throw invalid(
      parsed.error.issues.map(({ path, message }) => ({ path: path.join('.'), message })),
    );
  }
  const checked = parsed.data as Checked;
  if (checked.scope === 'domain-admin' && (checked.mail_domain ?? null) === null) {
    throw invalid([{ path: 'mail_domain', message: 'is required for domain-admin' }]);
  }
  const { expires_at: expiresAt = null } = checked;
  if (expiresAt !== null && Date.parse(expiresAt) <= systemClock.nowMs()) {
    throw invalid([{ path: 'expires_at', message: 'must lie in the future' }]);
  }
  return checked;
}

const invalid = (issues: readonly Readonly<{ path: string; message: string }>[]): DomainError =>
  new DomainError('validation_failed', 'The key cannot be made like that.', { issues });

async function resolveMailDomain(
  local: Local,
  given: string | number | null,
): Promise<number | null> {
  if (given === null) return null;
  const id = await findMailDomainId(local, given);
  if (id !== null) return id;
  throw new DomainError('unknown_mail_domain', 'There is no such mail domain.');
}

function metaOf({ nodeId }: Config, commandId: string): EventMeta {
  return {
    actor: ACTOR,
    source: { node: nodeId, ip: null, userAgent: null },
    requestId: null,
    correlationId: `cli-${commandId}`,
    causationId: null,
    outcome: 'success',
    occurredAt: toTimestamp(systemClock.now()),
  };
}
