import { describe, expect, it } from 'vitest';
import { type ApiKeyCommand, apiKey } from '../../src/domain/api-key.ts';
import type { MailDomainCommand } from '../../src/domain/mail-domain.ts';
import { mailDomain } from '../../src/domain/mail-domain.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { handleCommand, newCommandId } from '../../src/eventlog/handle-command.ts';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import { meta } from '../support/events.ts';
import { settings } from '../support/mail-domain-settings.ts';

const register: MailDomainCommand = {
  type: 'CreateMailDomain',
  id: '7',
  name: 'example.com',
  settings,
  backendServers: [],
};
const createKey: ApiKeyCommand = {
  type: 'CreateApiKey',
  names: { name: 'key', key_prefix: 'nmg_0' },
  data: {
    scope: 'read-only',
    mail_domain: null,
    rate_limit_per_minute: 100,
    expires_at: null,
    owner: { type: 'api_key', id: '1' },
    predecessor: null,
    bucket: '43',
  },
};

const onDomain = (log: EventLog, command: MailDomainCommand, commandId: string) =>
  handleCommand(log, mailDomain, {
    stream: 'mail_domain-0',
    resource: { type: 'mail_domain', id: '7' },
    mailDomains: ['7'],
    command,
    meta,
    commandId,
  });
const onKey = (log: EventLog, command: ApiKeyCommand, commandId: string, id = '43') =>
  handleCommand(log, apiKey, {
    stream: `api_key-${id}`,
    resource: { type: 'api_key', id },
    mailDomains: [],
    command,
    meta,
    commandId,
  });

// What a takeover of an Idempotency-Key does after a crash between the commit and the answer: the same command id
// again. It must find its own events, whatever its decider would say to a newcomer.
describe('a command that is run again under its own id', () => {
  it('finds the key it created, also under another new id', async () => {
    const log = memoryEventLog();
    const id = newCommandId();
    await onKey(log, createKey, id);
    const again = await onKey(log, createKey, id, '44');
    expect(again.earlier?.map(({ resource }) => resource.id)).toEqual(['43']);
    expect((await log.head()).position).toBe(1n);
  });

  it('finds the mail domain it registered instead of refusing its name as taken', async () => {
    const log = memoryEventLog();
    const id = newCommandId();
    const first = await onDomain(log, register, id);
    const again = await onDomain(log, { ...register, id: '8' }, id);
    expect(again).toMatchObject({ position: first.position, revision: first.revision });
    expect(again.earlier?.map(({ type, data }) => [type, data['id']])).toEqual([
      ['mail_domain.created', '7'],
    ]);
    expect((await log.head()).position).toBe(1n);
  });

  it('is still refused under an id of its own', async () => {
    const log = memoryEventLog();
    await onDomain(log, register, newCommandId());
    await expect(onDomain(log, register, newCommandId())).rejects.toMatchObject({
      code: 'already_exists',
    });
  });

  it('finds the deletion it made instead of missing what it deleted', async () => {
    const log = memoryEventLog();
    const id = newCommandId();
    await onKey(log, createKey, newCommandId());
    const first = await onKey(log, { type: 'DeleteApiKey' }, id);
    const again = await onKey(log, { type: 'DeleteApiKey' }, id);
    expect(again.earlier?.map(({ type }) => type)).toEqual(['api_key.deleted']);
    expect(again.position).toBe(first.position);
  });

  it('finds its change also when others have come after it', async () => {
    const log = memoryEventLog();
    const id = newCommandId();
    await onKey(log, createKey, newCommandId());
    await onKey(log, { type: 'UpdateApiKey', rateLimitPerMinute: 7 }, id);
    await onKey(log, { type: 'UpdateApiKey', rateLimitPerMinute: 8 }, newCommandId());
    const again = await onKey(log, { type: 'UpdateApiKey', rateLimitPerMinute: 7 }, id);
    expect(again.earlier?.map(({ data }) => data['rate_limit_per_minute'])).toEqual([7]);
    expect((await log.head()).position).toBe(3n);
  });

  it('is told the state after it where the answer to its own append was lost', async () => {
    const log = memoryEventLog();
    await onKey(log, createKey, newCommandId());
    // The connection broke after the commit, and the same events were sent again.
    const lossy: EventLog = {
      ...log,
      async append(command) {
        await log.append(command);
        return log.append(command);
      },
    };
    const command = { type: 'UpdateApiKey', rateLimitPerMinute: 7 } as const;
    const { state, revision } = await onKey(lossy, command, newCommandId());
    expect([state.rateLimitPerMinute, revision]).toEqual([7, 1n]);
    expect((await log.head()).position).toBe(2n);
  });
});
