import { readFileSync, statSync } from 'node:fs';
import { hostname } from 'node:os';
import { createSecureContext } from 'node:tls';
import { z } from 'zod';
import { ConfigError } from './config-error.ts';
import {
  absolutePath,
  bytes,
  isCidr,
  isLoopback,
  isReadable,
  optional,
  splitList,
} from './config-values.ts';
import { withSecretFiles } from './secret-files.ts';

/** Everything that can be set, checked and frozen; `null` means not set. */
export type Config = Readonly<{
  host: string;
  port: number;
  tls: Readonly<{ certPath: string; keyPath: string }> | null;
  trustedProxies: readonly string[];
  /** As given; the directory in use is resolved by `data-dir.ts`. */
  dataDir: string | null;
  masterKey: Buffer | null;
  databaseUrl: string | null;
  eventlogUrl: string | null;
  bootstrapKey: string | null;
  nodeId: string;
  publicUrl: string | null;
  /** For rspamd's metadata exporter, which can send no key. */
  ingestPassword: string | null;
  /** Where held mail is: in our own spool (null), or in the hold queue of the Postfix on this machine. */
  postfix: Readonly<{
    /** Of the privileged helper. */
    socket: string;
    mailLog: string;
  }> | null;
  messageBytesMax: number;
  /** What the spool may hold in all. */
  spoolBytesMax: number;
  /** Where bounces go, as `host:port`. */
  smtpRelay: string | null;
  rspamd: Readonly<{ url: string; password: string | null }> | null;
  webhooks: Readonly<{
    /** Ranges that deliveries may go to though they are not public. */
    allowCidrs: readonly string[];
    allowHttp: boolean;
  }>;
  logLevel: string;
  /** For the CLI's HTTP commands. */
  url: string | null;
  apiKey: string | null;
}>;

const SECRETS = [
  'MAILGUARD_MASTER_KEY',
  'MAILGUARD_BOOTSTRAP_KEY',
  'MAILGUARD_DATABASE_URL',
  'MAILGUARD_EVENTLOG_URL',
  'MAILGUARD_API_KEY',
  'MAILGUARD_INGEST_PASSWORD',
  'MAILGUARD_RSPAMD_PASSWORD',
] as const;
const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

/** Segments of paths under /mail/quarantine, which a node must not be mistaken for. */
const NOT_A_NODE = ['messages', 'bulk'];

const Environment = z.object({
  MAILGUARD_HOST: z.string().default('127.0.0.1'),
  MAILGUARD_PORT: z.coerce
    .number('must be a port number')
    .int()
    .min(0, 'must be a port number')
    .max(65_535, 'must be a port number')
    .default(3443),
  MAILGUARD_TLS_CERT: optional(z.string()),
  MAILGUARD_TLS_KEY: optional(z.string()),
  MAILGUARD_TRUSTED_PROXIES: z.string().default('').transform(splitList),
  MAILGUARD_DATA_DIR: optional(z.string()),
  MAILGUARD_MASTER_KEY: optional(
    z.string().regex(/^[0-9a-fA-F]{64}$/, 'must be 32 bytes in hex (64 digits)'),
  ),
  MAILGUARD_DATABASE_URL: optional(
    z.string().regex(/^postgres(ql)?:\/\//, 'must begin with postgres://'),
  ),
  MAILGUARD_EVENTLOG_URL: optional(
    z.string().regex(/^postgres(ql)?:\/\//, 'must begin with postgres:// (esdb:// comes later)'),
  ),
  MAILGUARD_BOOTSTRAP_KEY: optional(
    z.string().regex(/^nmg_[0-9a-f]{64}$/, 'must be nmg_ and 64 lower-case hex digits'),
  ),
  MAILGUARD_NODE_ID: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,128}$/, 'must be 1 to 128 of A-Z a-z 0-9 . _ -')
    .refine((id) => !NOT_A_NODE.includes(id), `must not be ${NOT_A_NODE.join(' or ')}`)
    .default(
      () =>
        hostname()
          .replace(/[^A-Za-z0-9._-]/g, '-')
          .slice(0, 128) || 'node',
    ),
  MAILGUARD_PUBLIC_URL: optional(z.url({ protocol: /^https?$/, error: 'must be an http(s) URL' })),
  MAILGUARD_QUARANTINE_STORE: z
    .enum(['spool', 'postfix'], 'must be spool or postfix')
    .default('spool'),
  MAILGUARD_POSTFIX_SOCKET: absolutePath('/run/mailguard-postfix.sock'),
  MAILGUARD_POSTFIX_LOG: absolutePath('/var/log/mail.log'),
  MAILGUARD_INGEST_PASSWORD: optional(
    z.string().min(16, 'must have at least 16 characters').max(256),
  ),
  MAILGUARD_MESSAGE_BYTES_MAX: bytes(1_024, 52_428_800),
  MAILGUARD_SPOOL_BYTES_MAX: bytes(1_048_576, 10_737_418_240),
  MAILGUARD_SMTP_RELAY: optional(
    z
      .string()
      .regex(/^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253}):[1-9]\d{0,4}$/, 'must be host:port')
      .refine((text) => Number(/\d+$/.exec(text)?.[0]) <= 65_535, 'must end in a port'),
  ),
  MAILGUARD_RSPAMD_URL: optional(z.url({ protocol: /^https?$/, error: 'must be an http(s) URL' })),
  MAILGUARD_RSPAMD_PASSWORD: optional(z.string()),
  MAILGUARD_WEBHOOK_ALLOW_CIDRS: z.string().default('').transform(splitList),
  MAILGUARD_WEBHOOK_ALLOW_HTTP: z
    .enum(['true', 'false'], 'must be true or false')
    .default('false')
    .transform((text) => text === 'true'),
  MAILGUARD_LOG_LEVEL: z
    .enum(LOG_LEVELS, `must be one of ${LOG_LEVELS.join(', ')}`)
    .default('info'),
  MAILGUARD_URL: optional(z.url({ protocol: /^https?$/, error: 'must be an http(s) URL' })),
  MAILGUARD_API_KEY: optional(z.string()),
});

