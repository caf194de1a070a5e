import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { isAtHome, readLogState, settleLog } from '../../src/db/log-state.ts';
import { openClient } from '../../src/db/pool.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';

describe('a log is settled before it is opened', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  const epochNow = async () => {
    const client = openClient({ url: database.url, role: null });
    await client.connect();
    try {
      return (await readLogState(client)).epoch;
    } finally {
      await client.end();
    }
  };
  const setHome = (home: string) =>
    asAdmin(database.url, `update eventlog.log_info set home = ${home}`);

  let home: string;
  let epoch: number;
  beforeEach(async () => {
    await setHome('null');
    const settled = await settleLog(database.url, 0n);
    home = settled.home ?? '';
    epoch = await epochNow();
  });

  it('by server, timeline and database', () => {
    expect(home).toMatch(/^\d+\/[0-9A-F]{8}\/\d+$/);
  });

  it('and is the same log for as long as it is where it was', async () => {
    const { begun } = await settleLog(database.url, 0n);
    expect(begun).toBeNull();
    expect(await epochNow()).toBe(epoch);
  });

  it.each([
    ['another server', 0, '7'],
    [
      'another timeline, of a standby that took over or a recovery to a point in time',
      1,
      '0000002A',
    ],
    ['another database, as a dump is loaded into', 2, '1'],
  ])('begins an epoch in %s, once', async (_, part, other) => {
    const parts = home.split('/');
    parts[part] = other;
    await setHome(`'${parts.join('/')}'`);
    const { begun } = await settleLog(database.url, 0n);
    expect(begun?.epoch).toBeGreaterThan(epoch);
    expect(begun?.why).toBe(`it was ${parts.join('/')}, and is ${home}`);
    expect(await epochNow()).toBe(begun?.epoch);
    expect((await settleLog(database.url, 0n)).begun).toBeNull();
  });

  it('begins an epoch when it ends before what was seen of it', async () => {
    const { begun } = await settleLog(database.url, 7n);
    expect(begun?.why).toBe('it was seen up to 7, and ends at 0');
    expect(await epochNow()).toBe(begun?.epoch);
  });

  it('takes an unknown home as it finds it, as after a migration and a restore', async () => {
    await setHome('null');
    expect(await settleLog(database.url, 0n)).toEqual({ home, head: '0', begun: null });
  });

  it('is settled, too, for a role that its server tells nothing', async () => {
    const silent = 'revoke execute on function pg_control_system() from public, mailguard_app';
    await asAdmin(database.url, silent);
    expect(await isAtHome(database.pool, home)).toBe(true);
    await asAdmin(database.url, 'grant execute on function pg_control_system() to public');
  });

  it('is found to be elsewhere while it is open', async () => {
    expect(await isAtHome(database.pool, home)).toBe(true);
    expect(await isAtHome(database.pool, `${home}0`)).toBe(false);
  });
});
