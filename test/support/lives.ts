import { randomUUID } from 'node:crypto';
import { type ApiKeyCommand, apiKey, apiKeyStream } from '../../src/domain/api-key.ts';
import { type MailDomainCommand, mailDomain } from '../../src/domain/mail-domain.ts';
import {
  type WebhookCommand,
  type WebhookNote,
  webhook,
  webhookNotesStream,
  webhookStream,
} from '../../src/domain/webhook.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { handleCommand, toAppend } from '../../src/eventlog/handle-command.ts';
import { meta } from './events.ts';
import { settings } from './mail-domain-settings.ts';

const created = (id: number): ApiKeyCommand => ({
  type: 'CreateApiKey',
  names: { name: `key ${id}`, key_prefix: `nmg_${id}` },
  data: {
    scope: 'read-only',
    mail_domain: id % 2 === 0 ? '7' : null,
    rate_limit_per_minute: 100,
    expires_at: '2026-06-01T00:00:00.000000Z',
    owner: { type: 'api_key', id: '1' },
    predecessor: null,
    bucket: String(id),
  },
});
const updated: ApiKeyCommand = { type: 'UpdateApiKey', name: 'new', rateLimitPerMinute: 600 };
const prolonged: ApiKeyCommand = { type: 'UpdateApiKey', expiresAt: null };
const restricted: ApiKeyCommand = { type: 'UpdateApiKey', allowedCidrs: ['192.0.2.0/24'] };
const opened: ApiKeyCommand = { type: 'UpdateApiKey', allowedCidrs: null };
const expired: ApiKeyCommand = { type: 'ExpireApiKey', now: '2026-06-02T00:00:00.000000Z' };
const revoked: ApiKeyCommand = { type: 'RevokeApiKey', reason: 'leak' };
export const deleted: ApiKeyCommand = { type: 'DeleteApiKey' };
const rotated = (graceUntil: string): ApiKeyCommand => ({
  type: 'RotateApiKey',
  successor: '99',
  graceUntil,
});
/** Every way that a key's life can go. */
export const LIVES: readonly (readonly ApiKeyCommand[])[] = [
  [],
  [updated, prolonged, updated],
  [revoked],
  [updated, revoked, deleted],
  [restricted, updated],
  [restricted, opened],
  [restricted, deleted],
  [expired],
  [expired, deleted],
  [rotated('2020-01-01T00:00:00.000000Z')],
  [rotated('2030-01-01T00:00:00.000000Z')],
  [prolonged, rotated('2030-01-01T00:00:00.000000Z'), revoked],
  [prolonged, rotated('2020-01-01T00:00:00.000000Z'), revoked, deleted],
  [rotated('2030-01-01T00:00:00.000000Z'), deleted],
  [deleted],
];

export async function liveThroughKeys(log: EventLog): Promise<void> {
  for (const [index, life] of LIVES.entries()) {
    const id = index + 1;
    for (const command of [created(id), ...life]) {
      await handleCommand(log, apiKey, {
        stream: apiKeyStream(id),
        resource: { type: 'api_key', id: String(id) },
        mailDomains: [],
        command,
        meta,
        commandId: randomUUID(),
      });
    }
  }
}

export async function liveThroughMailDomains(log: EventLog): Promise<void> {
  const run = (stream: string, id: string, command: MailDomainCommand) =>
    handleCommand(log, mailDomain, {
      stream: `mail_domain-${stream}`,
      resource: { type: 'mail_domain', id },
      mailDomains: [id],
      command,
      meta,
      commandId: randomUUID(),
    });
  const create = (stream: string, id: string) =>
    run(stream, id, {
      type: 'CreateMailDomain',
      id,
      name: `${stream}.example`,
      settings,
      backendServers: ['mx1.example.com:25'],
    });
  const update = (stream: string, id: string, tenant: string, backendServers: string[] | null) =>
    run(stream, id, {
      type: 'UpdateMailDomain',
      id,
      changes: { tenant_id: tenant },
      backendServers,
    });
  await create('a', '1');
  await create('b', '2');
  await update('b', '2', 'x', null);
  await update('b', '2', 'y', ['mx2.example.com:25']);
  await update('b', '2', 'z', null);
  // A name that is deleted and registered again is another mail domain.
  await create('c', '3');
  await run('c', '3', { type: 'DeleteMailDomain', id: '3' });
  await create('c', '4');
  await update('c', '4', 'again', []);
  await create('d', '5');
  await run('d', '5', { type: 'DeleteMailDomain', id: '5' });
}