/**
 * The configuration of an environment (default: the process's, which nothing else reads). Throws a
 * `ConfigError` that names every problem at once.
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const problems: string[] = [];
  const given = withSecretFiles(env, SECRETS, problems);
  for (const name of Object.keys(given)) {
    if (name.startsWith('MAILGUARD_') && !KNOWN.has(name))
      problems.push(`${name} is not a setting`);
  }
  const e = parseEach(given, problems);
  problems.push(...weaknesses(e));
  if (problems.length > 0) throw new ConfigError(...problems);
  const tls =
    e.MAILGUARD_TLS_CERT !== null && e.MAILGUARD_TLS_KEY !== null
      ? { certPath: e.MAILGUARD_TLS_CERT, keyPath: e.MAILGUARD_TLS_KEY }
      : null;
  return Object.freeze({
    host: e.MAILGUARD_HOST,
    port: e.MAILGUARD_PORT,
    tls,
    trustedProxies: e.MAILGUARD_TRUSTED_PROXIES,
    dataDir: e.MAILGUARD_DATA_DIR,
    masterKey: e.MAILGUARD_MASTER_KEY === null ? null : Buffer.from(e.MAILGUARD_MASTER_KEY, 'hex'),
    databaseUrl: e.MAILGUARD_DATABASE_URL,
    eventlogUrl: e.MAILGUARD_EVENTLOG_URL,
    bootstrapKey: e.MAILGUARD_BOOTSTRAP_KEY,
    nodeId: e.MAILGUARD_NODE_ID,
    publicUrl: e.MAILGUARD_PUBLIC_URL,
    ingestPassword: e.MAILGUARD_INGEST_PASSWORD,
    postfix:
      e.MAILGUARD_QUARANTINE_STORE === 'postfix'
        ? { socket: e.MAILGUARD_POSTFIX_SOCKET, mailLog: e.MAILGUARD_POSTFIX_LOG }
        : null,
    messageBytesMax: e.MAILGUARD_MESSAGE_BYTES_MAX,
    spoolBytesMax: e.MAILGUARD_SPOOL_BYTES_MAX,
    smtpRelay: e.MAILGUARD_SMTP_RELAY,
    rspamd:
      e.MAILGUARD_RSPAMD_URL === null
        ? null
        : { url: e.MAILGUARD_RSPAMD_URL, password: e.MAILGUARD_RSPAMD_PASSWORD },
    webhooks: {
      allowCidrs: e.MAILGUARD_WEBHOOK_ALLOW_CIDRS,
      allowHttp: e.MAILGUARD_WEBHOOK_ALLOW_HTTP,
    },
    logLevel: e.MAILGUARD_LOG_LEVEL,
    url: e.MAILGUARD_URL,
    apiKey: e.MAILGUARD_API_KEY,
  });
}

/** Settings of later steps: known, so that one environment can serve several releases. */
const WAITING = [
  'MAILGUARD_BOOTSTRAP_EMAIL',
  'MAILGUARD_BOOTSTRAP_PASSWORD',
  'MAILGUARD_LICENSE_PUBLIC_KEY',
  'MAILGUARD_CERT_DIR',
];

const KNOWN = new Set([
  ...WAITING,
  ...WAITING.map((name) => `${name}_FILE`),
  ...Object.keys(Environment.shape),
  ...SECRETS.map((name) => `${name}_FILE`),
]);

