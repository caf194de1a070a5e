import { readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { runner } from 'node-pg-migrate';
import type pg from 'pg';
import { ConfigError } from '../config-error.ts';
import { LOCKS } from './lock.ts';
import { connectOrRefuse, openClient } from './pool.ts';
import { isThere } from './relations.ts';

const MIGRATIONS = fileURLToPath(new URL('migrations', import.meta.url));

/** The names of this release's migrations, in their order. */
export async function listOwnMigrations(): Promise<readonly string[]> {
  const files = await readdir(MIGRATIONS);
  return files
    .filter((file) => file.endsWith('.sql'))
    .map((file) => file.slice(0, -'.sql'.length))
    .sort();
}

/** The names of those that a database has been through, in their order; none before the first. */
export async function listAppliedMigrations(db: pg.ClientBase): Promise<readonly string[]> {
  if (!(await isThere(db, { schema: 'public', name: 'schema_migrations' }))) return [];
  const { rows } = await db.query<{ name: string }>(
    'select name from public.schema_migrations order by id',
  );
  return rows.map(({ name }) => name);
}

/**
 * Brings a database to this release's schema, once, as the URL's own role; a second process waits
 * for the first. With `total` only the first so many migrations are run, those that it has been through included.
 * Returns how many ran; a `ConfigError` when a later release has been at the database, which is left as it is.
 */
export async function migrate(url: string, total = Number.POSITIVE_INFINITY): Promise<number> {
  const client = openClient({ url, role: null, statementTimeoutMs: 0 });
  await connectOrRefuse(client);
  try {
    const applied = await listAppliedMigrations(client);
    requireKnown(applied, await listOwnMigrations(), client.database);
    const count = total - applied.length;
    if (count <= 0) return 0;
    const done = await runner({
      dbClient: client,
      dir: MIGRATIONS,
      direction: 'up',
      migrationsTable: 'schema_migrations',
      count,
      singleTransaction: false,
      checkOrder: true,
      log: () => undefined,
      lockValue: LOCKS.migrate,
      advisoryLockMode: 'wait',
    });
    return done.length;
  } finally {
    await client.end();
  }
}

/** What a later release changed is not what this one takes it for: it might lose what that has put there. */
function requireKnown(
  applied: readonly string[],
  own: readonly string[],
  database: string | undefined,
): void {
  const unknown = applied.filter((name) => !own.includes(name));
  if (unknown.length === 0) return;
  throw new ConfigError(
    `the database ${database} has migrations that this release does not know (${unknown.join(', ')}): start the ` +
      'release that made them, or a later one, or restore a backup of before the upgrade',
  );
}
