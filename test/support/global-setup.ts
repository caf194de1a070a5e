import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { startEmbeddedPostgres } from '../../src/db/embedded.ts';
import { migrate } from '../../src/db/migrate.ts';
import { openClient } from '../../src/db/pool.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** URL of the run's own server, with a migrated database `template_mailguard` to clone. */
    serverUrl: string;
  }
}

const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

/** One real PostgreSQL for the whole run; each test file clones its own database from a template. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const dataDir = mkdtempSync(join(tmpdir(), 'mailguard-test-'));
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
  project.provide('serverUrl', server.url);
  return async () => {
    await server.stop();
    rmSync(dataDir, { recursive: true, force: true });
  };
}