type Parsed = z.output<typeof Environment>;

/** Each setting by itself, so that one that is wrong hides no other; it counts as not set from here on. */
function parseEach(given: Readonly<Record<string, string>>, problems: string[]): Parsed {
  const parsed = Object.entries(Environment.shape).map(([name, schema]) => {
    const result = (schema as z.ZodType).safeParse(given[name]);
    if (result.success) return [name, result.data];
    problems.push(...result.error.issues.map(({ message }) => `${name} ${message}`));
    return [name, (schema as z.ZodType).parse(undefined)];
  });
  return Object.fromEntries(parsed) as Parsed;
}

/** A range that is wider than any network of one's own. */
const PROXY_BITS_MIN = 8;

/** What is well-formed but must not be started with. */
function weaknesses(e: Parsed): string[] {
  const problems: string[] = [];
  if ((e.MAILGUARD_TLS_CERT === null) !== (e.MAILGUARD_TLS_KEY === null)) {
    problems.push('MAILGUARD_TLS_CERT and MAILGUARD_TLS_KEY must be set together');
  }
  const hasTls = e.MAILGUARD_TLS_CERT !== null && e.MAILGUARD_TLS_KEY !== null;
  if (!isLoopback(e.MAILGUARD_HOST) && !hasTls && e.MAILGUARD_TRUSTED_PROXIES.length === 0) {
    problems.push(
      'MAILGUARD_HOST is not a loopback address: set MAILGUARD_TLS_CERT and MAILGUARD_TLS_KEY, ' +
        'or MAILGUARD_TRUSTED_PROXIES',
    );
  }
  for (const name of ['MAILGUARD_TRUSTED_PROXIES', 'MAILGUARD_WEBHOOK_ALLOW_CIDRS'] as const) {
    const wrong = e[name].filter((cidr) => !isCidr(cidr));
    problems.push(...wrong.map((cidr) => `${name}: ${cidr} is not an address or CIDR`));
  }
  for (const cidr of e.MAILGUARD_TRUSTED_PROXIES.filter(isCidr)) {
    if (Number(/\/(\d+)$/.exec(cidr)?.[1] ?? 32) < PROXY_BITS_MIN) {
      problems.push(`MAILGUARD_TRUSTED_PROXIES: ${cidr} would trust everybody`);
    }
  }
  for (const path of hasTls ? [e.MAILGUARD_TLS_CERT, e.MAILGUARD_TLS_KEY] : []) {
    if (path !== null && !isReadable(path)) problems.push(`${path} (TLS) cannot be read`);
  }
  if (e.MAILGUARD_RSPAMD_PASSWORD !== null && e.MAILGUARD_RSPAMD_URL === null) {
    problems.push('MAILGUARD_RSPAMD_PASSWORD needs MAILGUARD_RSPAMD_URL');
  }
  if (e.MAILGUARD_SPOOL_BYTES_MAX < e.MAILGUARD_MESSAGE_BYTES_MAX) {
    problems.push('MAILGUARD_SPOOL_BYTES_MAX is smaller than MAILGUARD_MESSAGE_BYTES_MAX');
  }
  if (e.MAILGUARD_MASTER_KEY !== null && isDull(e.MAILGUARD_MASTER_KEY)) {
    problems.push('MAILGUARD_MASTER_KEY has too little variety to be random');
  }
  const bootstrap = e.MAILGUARD_BOOTSTRAP_KEY;
  if (bootstrap !== null && isDull(bootstrap.slice(4))) {
    problems.push('MAILGUARD_BOOTSTRAP_KEY has too little variety to be random');
  }
  return problems;
}

/** Random bytes are of many values; a key that is not was typed. */
const isDull = (hex: string): boolean => new Set(hex.toLowerCase().match(/../g)).size < 8;

/** Refuses a master key file that somebody wrote badly or that others may read. */
export function requireMasterKeyFile(path: string, text: string): void {
  const problems: string[] = [];
  if (!/^[0-9a-f]{64}$/i.test(text)) problems.push(`${path} must hold 32 bytes in hex (64 digits)`);
  else if (isDull(text)) problems.push(`${path} has too little variety to be random`);
  if ((statSync(path).mode & 0o077) !== 0)
    problems.push(`${path} may be read by others: chmod 600`);
  if (problems.length > 0) throw new ConfigError(...problems);
}

/** Refuses TLS files that no server could be started with. */
export function requireCertificate(tls: Config['tls']): void {
  if (tls === null) return;
  try {
    createSecureContext({ cert: readFileSync(tls.certPath), key: readFileSync(tls.keyPath) });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new ConfigError(
      `MAILGUARD_TLS_CERT and MAILGUARD_TLS_KEY are no certificate and its key: ${why}`,
    );
  }
}