const subscribed = (id: number): WebhookCommand => ({
  type: 'CreateWebhook',
  data: {
    event_types: ['quarantine.added'],
    ordering: 'none',
    mail_domain: id % 2 === 0 ? '7' : null,
    start_after: id % 3 === 0 ? '0' : null,
    enabled: id % 4 !== 0,
    secret: '1a2b3c4d',
  },
  told: { url: `https://hooks.example.com/${id}`, description: id % 2 === 0 ? null : 'tickets' },
});
const SINCE = '2026-05-01T07:42:13.000000Z';
const failing: WebhookNote = {
  type: 'webhook.failing',
  data: { since: SINCE, hours: 1, cause: 'http_error' },
};
const recovered: WebhookNote = { type: 'webhook.recovered', data: { since: SINCE } };
const disabled: WebhookCommand = { type: 'DisableWebhook', cause: 'outage' };
const enabledFrom = (resume: 'cursor' | 'now'): WebhookCommand => ({
  type: 'EnableWebhook',
  resume,
});
const typed = (...event_types: string[]): WebhookCommand => ({
  type: 'UpdateWebhook',
  changes: { event_types },
  told: null,
});
const moved = (url: string, description: string | null): WebhookCommand => ({
  type: 'UpdateWebhook',
  changes: { ordering: 'key' },
  told: { url, description },
});
const resecret = (fingerprint: string): WebhookCommand => ({
  type: 'RotateSecret',
  fingerprint,
  graceUntil: '2030-01-01T00:00:00.000000Z',
  now: '2029-01-01T00:00:00.000000Z',
});
const replayed = (id: number): WebhookCommand => ({
  type: 'RequestReplay',
  data: { replay_id: String(id), after: '0', until: '9', event_types: null },
  reason: 'restored',
});
const replayOver = (id: number): WebhookCommand => ({
  type: 'EndReplay',
  replayId: String(id),
  delivered: 2n,
  failed: 1n,
});
const cancelled = (id: number): WebhookCommand => ({ type: 'CancelReplay', replayId: String(id) });
const paused: WebhookCommand = { type: 'PauseWebhook' };
const resumed: WebhookCommand = { type: 'ResumeWebhook' };
export const ended: WebhookCommand = { type: 'DeleteWebhook' };
/** Every way that a subscription's life can go. */
export const SUBSCRIPTIONS: readonly (readonly (WebhookCommand | WebhookNote)[])[] = [
  [],
  [typed('*'), typed('quarantine.expired'), typed('*')],
  [moved('https://b.example/', null), moved('https://c.example/', 'again'), typed('*')],
  [resumed, paused, resumed, paused],
  [failing, recovered, failing],
  [failing, disabled, enabledFrom('cursor'), failing, disabled],
  [disabled, enabledFrom('now'), typed('*'), disabled, enabledFrom('now')],
  [resecret('b'), resecret('c'), resecret('d')],
  [replayed(1), replayed(2), cancelled(1), replayOver(2), replayed(3)],
  [replayed(4), replayed(5), replayOver(4), ended],
  [typed('*'), resecret('b'), failing, ended, recovered],
  [ended],
];

export async function liveThroughWebhooks(log: EventLog): Promise<void> {
  for (const [index, life] of SUBSCRIPTIONS.entries()) {
    const id = String(index + 1);
    const resource = { type: 'webhook', id };
    for (const step of [subscribed(index + 1), ...life]) {
      const call = { resource, mailDomains: [], meta, commandId: randomUUID() };
      if ('data' in step && step.type.startsWith('webhook.')) {
        const events = [toAppend(step as WebhookNote, call)];
        await log.append({ stream: webhookNotesStream(id), expected: 'any', events });
      } else {
        const command = step as WebhookCommand;
        await handleCommand(log, webhook, { ...call, stream: webhookStream(id), command });
      }
    }
  }
}

export async function refuseRequests(log: EventLog): Promise<void> {
  const windows = [
    ['1', 'rate_limited', '2026-05-01T07:42:01.000000Z', 3],
    ['1', 'rate_limited', '2026-05-01T07:43:01.000000Z', 5],
    ['2', 'rate_limited', '2026-05-01T07:42:01.000000Z', 7],
    ['2', 'scope_forbidden', '2026-05-01T07:44:01.000000Z', 11],
    ['unknown', 'overflow', '2026-05-01T07:42:01.000000Z', 13],
  ] as const;
  for (const [id, reason, first, count] of windows) {
    const data = { reason, from: first, to: first, first, last: first, count };
    const event = toAppend(
      {
        type: 'api_key.denied',
        data,
        personal: [{ name: 'addresses', value: ['192.0.2.7'], class: 'network' }],
      },
      { resource: { type: 'api_key', id }, mailDomains: [], commandId: randomUUID(), meta },
    );
    await log.append({ stream: `api_key_usage-${id}`, expected: 'any', events: [event] });
  }
}
