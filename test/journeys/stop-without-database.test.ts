import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import { createDatabase } from '../support/database.ts';
import { startTestGateway } from '../support/gateway.ts';
import { startPgProxy } from '../support/pg-proxy.ts';

// What it would have saved cannot be saved, but what it started must still end: with the embedded database that
// is a whole server process, which would otherwise be left behind.
it('a gateway that is stopped while its database is away lets go of everything', async () => {
  const database = await createDatabase();
  const proxy = await startPgProxy(database.url);
  const admin = openClient({ url: database.url, role: null });
  await admin.connect();
  try {
    const t = await startTestGateway({ database: { ...database, url: proxy.url } });
    // Leaves a window of use that waits to be recorded.
    expect((await t.send('GET', '/domains')).status).toBe(200);
    proxy.shut();
    const begin = performance.now();
    await t.gateway.stop().catch(() => undefined);
    expect(performance.now() - begin).toBeLessThan(20_000);
    proxy.open();
    // Long enough for whatever still runs to connect again.
    await sleep(1_500);
    const { rows } = await admin.query(
      `select query, left(state, 20) as state from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid()
         and backend_type = 'client backend'`,
    );
    expect(rows).toEqual([]);
  } finally {
    await admin.end();
    await proxy.close();
    await database.drop();
  }
});
