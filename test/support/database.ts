import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { inject } from 'vitest';
import { APP_ROLE, openClient, openPool } from '../../src/db/pool.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { postgresEventLog } from '../../src/eventlog/postgres.ts';

export type TestDatabase = Readonly<{
  url: string;
  name: string;
  /** As the service: under the role that may not change the log. */
  pool: pg.Pool;
  openLog: () => Promise<EventLog>;
  drop: () => Promise<void>;
}>;

/** The server of this worker: what others do on theirs takes no connection from it. */
function serverUrlOfWorker(): string {
  const urls = inject('serverUrls');
  const url = urls[Number(process.env['VITEST_POOL_ID']) - 1];
  if (url === undefined)
    throw new Error(`there is no server for worker ${process.env['VITEST_POOL_ID']}`);
  return url;
}

/** A database of its own, cloned from the migrated template. */
export async function createDatabase(): Promise<TestDatabase> {
  const serverUrl = serverUrlOfWorker();
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  // Copied as files, which nobody changes, rather than page by page through the log.
  const clone = `create database ${name} template template_mailguard strategy file_copy`;
  await asAdmin(serverUrl, clone);
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  // A clone of a log is the same log; each test has one of its own.
  await asAdmin(url.href, 'update eventlog.log_info set log_id = gen_random_uuid()');
  const pool = openPool({ url: url.href, size: 6, role: APP_ROLE });
  const exportPool = openPool({ url: url.href, size: 2, role: APP_ROLE });
  const logs: EventLog[] = [];
  return {
    url: url.href,
    name,
    pool,
    async openLog() {
      const log = await postgresEventLog({
        pool,
        exportPool,
        connect: () => openClient({ url: url.href, role: APP_ROLE }),
      });
      logs.push(log);
      return log;
    },
    async drop() {
      for (const log of logs) await log.close();
      await pool.end();
      await exportPool.end();
      await asAdmin(serverUrl, `drop database if exists ${name} with (force)`);
    },
  };
}

export async function asAdmin(url: string, sql: string): Promise<void> {
  const client = openClient({ url, role: null });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}
