import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { type Clock, systemClock } from '../../src/clock.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import { createLogger } from '../../src/logger.ts';
import { type Gateway, type Overrides, startGateway } from '../../src/main.ts';
import { issueApiKey } from '../../src/secret-text.ts';
import { createDatabase, type TestDatabase } from './database.ts';

export type Reply = Readonly<{
  status: number;
  headers: Headers;
  body: { data: any; error: string | null; message: string };
  text: string;
}>;

export type Sending = Readonly<{
  key?: string | null;
  body?: unknown;
  headers?: Record<string, string>;
}>;

export type TestGateway = Readonly<{
  url: string;
  gateway: Gateway;
  database: TestDatabase;
  bootstrapKey: string;
  /** Every line that was logged. */
  logged: string[];
  /** Sends below /api/v1 (or, from a `//`, from the root) as the bootstrap key unless said otherwise. */
  send: (method: string, path: string, options?: Sending) => Promise<Reply>;
  createKey: (fields?: object) => Promise<{ id: number; key: string }>;
  createDomain: (name?: string, fields?: object) => Promise<{ id: number; name: string }>;
  /** Stops the gateway and starts another on the same database. */
  restart: () => Promise<TestGateway>;
  close: () => Promise<void>;
}>;

export type TestClock = Clock & { advance: (ms: number) => void };

/** Real time plus what a test adds to it. */
export function testClock(): TestClock {
  let added = 0;
  return {
    now: () => new Date(systemClock.now().getTime() + added),
    nowMs: () => systemClock.nowMs() + added,
    advance(ms) {
      added += ms;
    },
  };
}

export type GatewayOptions = Readonly<{
  clock?: Clock;
  config?: Partial<Config>;
  database?: TestDatabase;
  bootstrapKey?: string;
  masterKey?: Buffer;
  /** Kept by a restart: the spool lies there. */
  dataDir?: string;
  smtp?: Overrides['smtp'];
  webhooks?: Overrides['webhooks'];
  holdQueueLookMs?: number;
  freeBytesMin?: number;
}>;

/** The whole program in this process on a database of its own, replies checked against their schemas. */
export async function startTestGateway(options: GatewayOptions = {}): Promise<TestGateway> {
  const database = options.database ?? (await createDatabase());
  const bootstrapKey = options.bootstrapKey ?? issueApiKey();
  const masterKey = options.masterKey ?? randomBytes(32);
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), 'mailguard-gateway-'));
  chmodSync(dataDir, 0o711);
  const config: Config = {
    ...loadConfig({ MAILGUARD_PORT: '0', MAILGUARD_NODE_ID: 'node-1' }),
    dataDir,
    databaseUrl: database.url,
    bootstrapKey,
    masterKey,
    ...options.config,
  };
  const logged: string[] = [];
  const logger: Logger = createLogger('trace', { write: (line) => logged.push(line) });
  const gateway = await startGateway(config, logger, {
    validateReplies: true,
    ...(options.clock === undefined ? {} : { clock: options.clock }),
    ...(options.smtp === undefined ? {} : { smtp: options.smtp }),
    ...(options.webhooks === undefined ? {} : { webhooks: options.webhooks }),
    ...(options.freeBytesMin === undefined ? {} : { freeBytesMin: options.freeBytesMin }),
    ...(options.holdQueueLookMs === undefined ? {} : { holdQueueLookMs: options.holdQueueLookMs }),
  });
  let names = 0;

  async function send(method: string, path: string, sending: Sending = {}): Promise<Reply> {
    const { key = bootstrapKey, body, headers = {} } = sending;
    const url = path.startsWith('//')
      ? gateway.url + path.slice(1)
      : `${gateway.url}/api/v1${path}`;
    const response = await fetch(url, {
      method,
      headers: {
        ...(key === null ? {} : { 'X-API-Key': key }),
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined
        ? {}
        : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const isJson = response.headers.get('content-type')?.includes('application/json') === true;
    const parsed =
      isJson && text !== '' ? JSON.parse(text) : { data: null, error: null, message: '' };
    return { status: response.status, headers: response.headers, body: parsed, text };
  }

  const made = (reply: Reply) => {
    if (reply.status !== 201) throw new Error(`not made: ${reply.status} ${reply.text}`);
    return reply.body.data;
  };

  return {
    url: gateway.url,
    gateway,
    database,
    bootstrapKey,
    logged,
    send,
    async createKey(fields = {}) {
      names += 1;
      const body = {
        name: `key ${names}`,
        scope: 'read-only',
        rate_limit_per_minute: 1_000_000,
        ...fields,
      };
      return made(await send('POST', '/auth/api-keys', { body }));
    },
    async createDomain(name, fields = {}) {
      names += 1;
      return made(
        await send('POST', '/domains', {
          body: { name: name ?? `d${names}.example.com`, ...fields },
        }),
      );
    },
    async restart() {
      await gateway.stop();
      return startTestGateway({ ...options, database, bootstrapKey, masterKey, dataDir });
    },
    async close() {
      await gateway.stop();
      rmSync(dataDir, { recursive: true, force: true });
      await database.drop();
    },
  };
}
