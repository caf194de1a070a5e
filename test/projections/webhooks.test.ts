import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findReplay, listReplays } from '../../src/db/webhook-replays.ts';
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
import {
  countWebhooks,
  findWebhook,
  listOrphanWebhooks,
  listWebhooks,
  type WebhookRow,
  webhooksProjection,
} from '../../src/projections/webhooks.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { meta } from '../support/events.ts';

let database: TestDatabase;
let log: EventLog;
beforeAll(async () => {
  database = await createDatabase();
  log = await database.openLog();
});
afterAll(() => database.drop());

let ids = 0;
const newId = () => {
  ids += 1;
  return ids;
};
const URL = 'https://hooks.example.com/a';
const data = {
  event_types: ['quarantine.added'],
  ordering: 'none',
  mail_domain: null,
  start_after: null,
  enabled: true,
  secret: '1a2b3c4d',
} as const;
const create = (fields: object = {}, description: string | null = 'tickets'): WebhookCommand => ({
  type: 'CreateWebhook',
  data: { ...data, ...fields },
  told: { url: URL, description },
});

type Step = WebhookCommand | WebhookNote;
const isNote = (step: Step): step is WebhookNote => step.type.startsWith('webhook.');

/** Lets a subscription live on; gives the position and the time of the last event. */
async function live(id: number, ...steps: readonly Step[]) {
  let last = { position: 0n, recordedAt: '' };
  const target = { resource: { type: 'webhook', id: String(id) }, mailDomains: [], meta };
  for (const step of steps) {
    const call = { ...target, commandId: randomUUID() };
    const outcome = isNote(step)
      ? await log.append({
          stream: webhookNotesStream(String(id)),
          expected: 'any',
          events: [toAppend(step, call)],
        })
      : await handleCommand(log, webhook, {
          ...call,
          stream: webhookStream(String(id)),
          command: step,
        });
    if (!('position' in outcome) || outcome.position === null) continue;
    last = { position: outcome.position, recordedAt: outcome.recordedAt ?? '' };
  }
  await project();
  return last;
}

let projectedTo = 0n;
async function project(): Promise<void> {
  const { position: until } = await log.head();
  const { types } = webhooksProjection;
  const page = await log.readAll({ after: projectedTo, until, filter: { types }, limit: 10_000 });
  const db = await database.pool.connect();
  await webhooksProjection.apply(
    db,
    page.events.map((stored) => ({ event: readLine(stored.line), stored })),
  );
  db.release();
  projectedTo = until;
}

const rowOf = async (id: number): Promise<WebhookRow> => {
  const row = await findWebhook(database.pool, id);
  if (row === null) throw new Error('no row');
  return row;
};

describe('a subscription as it is set', () => {
  it('is what it was made with, behind its own event', async () => {
    const id = newId();
    const { position, recordedAt } = await live(id, create());
    expect(await rowOf(id)).toEqual({
      id,
      revision: 0n,
      status: 'active',
      cause: null,
      url: URL,
      description: 'tickets',
      mailDomain: null,
      ordering: 'none',
      epochs: [{ epoch: 1, after: position, eventTypes: ['quarantine.added'], skips: false }],
      secrets: [{ fingerprint: '1a2b3c4d', until: null }],
      failingSince: null,
      createdAt: recordedAt,
      updatedAt: recordedAt,
    });
  });

  it('is held, bound, ordered, and begins where it was wanted', async () => {
    const id = newId();
    await live(
      id,
      create({ enabled: false, mail_domain: '7', ordering: 'key', start_after: '0' }, null),
    );
    expect(await rowOf(id)).toMatchObject({
      status: 'paused',
      mailDomain: 7,
      ordering: 'key',
      description: null,
      epochs: [{ epoch: 1, after: 0n }],
    });
  });

  it('is paused and goes on, with its revision and time', async () => {
    const id = newId();
    await live(id, create());
    const { recordedAt } = await live(id, { type: 'PauseWebhook' });
    expect(await rowOf(id)).toMatchObject({
      status: 'paused',
      revision: 1n,
      updatedAt: recordedAt,
    });
    await live(id, { type: 'ResumeWebhook' });
    expect(await rowOf(id)).toMatchObject({ status: 'active', revision: 2n });
  });

  it('is disabled with its cause until it is enabled', async () => {
    const id = newId();
    await live(id, create(), { type: 'DisableWebhook', cause: 'gone' });
    expect(await rowOf(id)).toMatchObject({ status: 'disabled', cause: 'gone', revision: 1n });
    await live(id, { type: 'EnableWebhook', resume: 'cursor' });
    const row = await rowOf(id);
    expect(row).toMatchObject({ status: 'active', cause: null, revision: 2n });
    expect(row.epochs).toHaveLength(1);
  });

  it('is gone once it was deleted', async () => {
    const id = newId();
    await live(id, create(), { type: 'DeleteWebhook' });
    expect(await findWebhook(database.pool, id)).toBeNull();
  });

  it('keeps its secrets as they were told', async () => {
    const id = newId();
    const until = '2030-01-01T00:00:00.000000Z';
    const now = '2029-12-31T00:00:00.000000Z';
    await live(id, create(), {
      ...{ type: 'RotateSecret', fingerprint: '5e6f7081', graceUntil: until, now },
    });
    expect((await rowOf(id)).secrets).toEqual([
      { fingerprint: '5e6f7081', until: null },
      { fingerprint: '1a2b3c4d', until },
    ]);
  });
});

