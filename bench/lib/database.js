import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../dist/db/embedded.js';
import { migrate } from '../../dist/db/migrate.js';
import { APP_ROLE, openClient, openPool } from '../../dist/db/pool.js';
import { postgresEventLog } from '../../dist/eventlog/postgres.js';

const silent = { info: () => undefined, warn: () => undefined, error: console.error };

/** The program's own embedded PostgreSQL with its schema, in a directory; stopped at the end. */
export async function startDatabase(defer, dataDir) {
  const server = await startEmbeddedPostgres({ dataDir, logger: silent });
  defer(() => server.stop());
  await migrate(server.url);
  return { url: server.url, pid: postmasterPid(dataDir) };
}

export const postmasterPid = (dataDir) =>
  Number(readFileSync(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0]);

/** A further database with the schema on the same server; its URL. */
export async function makeDatabase(url, name, withSchema = true) {
  const admin = await connect(url);
  await admin.query(`create database ${name}`);
  await admin.end();
  const made = new URL(url);
  made.pathname = `/${name}`;
  if (withSchema) await migrate(made.href);
  return made.href;
}

/** A connection as the database's owner, without a time limit. */
export async function connect(url) {
  const client = openClient({ url, role: null, statementTimeoutMs: 0 });
  await client.connect();
  return client;
}

/** The event log exactly as the gateway opens it: its pools, its role, its own appending connection. */
export async function openLog(defer, url) {
  const pool = openPool({ url, size: 12, role: APP_ROLE });
  const exportPool = openPool({ url, size: 4, role: APP_ROLE });
  const log = await postgresEventLog({
    pool,
    exportPool,
    connect: () => openClient({ url, role: APP_ROLE }),
  });
  const close = async () => {
    await log.close();
    await Promise.all([pool.end(), exportPool.end()]);
  };
  defer(close);
  return log;
}
