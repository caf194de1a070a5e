// What an integrator writes: a program over a client that a generator made of openapi.yaml. It is compiled and run by
// ../client.test.ts, next to that client, which is never committed; so the compiler of the house leaves it out.
import { createClient, createConfig } from './generated/client/index.js';
import {
  createApiKey,
  createMailDomain,
  createWebhook,
  listApiKeys,
  listAuditLogs,
  listQuarantine,
  quarantineMessage,
  releaseMessage,
  revokeApiKey,
} from './generated/sdk.gen.js';
import type { AuditLine, QuarantineItem } from './generated/types.gen.js';

const [url = '', firstKey = '', backend = '', receiver = ''] = process.argv.slice(2);

/** A client that calls with one key, and with nothing else. */
const clientOf = (key: string) =>
  createClient(
    createConfig({
      baseUrl: url,
      auth: ({ type }) => (type === 'apiKey' ? key : undefined),
    }),
  );
const client = clientOf(firstKey);

function must<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new Error(`there is no ${what}`);
  return value;
}

const mail = new Blob([
  'From: eve@sender.example\r\nTo: you@client.example\r\nSubject: Hello\r\n\r\nHi.\r\n',
]);

async function holdMail(): Promise<QuarantineItem> {
  const body = { name: 'client.example', backend_servers: [backend] };
  const domain = await createMailDomain({ client, body, throwOnError: true });
  const held = await quarantineMessage({
    client,
    headers: { 'X-Mail-From': 'eve@sender.example', 'X-Rcpt-To': 'you@client.example' },
    body: mail,
    throwOnError: true,
  });
  const item = must(held.data.data, 'item, as there is where Postfix holds the mail');
  const query = { domain: domain.data.data.name, state: 'held', limit: 10 };
  const listed = await listQuarantine({ client, query, throwOnError: true });
  return must(
    listed.data.data.find(({ id }) => id === item.id),
    'held message in the list',
  );
}

const PAGES_MAX = 100;

/** Reads the audit log to its end, page by page, as a poller does. */
async function readAudit(): Promise<AuditLine[]> {
  const lines: AuditLine[] = [];
  let cursor: string | undefined;
  let hasMore = true;
  for (let pages = 0; hasMore && pages < PAGES_MAX; pages += 1) {
    const query = {
      limit: 3,
      action: 'mail_domain.*,quarantine.*,webhook.*,api_key.created',
      ...(cursor === undefined ? {} : { cursor }),
    };
    const page = await listAuditLogs({ client, query, throwOnError: true });
    for (const line of page.data.data) if ('position' in line) lines.push(line);
    cursor = must(page.response.headers.get('X-Next-Cursor'), 'cursor');
    hasMore = page.response.headers.get('X-Has-More') === 'true';
  }
  return lines;
}

/** What a key is good for while it lives, and afterwards. */
async function liveAndDie() {
  const made = await createApiKey({
    client,
    body: { name: 'for a while', scope: 'read-only' },
    throwOnError: true,
  });
  const { id, key } = made.data.data;
  const own = clientOf(must(key, 'key, as there is in the first answer'));
  const alive = await listApiKeys({ client: own });
  const path = { id };
  await revokeApiKey({ client, path, body: { reason: 'over' }, throwOnError: true });
  const dead = await listApiKeys({ client: own });
  return { alive: alive.response.status, dead: dead.response.status, code: dead.error?.error };
}

const item = await holdMail();
const hook = await createWebhook({
  client,
  body: { url: receiver, event_types: ['quarantine.released'] },
  throwOnError: true,
});
const path = { id: item.id };
const released = await releaseMessage({
  client,
  path,
  body: { reason: 'theirs' },
  throwOnError: true,
});
const wrong = await createWebhook({ client, body: { url: 'ftp://x', event_types: ['*'] } });
const key = await liveAndDie();
const lines = await readAudit();

process.stdout.write(
  JSON.stringify({
    held: [item.sender, item.subject, item.state],
    released: [released.response.status, released.data.data.state],
    hook: [hook.data.data.event_types, hook.data.data.secret?.slice(0, 6)],
    refused: [wrong.response.status, wrong.error?.error],
    key,
    read: lines.map(({ type }) => type),
    isInOrder: lines.every(
      (line, n) => n === 0 || BigInt(line.position) > BigInt(lines[n - 1]?.position ?? -1),
    ),
  }),
);
