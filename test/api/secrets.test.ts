import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { requestHead, sendRaw } from '../support/raw-http.ts';
import { allSince } from '../support/recorded.ts';

const masterKey = randomBytes(32);
let t: TestGateway;
/** Every secret that was ever told, with the one answer that may hold it. */
const told = new Map<string, string>();
const answers: string[] = [];

beforeAll(async () => {
  t = await startTestGateway({ masterKey });
  await load();
});
afterAll(() => t.close());

async function send(method: string, path: string, options: object = {}): Promise<Reply> {
  const reply = await t.send(method, path, options);
  const text = `${[...reply.headers].join('\n')}\n${reply.text}`;
  answers.push(text);
  const key = reply.body?.data?.key;
  if (typeof key === 'string') told.set(key, text);
  return reply;
}

/** All that the gateway does, in all the ways in which it can go wrong. */
async function load(): Promise<void> {
  const domain = (await send('POST', '/domains', { body: { name: 'secret.example' } })).body.data;
  const make = async (fields: object = {}) =>
    (
      await send('POST', '/auth/api-keys', {
        body: { name: 'a key', scope: 'full-admin', ...fields },
        headers: { 'Idempotency-Key': `k${told.size}` },
      })
    ).body.data;
  const keys = [await make(), await make(), await make({ mail_domain: domain.name })];
  const [first, second, third] = keys;
  for (const { key } of keys) await send('GET', '/domains', { key });
  // The same key again, from the kept answer.
  await send('POST', '/auth/api-keys', {
    body: { name: 'a key', scope: 'full-admin' },
    headers: { 'Idempotency-Key': 'k0' },
  });
  const rotated = (
    await send('POST', `/auth/api-keys/${first.id}/rotate`, { body: { grace_seconds: 60 } })
  ).body.data;
  for (const key of [rotated.key, first.key, second.key]) {
    for (const path of [
      '/auth/api-keys',
      `/auth/api-keys/${second.id}`,
      `/auth/api-keys/${second.id}/activity`,
      '/audit/logs?limit=10000',
      '/audit/logs?form=evidence&limit=10000',
      '/audit/logs/2',
      `/audit/logs?cursor=${key.slice(4)}`,
      `/domains?x=${key}`,
      `/nothing/${key}`,
      `/domains/${encodeURIComponent(key)}`,
    ]) {
      await send('GET', path, { key });
    }
    await send('GET', '/audit/logs', { key, headers: { Accept: 'application/x-ndjson' } });
    await send('POST', '/auth/api-keys', { key, body: { name: 'x', scope: 'root', key } });
    await send('POST', '/auth/api-keys', { key, body: `{"name":"${key}` });
    await send('POST', '/domains', { key, body: { name: key } });
    await send('PUT', `/domains/${domain.id}`, { key, body: { tenant_id: [key] } });
    await send('GET', '/domains', { key: `${key}0` });
    await send('GET', '/domains', { key: `${key.slice(0, -1)}g` });
    await send('GET', '/domains', { key: null, headers: { Authorization: `Bearer ${key}` } });
    await send('GET', '/domains', { key: null, headers: { Cookie: `sid=${key}` } });
    await send('GET', '/domains', { key, headers: { 'If-Match': key, Accept: key } });
    await send('PATCH', `/domains/${domain.id}`, { key, body: {}, headers: { 'If-Match': key } });
    const head = requestHead('GET /livez', `X-API-Key: ${key}`, 'Broken header');
    answers.push((await sendRaw(t.url, head)).text);
  }
  await failWith(second.key);
  await send('POST', `/auth/api-keys/${third.id}/revoke`, { body: { reason: 'leaked' } });
  await send('GET', '/domains', { key: third.key });
  await send('DELETE', `/auth/api-keys/${second.id}`);
  await send('GET', '/domains', { key: second.key });
  await send('GET', '//metrics');
  await send('GET', '//readyz');
  await t.gateway.context.activity.flush(true);
}

/** Bugs whose errors carry what they met: the request with its key, a query with its parameters. */
async function failWith(key: string): Promise<void> {
  const { log } = t.gateway.context;
  const mutable = log as { readNames: typeof log.readNames };
  const { readNames } = log;
  const verifier = (await verifiers())[0];
  const errors = [
    Object.assign(new Error(`cannot use ${key}`), { request: { headers: { 'x-api-key': key } } }),
    Object.assign(new Error('x'), {
      config: { headers: { 'X-API-Key': key, authorization: key } },
    }),
    Object.assign(new Error('query failed'), {
      parameters: [key, verifier],
      client: { password: key },
    }),
    new Error('outer', { cause: new Error(`inner ${key}`) }),
    new AggregateError([new Error(key)], key),
    key,
    { key },
  ];
  for (const error of errors) {
    mutable.readNames = () => Promise.reject(error);
    await send('GET', '/auth/api-keys', { key });
    await send('POST', '/auth/api-keys', { key, body: { name: 'x', scope: 'read-only' } });
  }
  mutable.readNames = readNames;
}

