import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { stoppedClock } from '../support/stopped-clock.ts';

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway({ clock: stoppedClock() });
});
afterAll(() => t.close());

const read = (key: string) => t.send('GET', '/domains', { key });
const idsIn = async (table: string, column: string): Promise<number[]> => {
  const { rows } = await t.database.pool.query(`select ${column} as id from ${table} order by 1`);
  return rows.map(({ id }) => Number(id));
};
const forget = async () => {
  await t.gateway.context.activity.forgetDeleted();
  await t.gateway.context.limiter.forgetDeleted();
};
const flush = async () => {
  await t.gateway.context.activity.flush();
  await t.gateway.context.limiter.flush();
};
/** What is kept of the use and the bucket of a key, in memory and in tables. */
async function traces(id: number): Promise<Record<string, boolean>> {
  const { activity, limiter } = t.gateway.context;
  return {
    use: activity.lastUse(id) !== null,
    useRow: (await idsIn('api_key_use', 'key_id')).includes(id),
    // A bucket that is not known is a full one.
    bucket: limiter.remaining(id, 1_000) < 10_000,
    bucketRow: (await idsIn('rate_buckets', 'id')).includes(id),
  };
}
const KEPT = { use: true, useRow: true, bucket: true, bucketRow: true };
const GONE = { use: false, useRow: false, bucket: false, bucketRow: false };

async function aUsedKey() {
  const made = await t.createKey({ rate_limit_per_minute: 1_000 });
  await read(made.key);
  return made;
}

describe('the use and the bucket of a key', () => {
  it('are forgotten when it is deleted, and only then', async () => {
    const [kept, revoked, deleted] = [await aUsedKey(), await aUsedKey(), await aUsedKey()];
    await t.send('POST', `/auth/api-keys/${revoked.id}/revoke`);
    await t.send('DELETE', `/auth/api-keys/${deleted.id}`);
    await flush();
    await forget();
    expect(await traces(deleted.id)).toEqual(GONE);
    expect(await traces(kept.id)).toEqual(KEPT);
    expect(await traces(revoked.id)).toEqual(KEPT);
    await flush();
    expect(await traces(deleted.id)).toEqual(GONE);
  });

  it('are kept of a bucket that a successor shares, until that is deleted too', async () => {
    const first = await aUsedKey();
    const { body } = await t.send('POST', `/auth/api-keys/${first.id}/rotate`);
    await t.send('DELETE', `/auth/api-keys/${first.id}`);
    await flush();
    await forget();
    expect(await traces(first.id)).toEqual({ ...GONE, bucket: true, bucketRow: true });
    await t.send('DELETE', `/auth/api-keys/${body.data.id}`);
    await forget();
    expect(await traces(first.id)).toEqual(GONE);
  });

  it('are not forgotten of a key that the read model does not know yet', async () => {
    const made = await aUsedKey();
    await flush();
    const { pool } = t.database;
    await pool.query('update api_keys set id = -id, bucket = -bucket where id = $1', [made.id]);
    await forget();
    expect(await traces(made.id)).toEqual(KEPT);
    await pool.query('update api_keys set id = -id, bucket = -bucket where id = $1', [-made.id]);
  });

  it('are forgotten at the next start when the process ended before', async () => {
    const [kept, deleted] = [await aUsedKey(), await aUsedKey()];
    await flush();
    await t.send('DELETE', `/auth/api-keys/${deleted.id}`);
    t = await t.restart();
    expect(await traces(deleted.id)).toEqual(GONE);
    expect(await traces(kept.id)).toEqual(KEPT);
  });

  it('do not keep windows of a deleted key from becoming events', async () => {
    const { id } = await aUsedKey();
    await t.send('DELETE', `/auth/api-keys/${id}`);
    await forget();
    await t.gateway.context.activity.flush(true);
    const { data } = (await t.send('GET', `/auth/api-keys/${id}/activity`)).body;
    expect(data.windows).toMatchObject([{ requests: 1 }]);
  });
});