describe('an update', () => {
  const update = (
    changes: Extract<WebhookCommand, { type: 'UpdateWebhook' }>['changes'],
    told: Extract<WebhookCommand, { type: 'UpdateWebhook' }>['told'] = null,
  ): WebhookCommand => ({ type: 'UpdateWebhook', changes, told });

  it('of the URL or description changes those, and of the rest neither', async () => {
    const id = newId();
    await live(id, create(), update({}, { url: 'https://b.example/', description: null }));
    expect(await rowOf(id)).toMatchObject({ url: 'https://b.example/', description: null });
    await live(id, update({}, { url: 'https://b.example/', description: 'again' }));
    await live(id, update({ ordering: 'key' }));
    const row = await rowOf(id);
    expect(row).toMatchObject({
      url: 'https://b.example/',
      description: 'again',
      ordering: 'key',
      revision: 3n,
    });
    expect(row.epochs).toHaveLength(1);
  });

  it('of the event types begins an epoch exactly behind its event', async () => {
    const id = newId();
    const { position: first } = await live(id, create());
    const { position: second } = await live(id, update({ event_types: ['*'] }));
    const { position: third } = await live(id, update({ event_types: ['quarantine.expired'] }));
    expect((await rowOf(id)).epochs).toEqual([
      { epoch: 1, after: first, eventTypes: ['quarantine.added'], skips: false },
      { epoch: 2, after: second, eventTypes: ['*'], skips: false },
      { epoch: 3, after: third, eventTypes: ['quarantine.expired'], skips: false },
    ]);
  });

  it('enabled from now on, it leaves out what lies before, with the same event types', async () => {
    const id = newId();
    await live(id, create(), { type: 'DisableWebhook', cause: 'outage' });
    const { position } = await live(id, { type: 'EnableWebhook', resume: 'now' });
    expect((await rowOf(id)).epochs.at(-1)).toEqual({
      ...{ epoch: 2, after: position, eventTypes: ['quarantine.added'], skips: true },
    });
  });
});

describe('an endpoint that fails', () => {
  const since = '2026-05-01T07:42:13.000000Z';
  const failing: WebhookNote = {
    type: 'webhook.failing',
    data: { since, hours: 1, cause: 'http_error' },
  };

  it('is said to since when, until it recovers; its revision stays its own stream’s', async () => {
    const id = newId();
    await live(id, create(), failing);
    expect(await rowOf(id)).toMatchObject({ failingSince: since, revision: 0n });
    await live(id, { type: 'webhook.recovered', data: { since } });
    expect(await rowOf(id)).toMatchObject({ failingSince: null, revision: 0n });
  });

  it('is forgiven when somebody has seen to it', async () => {
    const id = newId();
    await live(id, create(), failing, { type: 'DisableWebhook', cause: 'outage' });
    expect((await rowOf(id)).failingSince).toBe(since);
    await live(id, { type: 'EnableWebhook', resume: 'cursor' });
    expect((await rowOf(id)).failingSince).toBeNull();
    await live(id, failing, { type: 'PauseWebhook' }, { type: 'ResumeWebhook' });
    expect((await rowOf(id)).failingSince).toBeNull();
  });

  it('says nothing of one that is deleted', async () => {
    const id = newId();
    await live(id, create(), { type: 'DeleteWebhook' }, failing);
    expect(await findWebhook(database.pool, id)).toBeNull();
  });
});

