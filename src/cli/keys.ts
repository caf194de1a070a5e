import { loadConfig } from '../config.ts';
import { openApi } from './api-client.ts';
import { type Command, EXIT, type Given, JSON_OPTION, usageError } from './command.ts';
import { readPages } from './pages.ts';
import { CALLER, JOINER } from './settings.ts';
import { table } from './table.ts';
import { clean, print, printJson, say, type Terminal } from './terminal.ts';

/** A key as the API shows it; `key` only in the answer that made it. */
export type KeyShown = Readonly<{
  id: number;
  name: string;
  key_prefix: string;
  scope: string;
  mail_domain: string | null;
  mail_domain_id: number | null;
  status: string;
  rate_limit_per_minute: number;
  created_at: string;
  last_used_at: string | null;
  expires_at: string | null;
  allowed_cidrs: readonly string[] | null;
  key?: string;
}>;

/** What a key is asked to be, as the body of `POST /auth/api-keys`. */
export type KeyWanted = Readonly<{
  name: string;
  scope: string;
  mail_domain?: string | number;
  rate_limit_per_minute?: number;
  expires_at?: string;
  allowed_cidrs?: readonly string[];
}>;

const LOCAL = {
  help: 'Work on the database itself, with no key: on the machine of the gateway, running or not.',
} as const;
const LOCAL_SETTINGS = [...JOINER.slice(1), 'MAILGUARD_MASTER_KEY', 'MAILGUARD_NODE_ID'] as const;

export const keysCreate: Command = {
  name: 'keys create',
  summary: 'Make an API key and print it, this once.',
  description: [
    'Standard output is the new key and nothing else; what was made is told on standard error.',
    'With --local it needs no key, for when none is left; a running gateway takes it within a second.',
  ],
  options: {
    name: { value: 'N', required: true, help: 'What people will call it.' },
    scope: {
      value: 'S',
      required: true,
      help: 'read-only, quarantine-only, domain-admin or full-admin.',
    },
    'mail-domain': { value: 'D', help: 'Narrow it to one mail domain, by name or id.' },
    'rate-limit': { value: 'N', help: 'Requests per minute (100); a burst may be ten times that.' },
    'expires-at': { value: 'T', help: 'When it ends by itself: 2027-01-31T00:00:00Z.' },
    allow: {
      value: 'CIDR',
      repeatable: true,
      help: 'An address or block it may be used from, such as 192.0.2.0/24; any number of times.',
    },
    local: LOCAL,
    json: { help: 'Print all of the new key as JSON.' },
  },
  environment: [...CALLER, ...LOCAL_SETTINGS],
  run: async (given, terminal) => {
    const wanted = wantedOf(given);
    if (!given.has('local')) {
      const { data } = await openApi(loadConfig(terminal.env), terminal).post(
        '/auth/api-keys',
        wanted,
      );
      return showNew(data as KeyShown, given, terminal);
    }
    const { createLocally } = await import('./local-keys.ts');
    return showNew(await createLocally(wanted, terminal), given, terminal);
  },
};

export const keysList: Command = {
  name: 'keys list',
  summary: 'List API keys, newest first.',
  description: [
    'Those of your owner; a domain-admin sees those of its mail domain, a full-admin all.',
  ],
  options: JSON_OPTION,
  environment: CALLER,
  run: async (given, terminal) => {
    const api = openApi(loadConfig(terminal.env), terminal);
    const keys = await readPages<KeyShown>(api, '/auth/api-keys');
    if (given.has('json')) await printJson(terminal.stdout, keys);
    else await print(terminal.stdout, table(HEADINGS, keys.map(toRow)));
    return EXIT.done;
  },
};

export const keysRevoke: Command = {
  name: 'keys revoke',
  summary: 'Make an API key invalid at once, and keep it in the audit log.',
  description: [
    'Revoking a key that has ended already changes nothing.',
    'With --local it needs no key; a running gateway refuses the revoked one within a second.',
  ],
  parameters: ['ID'],
  options: {
    reason: { value: 'R', help: 'Why, for the audit log.' },
    local: LOCAL,
    ...JSON_OPTION,
  },
  environment: [...CALLER, ...LOCAL_SETTINGS],
  run: async (given, terminal) => {
    const id = idOf(given);
    const reason = given.text('reason');
    if (given.has('local')) {
      const { revokeLocally } = await import('./local-keys.ts');
      return showEnded(await revokeLocally(id, reason, terminal), given, terminal);
    }
    const { data } = await openApi(loadConfig(terminal.env), terminal).post(
      `/auth/api-keys/${id}/revoke`,
      reason === null ? {} : { reason },
    );
    return showEnded(data as KeyShown, given, terminal);
  },
};

function wantedOf(given: Given): KeyWanted {
  const mailDomain = given.text('mail-domain');
  const rateLimit = given.text('rate-limit');
  const expiresAt = given.text('expires-at');
  const allowed = given.texts('allow');
  if (rateLimit !== null && !/^\d{1,9}$/.test(rateLimit)) {
    throw usageError('--rate-limit takes a whole number', keysCreate.name);
  }
  return {
    name: given.text('name') ?? '',
    scope: given.text('scope') ?? '',
    ...(mailDomain === null ? {} : { mail_domain: toMailDomain(mailDomain) }),
    ...(rateLimit === null ? {} : { rate_limit_per_minute: Number(rateLimit) }),
    ...(expiresAt === null ? {} : { expires_at: expiresAt }),
    ...(allowed.length === 0 ? {} : { allowed_cidrs: allowed }),
  };
}

/** No name of a mail domain is a number, so digits are an id. */
const toMailDomain = (text: string): string | number =>
  /^[1-9]\d{0,14}$/.test(text) ? Number(text) : text;

function idOf(given: Given): number {
  const [text = ''] = given.parameters;
  if (/^[1-9]\d{0,14}$/.test(text)) return Number(text);
  throw usageError(`"${clean(text)}" is not the id of a key`, keysRevoke.name);
}

async function showNew(key: KeyShown, given: Given, terminal: Terminal): Promise<number> {
  if (given.has('json')) {
    await printJson(terminal.stdout, key);
    return EXIT.done;
  }
  const where = key.mail_domain === null ? '' : ` for ${key.mail_domain}`;
  await say(terminal, clean(`Key ${key.id} "${key.name}" (${key.scope}${where}) was made.`));
  await print(terminal.stdout, `${key.key ?? ''}\n`);
  return EXIT.done;
}

async function showEnded(
  key: Pick<KeyShown, 'id' | 'status'>,
  given: Given,
  { stdout }: Terminal,
): Promise<number> {
  if (given.has('json')) await printJson(stdout, key);
  else await print(stdout, `Key ${key.id} is ${clean(key.status)}.\n`);
  return EXIT.done;
}

const HEADINGS = ['id', 'name', 'prefix', 'scope', 'mail domain', 'status', 'last used', 'expires'];
const toRow = (key: KeyShown): string[] => [
  String(key.id),
  key.name,
  key.key_prefix,
  key.scope,
  key.mail_domain ?? '-',
  key.status,
  key.last_used_at ?? '-',
  key.expires_at ?? '-',
];
