import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import { asAdmin } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { headOf } from '../support/recorded.ts';
import { tracesOf as findTraces } from '../support/traces.ts';

const NAME = 'Wolfgang Zephyr-Quintessenz';
const LATER_NAME = 'Hildegard Xylophon-Brandung';

let t: TestGateway;
let key: { id: number; key: string };
let prefix: string;
let lines: readonly string[];
/** What a backup, taken before the deletion, would bring back. */
let backup: { names: string; credential: string; answers: string[] };

beforeAll(async () => {
  t = await startTestGateway();
  const reply = await t.send('POST', '/auth/api-keys', {
    body: { name: NAME, scope: 'full-admin' },
    headers: { 'Idempotency-Key': 'erase-me' },
  });
  key = reply.body.data;
  prefix = key.key.slice(0, 20);
  const path = `/auth/api-keys/${key.id}`;
  const rename = { name: LATER_NAME };
  await t.send('PATCH', path, { body: rename });
  // A busy life: reads, refusals, writes by it and about it, an export, an answer kept for replay.
  await t.send('GET', '/domains', { key: key.key });
  await t.send('GET', `/domains?x=${key.key}`, { key: key.key });
  await t.send('POST', '/domains', { key: key.key, body: { name: 'made.example' } });
  await t.send('GET', `/audit/logs?actor=api_key:${key.id}`, {
    key: key.key,
    headers: { Accept: 'application/x-ndjson' },
  });
  await t.send('POST', `${path}/revoke`, { headers: { 'Idempotency-Key': 'revoke' } });
  await t.send('GET', '/domains', { key: key.key });
  await t.gateway.context.activity.flush(true);
});
afterAll(() => t.close());

const tracesOf = (text: string) => findTraces(t.database, text);

async function committedLines(until: bigint): Promise<string[]> {
  const { log } = t.gateway.context;
  const page = await log.readAll({ after: 0n, until, filter: {}, limit: 100_000 });
  return page.events.map(({ line }) => line);
}

const oneText = async (sql: string): Promise<string> => {
  const client = openClient({ url: t.database.url, role: null });
  await client.connect();
  const { rows } = await client.query<{ text: string }>(sql);
  await client.end();
  return rows[0]?.text ?? '';
};

describe('before a key is deleted (the control)', () => {
  it('its names stand in its one row and in the answers that are kept', async () => {
    expect(await tracesOf(NAME)).toEqual(['eventlog.subject_names', 'public.idempotency_keys']);
    expect(await tracesOf(LATER_NAME)).toEqual([
      'eventlog.subject_names',
      'public.idempotency_keys',
    ]);
    expect(await tracesOf(prefix)).toEqual([
      'eventlog.subject_names',
      'public.credentials',
      'public.idempotency_keys',
    ]);
  });

  it('nowhere does its secret stand', async () => {
    expect(await tracesOf(key.key.slice(20))).toEqual([]);
  });
});

describe('DELETE /auth/api-keys/{id}', () => {
  it('leaves no trace of name and prefix in any table', async () => {
    const subject = `api_key:${key.id}`;
    backup = {
      names: await oneText(
        `select row_to_json(s)::text as text from eventlog.subject_names s where subject = '${subject}'`,
      ),
      credential: await oneText(
        `select row_to_json(c)::text as text from credentials c where subject = '${subject}'`,
      ),
      answers: [],
    };
    const head = await headOf(t);
    lines = await committedLines(head);
    expect((await t.send('DELETE', `/auth/api-keys/${key.id}`)).status).toBe(200);
    for (const text of [NAME, LATER_NAME, prefix])
      expect([text, await tracesOf(text)]).toEqual([text, []]);
  });

  it('leaves the committed lines as they were, byte for byte', async () => {
    expect(lines.length).toBeGreaterThan(8);
    expect((await committedLines(await headOf(t))).slice(0, lines.length)).toEqual(lines);
  });

  it('leaves the opaque lifecycle, with its digests and without its names', async () => {
    const activity = await t.send('GET', `/auth/api-keys/${key.id}/activity`);
    expect(activity.body.data).toMatchObject({ key_id: key.id, ended_by: 'revoked' });
    expect(activity.body.data.windows.length).toBeGreaterThan(0);
    expect(activity.body.data.events.map(({ type }: { type: string }) => type)).toEqual([
      'api_key.created',
      'api_key.updated',
      'api_key.revoked',
      'api_key.deleted',
    ]);
    const evidence = await t.send('GET', `/audit/logs?resource=api_key:${key.id}&form=evidence`);
    const [created] = evidence.body.data;
    expect(created.line.resource._sd).toHaveLength(2);
    for (const text of [NAME, LATER_NAME, prefix]) {
      expect(evidence.text).not.toContain(text);
      const disclosed = evidence.body.data.flatMap(({ disclosures }: { disclosures: string[] }) =>
        disclosures.map((disclosure) => Buffer.from(disclosure, 'base64url').toString()),
      );
      expect(disclosed.join()).not.toContain(text);
    }
  });

  it('is not undone by an answer that is still kept', async () => {
    const body = { name: NAME, scope: 'full-admin' };
    const headers = { 'Idempotency-Key': 'erase-me' };
    const replay = await t.send('POST', '/auth/api-keys', { body, headers });
    expect(replay.status).toBe(410);
    expect(replay.text).not.toContain('Zephyr');
  });
});

describe('after the restore of a backup', () => {
  it('everything is erased again before the gateway serves', async () => {
    await asAdmin(
      t.database.url,
      `insert into eventlog.subject_names
         select * from json_populate_record(null::eventlog.subject_names, $q$${backup.names}$q$);
       insert into credentials
         select * from json_populate_record(null::credentials, $q$${backup.credential}$q$);
       update idempotency_keys set body = '{"data":{"name":"${NAME}","key_prefix":"${prefix}"}}'
         where subject = 'api_key:${key.id}'`,
    );
    expect(await tracesOf(NAME)).toEqual(['eventlog.subject_names', 'public.idempotency_keys']);
    expect(await tracesOf(prefix)).toContain('public.credentials');
    t = await t.restart();
    for (const text of [NAME, LATER_NAME, prefix])
      expect([text, await tracesOf(text)]).toEqual([text, []]);
    expect((await t.send('GET', '/domains', { key: key.key })).status).toBe(401);
    expect((await t.send('GET', `/auth/api-keys/${key.id}/activity`)).status).toBe(200);
    expect((await committedLines(await headOf(t))).slice(0, lines.length)).toEqual(lines);
  });

  it('and so when only the answers came back', async () => {
    await asAdmin(
      t.database.url,
      `update idempotency_keys set body = '${NAME}' where subject = 'api_key:${key.id}'`,
    );
    t = await t.restart();
    expect(await tracesOf(NAME)).toEqual([]);
  });
});
