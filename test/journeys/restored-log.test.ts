import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { issueApiKey } from '../../src/secret-text.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { headOf } from '../support/recorded.ts';

// The log has a database of its own, and that one is restored from a backup. The read models have seen more than it
// holds now; for as long as it is the shorter one they would pass for caught up, and show what never was.
describe('a log that was restored to an earlier state', () => {
  const secrets = { masterKey: randomBytes(32), bootstrapKey: issueApiKey() };
  let readModels: TestDatabase;
  let whole: TestDatabase;
  let restored: TestDatabase;
  let t: TestGateway;
  let kept: { id: number; name: string };
  let lost: { id: number; name: string };
  let key: { id: number; key: string };
  let lostKey: { id: number; key: string };
  let cursor: string;
  let end: string;

  const serve = (log: TestDatabase) =>
    startTestGateway({ database: readModels, config: { eventlogUrl: log.url }, ...secrets });
  const cursorNow = async () => {
    const reply = await t.send('GET', '/audit/logs?limit=1');
    return reply.headers.get('x-next-cursor') ?? '';
  };
  const readFrom = async (cursor: string) => {
    const { status, body } = await t.send('GET', `/audit/logs?cursor=${cursor}`);
    return [status, body.error];
  };
  const endOf = async ({ pool }: TestDatabase) => {
    const { rows } = await pool.query('select max(position) as position from eventlog.events');
    return rows[0].position as string;
  };
  const begun = () => t.logged.filter((line) => line.includes('"why":'));
  const listed = async () =>
    (await t.send('GET', '/domains')).body.data.map(({ id }: { id: number }) => id);
  const rebuilt = () => t.logged.filter((line) => line.includes('"msg":"rebuilding"'));
  const checkpoints = async () => {
    const { rows } = await readModels.pool.query<{ name: string; position: string }>(
      'select name, position from projection_checkpoints order by name',
    );
    return rows.map(({ name, position }) => ({ name, position: BigInt(position) }));
  };

  beforeAll(async () => {
    [readModels, whole, restored] = [
      await createDatabase(),
      await createDatabase(),
      await createDatabase(),
    ];
    t = await serve(whole);
    kept = await t.createDomain('kept.example');
    const webhook = { url: 'https://receiver.example/', event_types: ['*'], enabled: false };
    expect((await t.send('POST', '/webhooks', { body: webhook })).status).toBe(201);
    key = await t.createKey();
    await t.gateway.stop();
    await asAdmin(readModels.url, `drop database ${restored.name}`);
    await asAdmin(readModels.url, `create database ${restored.name} template ${whole.name}`);
    t = await serve(whole);
    lost = await t.createDomain('lost.example');
    lostKey = await t.createKey();
    await t.send('PATCH', `/domains/${kept.id}`, { body: { active: false } });
    await t.send('POST', `/auth/api-keys/${key.id}/revoke`);
    for (let n = 0; n < 10; n += 1) await t.createDomain(`lost${n}.example`);
    cursor = await cursorNow();
  });
  afterAll(async () => {
    await t.close();
    await whole.drop();
    await restored.drop();
  });

  it('is no reason to rebuild while it is as it was (the control)', async () => {
    await t.gateway.stop();
    t = await serve(whole);
    expect(rebuilt()).toEqual([]);
    expect(begun()).toEqual([]);
    expect(await listed()).toContain(lost.id);
    expect(await readFrom(cursor)).toEqual([200, null]);
  });

  it('is noticed at the start: every read model is folded anew from what the log holds', async () => {
    await t.gateway.stop();
    const before = await checkpoints();
    await asAdmin(readModels.url, 'update webhook_cursors set position = 1000, sent_to = 1000');
    end = await endOf(restored);
    t = await serve(restored);
    expect(before.some(({ position }) => position > 10n)).toBe(true);
    expect(rebuilt().length).toBeGreaterThan(0);
    const head = await headOf(t);
    for (const { name, position } of await checkpoints()) {
      expect([name, position <= head]).toEqual([name, true]);
    }
    expect(await listed()).toEqual([kept.id]);
    expect((await t.send('GET', `/domains/${kept.id}`)).body.data.active).toBe(true);
  });

  it('refuses cursors of before, since it gives their positions out again', async () => {
    expect(begun()).toHaveLength(1);
    expect(await readFrom(cursor)).toEqual([409, 'cursor_log_mismatch']);
    expect(await readFrom(await cursorNow())).toEqual([200, null]);
  });

  it('takes webhooks back to its end, so that what comes there is sent', async () => {
    const { rows } = await readModels.pool.query('select position, sent_to from webhook_cursors');
    expect(rows).toEqual([{ position: end, sent_to: end }]);
  });

  it('decides whose key opens', async () => {
    expect((await t.send('GET', '/domains', { key: key.key })).status).toBe(200);
    expect((await t.send('GET', '/domains', { key: lostKey.key })).status).toBe(401);
  });

  it('is followed from there: what is recorded next is seen at once', async () => {
    const next = await t.createDomain('lost.example');
    expect(await listed()).toEqual([next.id, kept.id]);
    expect(next.id).toBeGreaterThan(lost.id);
  });

  it('begins no other epoch at the next start', async () => {
    const [before, home] = [await cursorNow(), restored];
    await t.gateway.stop();
    t = await serve(home);
    expect(begun()).toEqual([]);
    expect(await readFrom(before)).toEqual([200, null]);
  });
});
