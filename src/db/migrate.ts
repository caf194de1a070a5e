import { fileURLToPath } from 'node:url';
import { runner } from 'node-pg-migrate';
import { openClient } from './pool.ts';

const MIGRATIONS = fileURLToPath(new URL('migrations', import.meta.url));

/**
 * Brings a database to this release's schema, once, as the URL's own role; a second process waits
 * for the first. Returns how many migrations ran.
 */
export async function migrate(url: string): Promise<number> {
  const client = openClient({ url, role: null, statementTimeoutMs: 0 });
  await client.connect();
  try {
    const done = await runner({
      dbClient: client,
      dir: MIGRATIONS,
      direction: 'up',
      migrationsTable: 'schema_migrations',
      count: Number.POSITIVE_INFINITY,
      singleTransaction: false,
      checkOrder: true,
      log: () => undefined,
      advisoryLockMode: 'wait',
    });
    return done.length;
  } finally {
    await client.end();
  }
}
