import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Clock } from '../../src/clock.ts';
import { type MailDomainCommand, mailDomain } from '../../src/domain/mail-domain.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { handleCommand } from '../../src/eventlog/handle-command.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import {
  endFiltersOfMailDomain,
  endOrphanFilters,
  expireSenderFilters,
  makeSenderFilter,
  type WantedFilter,
} from '../../src/integrations/sender-filters.ts';
import { mailDomainsProjection } from '../../src/projections/mail-domains.ts';
import { type Projector, startProjector } from '../../src/projections/projector.ts';
import { findSenderFilter, senderFiltersProjection } from '../../src/projections/sender-filters.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { meta } from '../support/events.ts';
import { settings } from '../support/mail-domain-settings.ts';

const MESSAGE = '0196f0c1-0000-7000-8000-000000000001';
const EXPIRY = '2026-06-01T00:00:00.000000Z';
const silent = { warn: () => undefined, error: () => undefined };

let database: TestDatabase;
let pool: pg.Pool;
let log: EventLog;
let projector: Projector;
let ids = 0;
beforeAll(async () => {
  database = await createDatabase();
  ({ pool } = database);
  log = await database.openLog();
  await liveMailDomain('7', 'CreateMailDomain');
  projector = await startProjector({ pool, log, logger: silent }, [
    mailDomainsProjection,
    senderFiltersProjection,
  ]);
});
afterAll(async () => {
  await projector.stop();
  await database.drop();
});

async function liveMailDomain(id: string, type: MailDomainCommand['type']): Promise<void> {
  const command = { type, id, name: `d${id}.example`, settings, backendServers: [] };
  await handleCommand(log, mailDomain, {
    stream: `mail_domain-${id}`,
    resource: { type: 'mail_domain', id },
    mailDomains: [id],
    command: command as MailDomainCommand,
    meta,
    commandId: randomUUID(),
  });
}

async function make(fields: Partial<WantedFilter> = {}): Promise<number> {
  ids += 1;
  await makeSenderFilter(
    { log },
    {
      filterId: String(ids),
      kind: 'allow',
      scope: 'mail_domain',
      mailDomain: '7',
      sender: 'bob@spam.example',
      recipient: null,
      expiresAt: null,
      madeBy: MESSAGE,
      meta,
      commandId: randomUUID(),
      ...fields,
    },
  );
  return Number(fields.filterId ?? ids);
}

const caughtUp = async () => projector.caughtUp((await log.head()).position);
const find = async (id: number) => {
  await caughtUp();
  return findSenderFilter(pool, id);
};
const typesOf = async (id: number): Promise<string[]> =>
  (await log.readStream(`sender_filter-${id}`)).map(({ line }) => readLine(line).type);
const jobAt = (now: string) => {
  const clock: Clock = { now: () => new Date(now), nowMs: () => Date.parse(now) };
  return { pool, log, clock, nodeId: 'node-1' };
};

describe('makeSenderFilter', () => {
  it('makes a filter that names the message whose release made it', async () => {
    const id = await make({ recipient: 'ann@d7.example', scope: 'recipient', expiresAt: EXPIRY });
    expect(await find(id)).toMatchObject({
      kind: 'allow',
      scope: 'recipient',
      mailDomain: 7,
      sender: 'bob@spam.example',
      recipient: 'ann@d7.example',
      expiresAt: EXPIRY,
      madeBy: MESSAGE,
    });
  });

  it('makes it once, whoever asks again and with whatever', async () => {
    const commandId = randomUUID();
    const id = await make({ commandId });
    await make({ filterId: String(id), commandId });
    await make({ filterId: String(id), kind: 'block' });
    expect(await typesOf(id)).toEqual(['sender_filter.created']);
    expect((await find(id))?.kind).toBe('allow');
  });

  it('does not bring back one that has ended since', async () => {
    const id = await make({ expiresAt: EXPIRY });
    await caughtUp();
    await expireSenderFilters(jobAt(EXPIRY));
    await make({ filterId: String(id) });
    expect(await typesOf(id)).toEqual(['sender_filter.created', 'sender_filter.expired']);
    expect(await find(id)).toBeNull();
  });
});

