import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import ipaddr from 'ipaddr.js';
import { z } from 'zod';

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
  logLevel: string;
  /** For the CLI's HTTP commands. */
  url: string | null;
  apiKey: string | null;
}>;

/** Settings that cannot be worked with; says every problem, so that one round of mending is enough. */
export class ConfigError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(`The configuration is refused:\n${problems.map((p) => `- ${p}`).join('\n')}`);
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

const SECRETS = [
  'MAILGUARD_MASTER_KEY',
  'MAILGUARD_BOOTSTRAP_KEY',
  'MAILGUARD_DATABASE_URL',
  'MAILGUARD_EVENTLOG_URL',
  'MAILGUARD_API_KEY',
] as const;
const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

const optional = <T extends z.ZodType>(schema: T) => schema.optional().transform((v) => v ?? null);

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
    .default(
      () =>
        hostname()
          .replace(/[^A-Za-z0-9._-]/g, '-')
          .slice(0, 128) || 'node',
    ),
  MAILGUARD_PUBLIC_URL: optional(z.url({ protocol: /^https?$/, error: 'must be an http(s) URL' })),
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
  const given = withSecretFiles(env, problems);
  for (const name of Object.keys(given)) {
    if (name.startsWith('MAILGUARD_') && !KNOWN.has(name))
      problems.push(`${name} is not a setting`);
  }
  const parsed = Environment.safeParse(given);
  if (!parsed.success) {
    problems.push(...parsed.error.issues.map((i) => `${i.path.join('.')} ${i.message}`));
    throw new ConfigError(problems);
  }
  const e = parsed.data;
  problems.push(...weaknesses(e));
  if (problems.length > 0) throw new ConfigError(problems);
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
    logLevel: e.MAILGUARD_LOG_LEVEL,
    url: e.MAILGUARD_URL,
    apiKey: e.MAILGUARD_API_KEY,
  });
}

const KNOWN = new Set([
  ...Object.keys(Environment.shape),
  ...SECRETS.map((name) => `${name}_FILE`),
]);

type Parsed = z.output<typeof Environment>;

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
  for (const cidr of e.MAILGUARD_TRUSTED_PROXIES) {
    if (!isCidr(cidr))
      problems.push(`MAILGUARD_TRUSTED_PROXIES: ${cidr} is not an address or CIDR`);
    else if (/\/0$/.test(cidr)) {
      problems.push(`MAILGUARD_TRUSTED_PROXIES: ${cidr} would trust everybody`);
    }
  }
  const master = e.MAILGUARD_MASTER_KEY;
  if (master !== null && new Set(master.toLowerCase().match(/../g)).size < 8) {
    problems.push('MAILGUARD_MASTER_KEY has too little variety to be random');
  }
  const bootstrap = e.MAILGUARD_BOOTSTRAP_KEY;
  if (bootstrap !== null && new Set(bootstrap.slice(4).match(/../g)).size < 8) {
    problems.push('MAILGUARD_BOOTSTRAP_KEY has too little variety to be random');
  }
  return problems;
}

function withSecretFiles(env: NodeJS.ProcessEnv, problems: string[]): Record<string, string> {
  const given: Record<string, string> = {};
  // An empty variable is one that was not set: compose files and units pass them so.
  for (const [name, value] of Object.entries(env)) if (value) given[name] = value;
  for (const name of SECRETS) {
    const path = given[`${name}_FILE`];
    if (path === undefined) continue;
    if (given[name] !== undefined) {
      problems.push(`${name} and ${name}_FILE are both set`);
      continue;
    }
    try {
      given[name] = readFileSync(path, 'utf8').trim();
    } catch {
      problems.push(`${name}_FILE cannot be read`);
    }
  }
  return given;
}

function splitList(text: string): string[] {
  return text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
}

const isLoopback = (host: string): boolean =>
  host === 'localhost' || (ipaddr.isValid(host) && ipaddr.process(host).range() === 'loopback');

function isCidr(text: string): boolean {
  return ipaddr.isValid(text) || ipaddr.isValidCIDR(text);
}
