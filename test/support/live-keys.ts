import { issueKey } from '../../src/api/key-issuing.ts';
import { apiKey, apiKeyStream } from '../../src/domain/api-key.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { handleCommand, newCommandId } from '../../src/eventlog/handle-command.ts';
import { deriveSecrets } from '../../src/secrets.ts';
import type { TestDatabase } from './database.ts';
import { meta } from './events.ts';

export const secrets = deriveSecrets(Buffer.alloc(32, 7));

const A_KEY = {
  name: 'x',
  scope: 'read-only',
  mailDomain: null,
  rateLimitPerMinute: 100,
  expiresAt: null,
  allowedCidrs: null,
  owner: { type: 'system', id: 'cli' },
  predecessor: null,
} as const;

/** Makes a key by this log, without a gateway. */
export async function makeKey({ pool }: TestDatabase, log: EventLog) {
  const call = { meta, commandId: newCommandId() };
  const { id, secret } = await issueKey({ pool, log, secrets }, A_KEY, call);
  return { id, secret: secret ?? '' };
}

/** Records by this log that a key is revoked; nobody else is told. */
export const revokeKey = (log: EventLog, id: number) =>
  handleCommand(log, apiKey, {
    ...{ stream: apiKeyStream(id), resource: { type: 'api_key', id: String(id) } },
    ...{ mailDomains: [], command: { type: 'RevokeApiKey', reason: null } },
    ...{ meta, commandId: newCommandId() },
  });
