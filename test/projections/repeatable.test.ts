import { createHash, randomUUID } from 'node:crypto';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { saveCredential, saveWebhookSecret } from '../../src/db/credentials.ts';
import { completeIdempotencyKey, reserveIdempotencyKey } from '../../src/db/idempotency.ts';
import { findReplay } from '../../src/db/webhook-replays.ts';
import { type ApiKeyCommand, apiKey, apiKeyStream } from '../../src/domain/api-key.ts';
import type { MailDomainCommand, MailDomainSettings } from '../../src/domain/mail-domain.ts';
import { mailDomain } from '../../src/domain/mail-domain.ts';
import {
  type WebhookCommand,
  type WebhookNote,
  webhook,
  webhookNotesStream,
  webhookStream,
} from '../../src/domain/webhook.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { handleCommand, toAppend } from '../../src/eventlog/handle-command.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import { apiKeysProjection } from '../../src/projections/api-keys.ts';
import { erasuresProjection } from '../../src/projections/erasures.ts';
import { mailDomainsProjection } from '../../src/projections/mail-domains.ts';
import type { ProjectedEvent, Projection } from '../../src/projections/projector.ts';
import { rateLimitsProjection } from '../../src/projections/rate-limits.ts';
import { webhooksProjection } from '../../src/projections/webhooks.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { meta } from '../support/events.ts';

let database: TestDatabase;
let log: EventLog;
let events: readonly ProjectedEvent[];
beforeAll(async () => {
  database = await createDatabase();
  log = await database.openLog();
  await liveThroughKeys();
  await liveThroughMailDomains();
  await liveThroughWebhooks();
  await refuseRequests();
  const { position } = await log.head();
  const page = await log.readAll({ after: 0n, until: position, filter: {}, limit: 10_000 });
  events = page.events.map((stored) => ({ event: readLine(stored.line), stored }));
});
afterAll(() => database.drop());

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
const expired: ApiKeyCommand = { type: 'ExpireApiKey', now: '2026-06-02T00:00:00.000000Z' };
const revoked: ApiKeyCommand = { type: 'RevokeApiKey', reason: 'leak' };
const deleted: ApiKeyCommand = { type: 'DeleteApiKey' };
const rotated = (graceUntil: string): ApiKeyCommand => ({
  type: 'RotateApiKey',
  successor: '99',
  graceUntil,
});
/** Every way that a key's life can go. */
const LIVES: readonly (readonly ApiKeyCommand[])[] = [
  [],
  [updated, prolonged, updated],
  [revoked],
  [updated, revoked, deleted],
  [expired],
  [expired, deleted],
  [rotated('2020-01-01T00:00:00.000000Z')],
  [rotated('2030-01-01T00:00:00.000000Z')],
  [prolonged, rotated('2030-01-01T00:00:00.000000Z'), revoked],
  [prolonged, rotated('2020-01-01T00:00:00.000000Z'), revoked, deleted],
  [rotated('2030-01-01T00:00:00.000000Z'), deleted],
  [deleted],
];

