import { chmodSync, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { startEmbeddedPostgres } from '../../src/db/embedded.ts';
import { migrate } from '../../src/db/migrate.ts';
import { openClient } from '../../src/db/pool.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** URLs of the run's own servers, one for each worker, with a migrated database `template_mailguard` to clone. */
    serverUrls: readonly string[];
  }
}

const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

const MEMORY_DIR = '/dev/shm';
/** The databases of a whole run with their log, several times over. */
const ROOM_BYTES = 4 * 1024 ** 3;

/**
 * A directory in memory where there is one with room, else on the disk: that hundreds of databases are made and
 * dropped is most of what a run writes. What a crash may lose is tried by the journeys, whose databases are on the disk.
 */
function roomyDirectory(): string {
  try {
    const { bavail, bsize } = statfsSync(MEMORY_DIR);
    if (bavail * bsize >= ROOM_BYTES) return MEMORY_DIR;
  } catch {
    // Not every system has one.
  }
  return tmpdir();
}

/** One real PostgreSQL for each worker of the run; each test file clones its own database from a template. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const workers = Array.from({ length: project.config.maxWorkers }, startServer);
  const servers = await Promise.all(workers);
  project.provide(
    'serverUrls',
    servers.map(({ url }) => url),
  );
  return async () => {
    await Promise.all(servers.map(({ stop }) => stop()));
  };
}

async function startServer(): Promise<Readonly<{ url: string; stop: () => Promise<void> }>> {
  const dataDir = mkdtempSync(join(roomyDirectory(), 'mailguard-test-'));
  chmodSync(dataDir, 0o711);
  const server = await startEmbeddedPostgres({ dataDir, logger: silent });
  const admin = openClient({ url: server.url, role: null });
  await admin.connect();
  await admin.query('create database template_mailguard');
  const template = new URL(server.url);
  template.pathname = '/template_mailguard';
  await migrate(template.href);
  await admin.query('alter database template_mailguard is_template true');
  await admin.end();
  return {
    url: server.url,
    async stop() {
      await server.stop();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}