describe('replays', () => {
  const ask = (id: number, types: string[] | null = null): WebhookCommand => ({
    type: 'RequestReplay',
    data: { replay_id: String(id), after: '3', until: '9', event_types: types },
    reason: 'restored',
  });
  const end = (id: number): WebhookCommand => ({
    type: 'EndReplay',
    replayId: String(id),
    ...{ delivered: 2n, failed: 0n },
  });

  it('begin at their range’s start, and end as they were ended', async () => {
    const id = newId();
    const replays = [101, 102, 103] as const;
    await live(id, create(), ask(101), ask(102, ['quarantine.added']), ask(103));
    expect(await findReplay(database.pool, id, 102n)).toMatchObject({
      webhookId: id,
      after: 3n,
      until: 9n,
      position: 3n,
      sentTo: 3n,
      state: 'running',
      eventTypes: ['quarantine.added'],
      delivered: 0n,
      failed: 0n,
      endedAt: null,
    });
    const { recordedAt } = await live(id, { type: 'CancelReplay', replayId: '102' }, end(103));
    expect((await rowOf(id)).revision).toBe(5n);
    const found = await Promise.all(replays.map((n) => findReplay(database.pool, id, BigInt(n))));
    expect(found.map((replay) => replay?.state)).toEqual(['running', 'cancelled', 'completed']);
    expect(Math.abs(Number(found[2]?.endedAt) - Date.parse(recordedAt))).toBeLessThanOrEqual(1);
    const running = await listReplays(database.pool, id, { running: true, limit: 10 });
    expect(running.map((replay) => replay.id)).toEqual([101n]);
    expect(await findReplay(database.pool, id + 1, 101n)).toBeNull();
  });

  it('go with their subscription, and no other’s do', async () => {
    const [id, other] = [newId(), newId()];
    await live(other, create(), ask(105));
    await live(id, create(), ask(104), { type: 'DeleteWebhook' });
    expect(await listReplays(database.pool, id, { running: false, limit: 10 })).toEqual([]);
    expect(await listReplays(database.pool, other, { running: false, limit: 10 })).toHaveLength(1);
  });
});

describe('lists', () => {
  it('give pages, newest first, of one mail domain or of all', async () => {
    const before = await countWebhooks(database.pool);
    const own = [newId(), newId(), newId()];
    for (const id of own) await live(id, create({ mail_domain: '70' }));
    const other = newId();
    await live(other, create({ mail_domain: '71' }));
    const list = async (mailDomain: number | null, from: number | null, limit = 10) =>
      (await listWebhooks(database.pool, mailDomain, { before: from, limit })).map(({ id }) => id);
    expect(await list(70, null)).toEqual([...own].reverse());
    expect(await list(70, null, 2)).toEqual([own[2], own[1]]);
    expect(await list(70, own[1] ?? 0)).toEqual([own[0]]);
    expect(await list(72, null)).toEqual([]);
    expect((await list(null, null)).slice(0, 4)).toEqual([other, ...own.toReversed()]);
    expect(await countWebhooks(database.pool)).toBe(before + 4);
  });

  it('of orphans give those of mail domains that are gone', async () => {
    const [own, orphan, free] = [newId(), newId(), newId()];
    await database.pool.query(
      `insert into mail_domains (id, stream, revision, settings, backend_servers, created_at, updated_at)
       values (80, 'd80', 0, '{}', '[]', now(), now())`,
    );
    await live(own, create({ mail_domain: '80' }));
    await live(orphan, create({ mail_domain: '81' }));
    await live(free, create());
    const found = (await listOrphanWebhooks(database.pool)).map(({ id }) => id);
    expect(found).toContain(orphan);
    expect(found).not.toContain(own);
    expect(found).not.toContain(free);
  });
});