async function liveThroughKeys(): Promise<void> {
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

const settings: MailDomainSettings = {
  direction: 'inbound',
  active: true,
  quarantine_threshold: 12,
  reject_threshold: 18,
  dkim_active: false,
  dmarc_reporting: false,
  tenant_id: null,
  quarantine_retention_days: 30,
};

async function liveThroughMailDomains(): Promise<void> {
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
const ended: WebhookCommand = { type: 'DeleteWebhook' };
/** Every way that a subscription's life can go. */
const SUBSCRIPTIONS: readonly (readonly (WebhookCommand | WebhookNote)[])[] = [
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

async function liveThroughWebhooks(): Promise<void> {
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

async function refuseRequests(): Promise<void> {
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

/** What the erasing projection takes away, put back as a restored backup would have it. */
async function restoreWhatIsErased(): Promise<void> {
  const admin = database.pool;
  await admin.query('delete from credentials');
  await admin.query('delete from idempotency_keys');
  await admin.query('delete from webhook_replays');
  for (const [index] of SUBSCRIPTIONS.entries()) {
    const sealed = { fingerprint: '1a2b3c4d', sealed: Buffer.alloc(64, index) };
    await saveWebhookSecret(admin, `webhook:${index + 1}`, sealed);
  }
  for (const [index] of LIVES.entries()) {
    const subject = `api_key:${index + 1}`;
    await saveCredential(admin, {
      subject,
      kind: 'api_key',
      lookup: `nmg_${index}`,
      verifier: Buffer.alloc(32, index),
      pepper: 1,
    });
    const id = { principal: 'api_key:1', method: 'POST', path: '/x', key: subject };
    const run = {
      fingerprint: createHash('sha256').update(subject).digest(),
      commandId: `00000000-0000-7000-8000-${String(index).padStart(12, '0')}`,
      runner: '00000000-0000-7000-8000-000000000000',
      now: new Date('2026-05-01T00:00:00Z'),
    };
    await reserveIdempotencyKey(admin, id, run, () => false);
    const answer = { status: 201, headers: {}, body: '{"name":"key"}', subject };
    await completeIdempotencyKey(admin, id, answer);
  }
}

const CASES: readonly {
  projection: (log: EventLog) => Projection;
  rows: readonly string[];
  leastRows: number;
}[] = [
  {
    projection: () => apiKeysProjection,
    rows: ['select * from api_keys order by id'],
    leastRows: 12,
  },
  {
    projection: () => mailDomainsProjection,
    rows: ['select * from mail_domains order by id'],
    leastRows: 3,
  },
  {
    projection: () => rateLimitsProjection,
    rows: ['select * from rate_limit_denials order by key_id, minute'],
    leastRows: 3,
  },
  {
    projection: () => webhooksProjection,
    rows: ['select * from webhooks order by id', 'select * from webhook_replays order by id'],
    leastRows: 12,
  },
  {
    projection: erasuresProjection,
    rows: [
      'select subject, kind, lookup from credentials order by subject',
      'select key, body from idempotency_keys order by key',
      'select subject, name from eventlog.subject_names order by subject',
      `select event_id, identity, network, content from eventlog.event_personal order by position`,
    ],
    leastRows: 30,
  },
];

describe.each(CASES)('a projection applied twice', ({ projection: make, rows, leastRows }) => {
  const projection = () => make(log);
  const relevant = () => events.filter(({ event }) => projection().types.includes(event.type));

  async function applyAll(list: readonly (readonly ProjectedEvent[])[]): Promise<unknown[]> {
    const db = await database.pool.connect();
    try {
      await restoreWhatIsErased();
      await projection().clear(db);
      for (const page of list) await projection().apply(db, page);
      return await readRows(db);
    } finally {
      db.release();
    }
  }

  async function readRows(db: pg.ClientBase): Promise<unknown[]> {
    const found: unknown[] = [];
    for (const sql of rows) found.push(...(await db.query(sql)).rows);
    return found;
  }

  it(`gives the same rows, event by event, page by page and all over again (${make.name || 'fixed'})`, async () => {
    const once = await applyAll([relevant()]);
    expect(once.length).toBeGreaterThanOrEqual(leastRows);
    expect(relevant().length).toBeGreaterThan(2);
    expect(await applyAll(relevant().map((event) => [event]))).toEqual(once);
    expect(await applyAll(relevant().map((event) => [event, event]))).toEqual(once);
    expect(await applyAll([relevant(), relevant()])).toEqual(once);
    // Any one event again, whatever came after it in its stream but nothing that followed from it.
    for (const [index] of relevant().entries()) {
      const upTo = relevant().slice(0, index + 1);
      const again = await applyAll([upTo, upTo.slice(-1), relevant().slice(index + 1)]);
      expect([index, again]).toEqual([index, once]);
    }
  });
});

describe('webhooks, folded anew', () => {
  it('leave replays where they were, and those that are gone away', async () => {
    const relevant = events.filter(({ event }) => webhooksProjection.types.includes(event.type));
    const db = await database.pool.connect();
    await db.query('delete from webhook_replays');
    await webhooksProjection.clear(db);
    await webhooksProjection.apply(db, relevant);
    const progress = { position: 6n, sentTo: 7n, delivered: 4n, failed: 2n } as const;
    await db.query(
      'update webhook_replays set position = 6, sent_to = 7, delivered = 4, failed = 2 where id = 3',
    );
    const before = await findReplay(database.pool, 9, 3n);
    expect(before).toMatchObject({ ...progress, state: 'running' });
    await webhooksProjection.clear(db);
    expect((await db.query('select id from webhooks')).rows).toEqual([]);
    await webhooksProjection.apply(db, relevant);
    expect(await findReplay(database.pool, 9, 3n)).toEqual(before);
    const left = await db.query('select id::int as id, state from webhook_replays order by id');
    expect(left.rows).toEqual([
      { id: 1, state: 'cancelled' },
      { id: 2, state: 'completed' },
      { id: 3, state: 'running' },
    ]);
    db.release();
  });
});

describe('the erasing projection', () => {
  it('erases the secrets of deleted webhooks, and of no others', async () => {
    const { rows } = await database.pool.query<{ id: number }>(
      `select substr(subject, 9)::int as id from credentials where kind = 'webhook' order by 1`,
    );
    const living = SUBSCRIPTIONS.flatMap((life, n) => (life.includes(ended) ? [] : [n + 1]));
    expect(living.length).toBeGreaterThan(5);
    expect(rows.map(({ id }) => id)).toEqual(living);
  });

  it('erases the deleted, and nobody else', async () => {
    const gone = LIVES.flatMap((life, n) => (life.at(-1) === deleted ? [`api_key:${n + 1}`] : []));
    const { rows } = await database.pool.query<{ subject: string }>(
      "select subject from credentials where kind = 'api_key' order by subject",
    );
    const left = rows.map(({ subject }) => subject);
    expect(left.length + gone.length).toBe(LIVES.length);
    expect(left.filter((subject) => gone.includes(subject))).toEqual([]);
    const names = await log.readNames([...left, ...gone]);
    expect([...names.keys()].sort()).toEqual(left);
  });
});
