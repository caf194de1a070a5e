import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { projectionsOf } from '../../src/projections/list.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { headOf } from '../support/recorded.ts';
import { joinerOf, mailguard } from './support.ts';

let t: TestGateway;
let key: { id: number };
let before: bigint;
let betweenAt: string;
beforeAll(async () => {
  t = await startTestGateway();
  await t.createDomain('own.example', { backend_servers: ['mx.own.example:25'] });
  key = await t.createKey({ name: 'integration' });
  await t.send('POST', '/webhooks', {
    body: { url: 'https://hooks.example/x', event_types: ['*'], enabled: false },
  });
  await t.send('POST', '/mail/quarantine', {
    headers: {
      'Content-Type': 'message/rfc822',
      'X-Mail-From': 'eve@evil.example',
      'X-Rcpt-To': 'you@own.example',
    },
    body: 'Subject: held\r\n\r\nhi',
  });
  before = await headOf(t);
  await t.send('POST', `/auth/api-keys/${key.id}/revoke`);
  const lines = await t.send('GET', `/audit/logs?after=${before}&action=api_key.revoked`);
  betweenAt = lines.body.data[0].recorded_at;
});
afterAll(() => t.close());

const replay = async (projection: string, to: string | bigint) => {
  const argv = ['replay', '--projection', projection, '--to', String(to)];
  const { code, stdout, stderr } = await mailguard(argv, { env: joinerOf(t) });
  return { code, stdout, stderr, state: code === 0 ? JSON.parse(stdout) : null };
};
const statusOf = (state: any) =>
  state.tables.api_keys.find(({ id }: { id: number }) => id === key.id)?.status;

describe('replay', () => {
  it('is a read model as it was at a position, before and after what changed it', async () => {
    const then = await replay('api_keys', before);
    expect(then).toMatchObject({
      code: 0,
      stderr: '',
      state: { projection: 'api_keys', position: before.toString() },
    });
    expect(statusOf(then.state)).toBe('active');
    expect(statusOf((await replay('api_keys', await headOf(t))).state)).toBe('revoked');
  });

  it('is it as it was at a time: what was recorded before', async () => {
    expect(statusOf((await replay('api_keys', betweenAt)).state)).toBe('active');
    const later = `${betweenAt.slice(0, 19)}Z`.replace(/^\d{4}/, '2999');
    expect(statusOf((await replay('api_keys', later)).state)).toBe('revoked');
  });

  it('is nothing before the first event', async () => {
    expect((await replay('mail_domains', 0n)).state.tables).toEqual({ mail_domains: [] });
    expect((await replay('api_keys', '1990-01-01T00:00:00Z')).state.tables).toEqual({
      api_keys: [],
    });
  });

  it('is the same text each time, and one row a line', async () => {
    const [once, again] = [await replay('quarantine', before), await replay('quarantine', before)];
    expect(once.stdout).toBe(again.stdout);
    const rows = once.stdout.split('\n').slice(1, -2);
    expect(rows.length).toBeGreaterThan(3);
    for (const row of rows) {
      if (row.startsWith('{')) JSON.parse(row.replace(/,$/, ''));
    }
  });

  it('at the head is what serves, for every read model, and leaves that alone', async () => {
    for (const { name, tables, unlike } of projectionsOf(t.gateway.context.log)) {
      if (tables.length === 0) continue;
      await t.gateway.context.projector.caughtUp(await headOf(t));
      const { state } = await replay(name, await headOf(t));
      expect(Object.keys(state.tables)).toEqual(tables);
      for (const table of tables) {
        const { rows } = await t.database.pool.query(
          `select row_to_json(t) as row from ${table} t order by t`,
        );
        const without = (row: Record<string, unknown>) => {
          const left = unlike?.[table]?.columns ?? [];
          return Object.fromEntries(
            Object.entries(row).filter(([member]) => !left.includes(member)),
          );
        };
        const [replayed, serving] = [
          state.tables[table].map(without),
          rows.map(({ row }) => without(row)),
        ];
        expect([table, replayed]).toEqual([table, serving]);
      }
    }
  });

  it.each([
    ['a name that none has', 'keys', '1', 'no read model with rows is called "keys", but api_keys'],
    ['one that keeps no rows', 'erasures', '1', 'no read model with rows is called "erasures"'],
    ['a position ahead of the log', 'api_keys', '999999', 'The log ends at position'],
    ['what is neither position nor time', 'api_keys', 'yesterday', '--to is a position, or a time'],
    ['a date that is none', 'api_keys', '2026-13-45T00:00:00Z', '--to is a position, or a time'],
  ])('is 2: %s', async (_, name, to, message) => {
    const { code, stdout, stderr } = await replay(name, to);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain(message);
  });
});