const verifiers = async (): Promise<Buffer[]> =>
  (await t.database.pool.query<{ verifier: Buffer }>('select verifier from credentials')).rows.map(
    (row) => row.verifier,
  );

/** A binary secret in every way in which it might be printed. */
const formsOf = (bytes: Buffer): string[] => [
  bytes.toString('hex'),
  bytes.toString('base64'),
  bytes.toString('base64url'),
  JSON.stringify([...bytes]).slice(1, -1),
];

async function recorded(): Promise<string> {
  const events = await allSince(t, 0n);
  return events.map((event) => JSON.stringify(event)).join('\n');
}

describe('a key (16.2.5, 15.3.1, 14.2.6)', () => {
  it('was told often enough for this to mean something', () => {
    expect(told.size).toBeGreaterThanOrEqual(4);
    expect(t.logged.length).toBeGreaterThan(100);
    expect(t.logged.join('')).toContain('a request failed on a bug');
    for (const [key, answer] of told) expect(answer).toContain(key);
  });

  it('stands in no log line, nor does a piece of it', () => {
    const logged = t.logged.join('');
    for (const key of [t.bootstrapKey, ...told.keys()]) {
      for (const piece of [key, key.slice(4), key.slice(20), key.slice(0, 20)]) {
        expect(logged.includes(piece)).toBe(false);
      }
    }
  });

  it('stands in no answer but the one that told it', () => {
    for (const key of [t.bootstrapKey, ...told.keys()]) {
      const holding = answers.filter((answer) => answer.includes(key.slice(20)));
      expect(holding).toEqual(told.has(key) ? [told.get(key)] : []);
    }
  });

  it('stands in no event, disclosed or not', async () => {
    const text = await recorded();
    for (const key of [t.bootstrapKey, ...told.keys()]) {
      expect(text.includes(key.slice(20))).toBe(false);
    }
  });

  it('stands in no table', async () => {
    const { rows: tables } = await t.database.pool.query<{ name: string }>(
      `select format('%I.%I', schemaname, tablename) as name from pg_tables
       where schemaname in ('public', 'eventlog')
         and has_table_privilege(format('%I.%I', schemaname, tablename), 'select')`,
    );
    expect(tables.length).toBeGreaterThan(10);
    for (const { name } of tables) {
      const { rows } = await t.database.pool.query<{ t: string }>(`select t::text from ${name} t`);
      const text = rows.map((row) => row.t).join('\n');
      for (const key of [t.bootstrapKey, ...told.keys()]) {
        expect([name, text.includes(key.slice(20))]).toEqual([name, false]);
      }
    }
  });
});

describe('a request id that holds a key', () => {
  it('is not kept: the log would hold the key for good', async () => {
    const { key } = await t.createKey({ scope: 'full-admin' });
    const reply = await t.send('POST', '/auth/api-keys', {
      key,
      body: { name: 'x', scope: 'read-only' },
      headers: { 'X-Request-Id': key },
    });
    expect(reply.status).toBe(201);
    expect(await recorded()).not.toContain(key.slice(20));
    expect(reply.headers.get('x-request-id')).not.toContain(key.slice(20));
  });
});

describe('verifiers and key material', () => {
  it('stand in no log line, answer or event', async () => {
    const { cursorKey, streamNameKey, fingerprint } = t.gateway.context.secrets;
    const secrets = [masterKey, cursorKey, streamNameKey, fingerprint, ...(await verifiers())];
    expect(secrets.length).toBeGreaterThan(6);
    const everything = `${t.logged.join('')}\n${answers.join('\n')}\n${await recorded()}`;
    for (const secret of secrets) {
      for (const form of formsOf(secret)) expect(everything.includes(form)).toBe(false);
    }
  });

  it('cannot be had from the database alone: prefix and verifier open nothing (39)', async () => {
    const { rows } = await t.database.pool.query<{ lookup: string; verifier: Buffer }>(
      'select lookup, verifier from credentials',
    );
    for (const { lookup, verifier } of rows) {
      for (const guess of [
        lookup,
        `nmg_${verifier.toString('hex')}`,
        lookup + verifier.toString('hex').slice(0, 48),
      ]) {
        expect((await t.send('GET', '/domains', { key: guess })).status).toBe(401);
      }
    }
  });
});