describe('expireSenderFilters', () => {
  it('ends those whose time has come, and no other', async () => {
    const due = await make({ expiresAt: EXPIRY, mailDomain: null, scope: 'global' });
    const later = await make({ expiresAt: '2026-06-01T00:00:00.000001Z' });
    const never = await make();
    await caughtUp();
    await expireSenderFilters(jobAt('2026-05-31T23:59:59.999Z'));
    expect(await typesOf(due)).toEqual(['sender_filter.created']);
    await expireSenderFilters(jobAt(EXPIRY));
    const [, expired] = await log.readStream(`sender_filter-${due}`);
    expect(readLine(expired?.line ?? '')).toMatchObject({
      type: 'sender_filter.expired',
      actor: { type: 'system', id: 'mailguard' },
      mail_domains: [],
    });
    expect(await find(due)).toBeNull();
    for (const id of [later, never]) expect(await typesOf(id)).toEqual(['sender_filter.created']);
  });

  it('records nothing for one that the read model still has', async () => {
    const id = await make({ expiresAt: EXPIRY });
    await caughtUp();
    await projector.stop();
    await expireSenderFilters(jobAt(EXPIRY));
    await expireSenderFilters(jobAt('2026-06-01T00:00:01Z'));
    expect(await typesOf(id)).toEqual(['sender_filter.created', 'sender_filter.expired']);
    projector = await startProjector({ pool, log, logger: silent }, [
      mailDomainsProjection,
      senderFiltersProjection,
    ]);
  });

  it('ends more than a page of them', async () => {
    const made = await Promise.all(Array.from({ length: 501 }, () => make({ expiresAt: EXPIRY })));
    await caughtUp();
    await expireSenderFilters(jobAt(EXPIRY));
    await caughtUp();
    const left = await Promise.all(made.map((id) => findSenderFilter(pool, id)));
    expect(left.filter((row) => row !== null)).toEqual([]);
  });
});

describe('the end of a mail domain', () => {
  it('ends its filters, as whoever deleted it, and no other', async () => {
    const own = [await make({ mailDomain: '8' }), await make({ mailDomain: '8' })];
    const others = [await make(), await make({ mailDomain: null, scope: 'global' })];
    await caughtUp();
    await endFiltersOfMailDomain({ pool, log }, 8, meta);
    await endFiltersOfMailDomain({ pool, log }, 8, { ...meta, correlationId: 'again' });
    for (const id of own) {
      expect(await typesOf(id)).toEqual(['sender_filter.created', 'sender_filter.deleted']);
      const [, deleted] = await log.readStream(`sender_filter-${id}`);
      expect(readLine(deleted?.line ?? '')).toMatchObject({
        actor: meta.actor,
        correlation_id: meta.correlationId,
        mail_domains: ['8'],
      });
    }
    for (const id of others) expect(await find(id)).not.toBeNull();
  });

  it('ends what was made meanwhile, or left by a crash, as the system', async () => {
    await liveMailDomain('9', 'CreateMailDomain');
    const orphan = await make({ mailDomain: '9' });
    const other = await make();
    await caughtUp();
    await endOrphanFilters(jobAt(EXPIRY));
    expect(await typesOf(orphan)).toEqual(['sender_filter.created']);
    await liveMailDomain('9', 'DeleteMailDomain');
    await caughtUp();
    await endOrphanFilters(jobAt(EXPIRY));
    await endOrphanFilters(jobAt(EXPIRY));
    expect(await typesOf(orphan)).toEqual(['sender_filter.created', 'sender_filter.deleted']);
    expect(await find(other)).not.toBeNull();
  });
});
