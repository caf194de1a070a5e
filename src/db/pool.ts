import pg from 'pg';
import { ConfigError } from '../config-error.ts';

/** The role that the service works under where it could be made; see migration 0001. */
export const APP_ROLE = 'mailguard_app';

export type PoolOptions = Readonly<{
  url: string;
  size: number;
  /** Null keeps the URL's own role: for migrations, and where the role could not be made. */
  role: string | null;
  statementTimeoutMs?: number;
}>;

const CONNECT_TIMEOUT_MS = 5_000;

/**
 * A pool whose sessions run under one role with a statement time limit. Times and 64-bit integers
 * come back as text, so that nothing is lost on the way through a JavaScript number or date.
 */
export function openPool(options: PoolOptions): pg.Pool {
  const pool = new pg.Pool({ ...clientConfig(options), max: options.size });
  // A connection that breaks fails its query, or is replaced at the next one. Its error event besides,
  // idle (the pool's) or in use (its own), would end the process if nobody listened.
  pool.on('error', () => undefined);
  pool.on('connect', (client) => client.on('error', () => undefined));
  return pool;
}

export function openClient(options: Omit<PoolOptions, 'size'>): pg.Client {
  const client = new pg.Client(clientConfig(options));
  client.on('error', () => undefined);
  return client;
}

/** What a server answers to a role, a password or a database that it does not have, today or tomorrow. */
const TURNED_AWAY = ['28000', '28P01', '3D000'];

/** Connects; a `ConfigError` when the server turns away whom or what the URL names. */
export async function connectOrRefuse(client: pg.Client): Promise<void> {
  try {
    await client.connect();
  } catch (error) {
    if (!(error instanceof pg.DatabaseError) || !TURNED_AWAY.includes(error.code ?? ''))
      throw error;
    throw new ConfigError(`the database turns its URL away: ${error.message}`);
  }
}

function clientConfig(options: Omit<PoolOptions, 'size'>): pg.ClientConfig {
  const settings = [
    `-c statement_timeout=${options.statementTimeoutMs ?? 30_000}`,
    '-c timezone=UTC',
    '-c synchronous_commit=on',
    // A session whose client is gone, and the lock it holds, must not live for hours.
    '-c tcp_keepalives_idle=5',
    '-c tcp_keepalives_interval=2',
    '-c tcp_keepalives_count=3',
    ...(options.role === null ? [] : [`-c role=${options.role}`]),
  ];
  return {
    connectionString: options.url,
    options: settings.join(' '),
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    keepAlive: true,
    types: { getTypeParser: textOnly },
  };
}

const { builtins } = pg.types;
const AS_TEXT = new Set<number>([builtins.INT8, builtins.TIMESTAMPTZ, builtins.NUMERIC]);
const keepText = (text: string): string => text;

const textOnly: pg.CustomTypesConfig['getTypeParser'] = (oid: number, format?: unknown) =>
  AS_TEXT.has(oid) && format !== 'binary'
    ? keepText
    : (pg.types.getTypeParser as (oid: number, format?: unknown) => never)(oid, format);
