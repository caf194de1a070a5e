import { randomBytes, randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import { sweepWebhookSecrets } from '../../src/db/webhook-secrets.ts';
import { DomainError } from '../../src/domain/errors.ts';
import {
  type Reply,
  startTestGateway,
  type TestClock,
  type TestGateway,
  testClock,
} from '../support/gateway.ts';
import { holdAppends, recordsType } from '../support/hold.ts';
import { allSince, headOf, recording } from '../support/recorded.ts';
import {
  LOOPBACK,
  type Received,
  type Receiver,
  startReceiver,
} from '../support/webhook-receiver.ts';
import {
  caughtUp,
  eventually,
  issuesOf,
  look,
  subscribe,
  told,
  verifyThen,
} from '../support/webhooks.ts';

let t: TestGateway;
let clock: TestClock;
let receiver: Receiver;
beforeAll(async () => {
  clock = testClock();
  t = await startTestGateway({ clock, config: LOOPBACK, webhooks: { random: () => 0 } });
  receiver = await startReceiver();
});
afterAll(async () => {
  await t.close();
  await receiver.close();
});

const living: number[] = [];
afterEach(async () => {
  receiver.behave(() => ({}));
  for (const id of living.splice(0)) await t.send('DELETE', `/webhooks/${id}`);
});

const HOUR_MS = 3_600_000;
let places = 0;
const at = (url: string) => receiver.received.filter(({ path }) => url.endsWith(path));
const aSecret = (bytes = 32) => `whsec_${randomBytes(bytes).toString('base64')}`;
async function make(fields: object = {}, key?: string) {
  places += 1;
  const made = await subscribe(t, { url: `${receiver.url}/${places}`, ...fields }, key);
  living.push(made.id);
  return made as typeof made & { url: string };
}
const rotate = (id: number, body: object = {}, options: object = {}) =>
  recording(t, () => t.send('POST', `/webhooks/${id}/secret/rotate`, { body, ...options }));
/** Delivers one event, and gives it as it came. */
async function delivered(id: number, url: string): Promise<Received> {
  const before = at(url).length;
  await t.createDomain();
  await eventually(
    () => at(url).length,
    (n) => expect(n).toBe(before + 1),
  );
  await caughtUp(t, id);
  return at(url).at(-1)!;
}
const verifies = (secret: string, received: Received): boolean => {
  try {
    verifyThen(receiver, secret, received);
    return true;
  } catch {
    return false;
  }
};
const signaturesOf = ({ headers }: Received) => String(headers['webhook-signature']).split(' ');
const alone = (received: Received, index: number): Received => ({
  ...received,
  headers: { ...received.headers, 'webhook-signature': signaturesOf(received)[index] },
});

const BAD_SECRETS: readonly (readonly [string, unknown])[] = [
  ['no prefix', randomBytes(32).toString('base64')],
  ['another prefix', `whsk_${randomBytes(32).toString('base64')}`],
  ['the prefix in capitals', `WHSEC_${randomBytes(32).toString('base64')}`],
  ['nothing behind the prefix', 'whsec_'],
  ['23 bytes', aSecret(23)],
  ['65 bytes', aSecret(65)],
  ['no padding', `whsec_${Buffer.alloc(32, 7).toString('base64').replace('=', '')}`],
  ['too much padding', `${aSecret(32)}=`],
  ['the alphabet for URLs', `whsec_${Buffer.alloc(33, 0xfb).toString('base64url')}`],
  ['a line break', `whsec_\n${randomBytes(33).toString('base64')}`],
  ['a space behind', `${aSecret(33)} `],
  [
    'bits that are not zero',
    `whsec_${Buffer.alloc(31, 7).toString('base64').replace('Bw==', 'Bx==')}`,
  ],
  ['no text', 7],
  ['far too much', `whsec_${'a'.repeat(300)}`],
];

describe('a secret of one’s own', () => {
  it.each(BAD_SECRETS)('400: %s, at creation', async (_, secret) => {
    const { reply, facts } = await recording(t, () =>
      t.send('POST', '/webhooks', {
        body: { url: receiver.url, event_types: ['*'], enabled: false, secret },
      }),
    );
    expect([told(reply), issuesOf(reply)]).toEqual([[400, 'validation_failed'], ['secret']]);
    expect(facts).toEqual([]);
    if (typeof secret === 'string' && secret.length > 6) expect(reply.text).not.toContain(secret);
  });

  it.each(BAD_SECRETS)('400: %s, at a rotation', async (_, secret) => {
    const { id } = await make({ enabled: false });
    const { reply, facts } = await rotate(id, { secret });
    expect([told(reply), issuesOf(reply)]).toEqual([[400, 'validation_failed'], ['secret']]);
    expect(facts).toEqual([]);
    expect((await look(t, id)).secrets).toHaveLength(1);
  });

  it.each([24, 25, 26, 32, 63, 64])('201: %d bytes of it sign', async (bytes) => {
    const secret = aSecret(bytes);
    const made = await make({ secret });
    expect(made.secret).toBe(secret);
    const received = await delivered(made.id, made.url);
    expect(signaturesOf(received)).toHaveLength(1);
    expect(verifies(secret, received)).toBe(true);
    expect(verifies(aSecret(bytes), received)).toBe(false);
  });

  it('201: the same for two subscriptions, each by itself', async () => {
    const secret = aSecret();
    const [one, two] = [await make({ secret }), await make({ secret })];
    await t.send('DELETE', `/webhooks/${one.id}`);
    expect(verifies(secret, await delivered(two.id, two.url))).toBe(true);
  });
});

describe('what a delivery is signed with', () => {
  it('fits id, time and bytes alone', async () => {
    const { id, url, secret } = await make();
    const received = await delivered(id, url);
    expect(verifies(secret, received)).toBe(true);
    expect(received.headers['webhook-id']).toBe(received.payload.id);
    expect(received.headers['content-type']).toBe('application/json');
    const forged = (headers: object, body = received.body) =>
      verifies(secret, { ...received, body, headers: { ...received.headers, ...headers } });
    expect(forged({}, received.body.replace('"sequence":1', '"sequence":2'))).toBe(false);
    expect(forged({ 'webhook-id': randomUUID() })).toBe(false);
    const later = String(Number(received.headers['webhook-timestamp']) + 1);
    expect(forged({ 'webhook-timestamp': later })).toBe(false);
    expect(forged({ 'webhook-replay': '7' })).toBe(true);
  });
});

describe('POST /webhooks/{id}/secret/rotate', () => {
  it('201: the new one is told once, and the log knows both by their fingerprints alone', async () => {
    const { id, secret: old, secrets } = await make({ enabled: false });
    const before = clock.nowMs();
    const { reply, facts } = await rotate(id, { grace_seconds: 3_600 });
    expect([reply.status, reply.body.error, reply.body.message]).toEqual([201, null, 'Rotated']);
    const { data } = reply.body;
    expect(data.secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
    expect(data.secret).not.toBe(old);
    expect(data.secrets).toEqual([
      { fingerprint: expect.stringMatching(/^[0-9a-f]{8}$/), until: null },
      { fingerprint: secrets[0].fingerprint, until: expect.stringMatching(/Z$/) },
    ]);
    const graceMs = Date.parse(data.secrets[1].until) - before;
    expect(graceMs).toBeGreaterThanOrEqual(HOUR_MS - 1);
    expect(graceMs).toBeLessThan(HOUR_MS + 30_000);
    expect(reply.headers.get('etag')).toBe('"1"');
    expect(facts).toMatchObject([
      {
        type: 'webhook.secret_rotated',
        stream: `webhook-${id}`,
        actor: { type: 'api_key', id: '1' },
        data: { secrets: data.secrets },
      },
    ]);
    expect(await look(t, id)).toEqual({ ...data, secret: undefined });
  });

  it('signs with the new one first, and with the old one until its grace is over', async () => {
    const { id, url, secret: old } = await make();
    expect(verifies(old, await delivered(id, url))).toBe(true);
    const { secret } = (await rotate(id, { grace_seconds: 3_600 })).reply.body.data;
    const within = await delivered(id, url);
    expect(signaturesOf(within)).toHaveLength(2);
    expect(verifies(secret, alone(within, 0))).toBe(true);
    expect(verifies(old, alone(within, 1))).toBe(true);
    expect(verifies(old, alone(within, 0))).toBe(false);
    expect(verifies(old, within)).toBe(true);
    expect(verifies(secret, within)).toBe(true);
    const view = await look(t, id);
    const attempts = await look(t, id, `/deliveries/${within.id}/attempts`);
    expect(attempts[0].signed_by).toEqual(
      view.secrets.map(({ fingerprint }: { fingerprint: string }) => fingerprint),
    );
    clock.advance(HOUR_MS - 60_000);
    expect(verifies(old, await delivered(id, url))).toBe(true);
    clock.advance(60_000);
    const after = await delivered(id, url);
    expect(signaturesOf(after)).toHaveLength(1);
    expect([verifies(secret, after), verifies(old, after)]).toEqual([true, false]);
    expect((await look(t, id)).secrets).toEqual([{ fingerprint: expect.any(String), until: null }]);
  });

  it('without a grace the old one ends at once', async () => {
    const { id, url, secret: old } = await make();
    const { secret, secrets } = (await rotate(id, { grace_seconds: 0 })).reply.body.data;
    expect(secrets).toHaveLength(1);
    const after = await delivered(id, url);
    expect(signaturesOf(after)).toHaveLength(1);
    expect([verifies(secret, after), verifies(old, after)]).toEqual([true, false]);
  });

  it('has a grace of a day when nothing is said', async () => {
    const { id } = await make({ enabled: false });
    const before = clock.nowMs();
    const { reply } = await recording(t, () => t.send('POST', `/webhooks/${id}/secret/rotate`));
    const graceMs = Date.parse(reply.body.data.secrets[1].until) - before;
    expect(Math.round(graceMs / HOUR_MS)).toBe(24);
  });

  it('three signatures at most: the oldest goes first', async () => {
    const { id, url, secret: first } = await make();
    const all = [first];
    for (let n = 0; n < 3; n += 1) {
      all.push((await rotate(id, { grace_seconds: 3_600 })).reply.body.data.secret);
    }
    const received = await delivered(id, url);
    expect(signaturesOf(received)).toHaveLength(3);
    expect(all.map((secret) => verifies(secret, received))).toEqual([false, true, true, true]);
  });

  it('signs anew what is tried again, and pings', async () => {
    const { id, url, secret: old } = await make();
    receiver.behave(() => ({ status: 500 }));
    await t.createDomain();
    await eventually(
      () => look(t, id, '/deliveries'),
      (found) => expect(found).toHaveLength(1),
    );
    const { secret } = (await rotate(id, { grace_seconds: 0 })).reply.body.data;
    receiver.behave(() => ({}));
    clock.advance(5_000);
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(2),
    );
    const [first, second] = at(url);
    expect(second?.body).toBe(first?.body);
    expect([verifies(old, first!), verifies(secret, first!)]).toEqual([true, false]);
    expect([verifies(old, second!), verifies(secret, second!)]).toEqual([false, true]);
    await t.send('POST', `/webhooks/${id}/ping`);
    expect([verifies(old, at(url)[2]!), verifies(secret, at(url)[2]!)]).toEqual([false, true]);
  });

  it('holds after a restart', async () => {
    const { id, url, secret: old } = await make();
    const { secret } = (await rotate(id, { grace_seconds: 3_600 })).reply.body.data;
    t = await t.restart();
    await t.createDomain(`${randomUUID()}.example`);
    await caughtUp(t, id);
    const received = at(url).at(-1)!;
    expect([verifies(secret, alone(received, 0)), verifies(old, alone(received, 1))]).toEqual([
      true,
      true,
    ]);
  });

  it('201: to one that is given', async () => {
    const { id } = await make({ enabled: false });
    const secret = aSecret();
    expect((await rotate(id, { secret })).reply.body.data.secret).toBe(secret);
  });

  it('201: the same again for its Idempotency-Key, without the secret', async () => {
    const { id } = await make({ enabled: false });
    const options = { headers: { 'Idempotency-Key': randomUUID() } };
    const first = await rotate(id, { grace_seconds: 60 }, options);
    const again = await rotate(id, { grace_seconds: 60 }, options);
    const { secret, ...rest } = first.reply.body.data;
    expect(secret).toMatch(/^whsec_/);
    expect([again.reply.status, again.reply.body.data]).toEqual([201, rest]);
    expect(again.facts).toEqual([]);
  });

  it('400: to one that it has already', async () => {
    const { id, secret } = await make({ enabled: false });
    const { reply, facts } = await rotate(id, { secret });
    expect([told(reply), issuesOf(reply), facts]).toEqual([
      [400, 'validation_failed'],
      ['secret'],
      [],
    ]);
    expect(reply.text).not.toContain(secret);
  });

  it.each([
    ['a negative grace', { grace_seconds: -1 }, 'grace_seconds'],
    ['a grace of more than seven days', { grace_seconds: 604_801 }, 'grace_seconds'],
    ['half a second', { grace_seconds: 0.5 }, 'grace_seconds'],
    ['a grace as text', { grace_seconds: '60' }, 'grace_seconds'],
    ['an unknown member', { until: 'tomorrow' }, 'until'],
  ])('400: %s', async (_, body, path) => {
    const { id } = await make({ enabled: false });
    const { reply, facts } = await rotate(id, body);
    expect([told(reply), issuesOf(reply), facts]).toEqual([[400, 'validation_failed'], [path], []]);
  });

  it('403: a key that only reads, or acts on the quarantine alone', async () => {
    const { id } = await make({ enabled: false });
    for (const scope of ['read-only', 'quarantine-only']) {
      const { key } = await t.createKey({ scope });
      const { reply, facts } = await rotate(id, {}, { key });
      expect([told(reply), facts]).toEqual([[403, 'scope_forbidden'], []]);
    }
  });

  it('404: one that is not there, or not for this key', async () => {
    const own = await t.createDomain(`${randomUUID()}.example`);
    const { key } = await t.createKey({ scope: 'domain-admin', mail_domain: own.id });
    const { id } = await make({ enabled: false });
    for (const target of [id, 999_999]) {
      const { reply, facts } = await rotate(target, {}, { key });
      expect([told(reply), facts]).toEqual([[404, 'not_found'], []]);
    }
  });

  it('412: changed since; and the very secret is taken once that is mended', async () => {
    const { id, secret: old } = await make({ enabled: false });
    const secret = aSecret();
    const stale = await rotate(id, { secret }, { headers: { 'If-Match': '"7"' } });
    expect([told(stale.reply), stale.facts]).toEqual([[412, 'stale'], []]);
    expect(stale.reply.text).not.toContain(secret);
    const view = await look(t, id);
    expect(view.secrets).toHaveLength(1);
    expect(old).not.toBe(secret);
    const mended = await rotate(id, { secret }, { headers: { 'If-Match': '"0"' } });
    expect(told(mended.reply)).toEqual([201, null]);
  });
});

describe('a rotation that could not be recorded', () => {
  it('is taken when it is asked for again, with the very secret', async () => {
    const { id } = await make({ enabled: false });
    const { log } = t.gateway.context;
    const mutable = log as { append: typeof log.append };
    const { append } = log;
    const secret = aSecret();
    const options = { headers: { 'Idempotency-Key': randomUUID() } };
    mutable.append = () => Promise.reject(new DomainError('unavailable', 'The log is away.'));
    const failed = await rotate(id, { secret }, options);
    mutable.append = append;
    expect(told(failed.reply)).toEqual([503, 'unavailable']);
    const again = await rotate(id, { secret }, options);
    expect(told(again.reply)).toEqual([201, null]);
    expect(again.reply.body.data.secrets).toHaveLength(2);
  });
});

describe('a secret that signs before the read model has it', () => {
  it('202: is told, since no other answer ever will', async () => {
    const { id } = await make({ enabled: false });
    const letGo = await holdReadModel();
    const secret = aSecret();
    const { reply } = await rotate(id, { secret });
    await letGo();
    expect([reply.status, reply.body.data.secret]).toEqual([202, secret]);
    const secrets = async () => (await t.send('GET', `/webhooks/${id}`)).body.data.secrets;
    await expect.poll(secrets).toHaveLength(2);
  });

  it('202: is told with the webhook that it was made with, as that is in the end', async () => {
    const letGo = await holdReadModel();
    const secret = aSecret();
    const body = {
      ...{ url: `${receiver.url}/behind`, description: 'new', enabled: false, secret },
      ...{ event_types: ['mail_domain.created'], start: 'earliest' },
    };
    const { status, body: answer } = await t.send('POST', '/webhooks', { body });
    await letGo();
    const { secret: told, ...shown } = answer.data;
    expect([status, told]).toEqual([202, secret]);
    const path = `/webhooks/${shown.id}`;
    await expect.poll(async () => (await t.send('GET', path)).status).toBe(200);
    expect((await t.send('GET', path)).body.data).toEqual(shown);
    await t.send('DELETE', path);
  });

  /** From here on the read model stays where it is, until it is let go. */
  async function holdReadModel(): Promise<() => Promise<void>> {
    const admin = openClient({ url: t.database.url, role: null });
    await admin.connect();
    await admin.query('begin');
    await admin.query(`select from projection_checkpoints where name = 'webhooks' for update`);
    return () => admin.end();
  }
});

describe('secrets that sign no more', () => {
  it('are swept an hour after they were made, and no others', async () => {
    const one = await make({ enabled: false });
    await rotate(one.id, { grace_seconds: 60 });
    await rotate(one.id, { grace_seconds: 604_800 });
    const orphan = 'webhook:88888888';
    const { pool } = t.database;
    await pool.query(
      "insert into credentials (subject, kind, lookup, sealed) values ($1, 'webhook', 'ab', '\\x01')",
      [orphan],
    );
    const left = async () =>
      (
        await pool.query<{ n: number }>(
          'select count(*)::int as n from credentials where subject = any($1)',
          [[orphan, `webhook:${one.id}`]],
        )
      ).rows[0]?.n;
    const later = new Date(clock.nowMs() + 120_000);
    await sweepWebhookSecrets(pool, later);
    expect(await left()).toBe(4);
    await pool.query("update credentials set created_at = now() - interval '2 hours'");
    await sweepWebhookSecrets(pool, later);
    // The newest, and the one whose grace lasts.
    expect(await left()).toBe(2);
    const { data } = (await t.send('GET', `/webhooks/${one.id}`)).body;
    const { rows } = await pool.query('select lookup from credentials where subject = $1', [
      `webhook:${one.id}`,
    ]);
    const known = data.secrets.map(({ fingerprint }: { fingerprint: string }) => fingerprint);
    expect(known).toEqual(expect.arrayContaining(rows.map(({ lookup }) => lookup)));
  });

  it('are not swept while one of them is taken to sign again', async () => {
    const secret = aSecret();
    const { id } = await make({ enabled: false, secret });
    await rotate(id, { grace_seconds: 0 });
    const { pool } = t.database;
    await pool.query("update credentials set created_at = now() - interval '2 hours'");
    const held = holdAppends(t.gateway.context.log, recordsType('webhook.secret_rotated'));
    const back = rotate(id, { grace_seconds: 0, secret });
    await held.reached;
    await sweepWebhookSecrets(pool, clock.now());
    held.release();
    const { data } = (await back).reply.body;
    const { rows } = await pool.query('select lookup from credentials where subject = $1', [
      `webhook:${id}`,
    ]);
    expect(rows.map(({ lookup }) => lookup)).toContain(data.secrets[0].fingerprint);
  });
});

describe('a subscription whose secret is not here', () => {
  it('sends nothing that is not signed, and a ping says so', async () => {
    const [one, other] = [await make(), await make({ enabled: false })];
    // Another’s sealed secret opens for no one else.
    await t.database.pool.query('delete from credentials where subject = $1', [
      `webhook:${one.id}`,
    ]);
    await t.database.pool.query(
      'update credentials set subject = $1, lookup = $2 where subject = $3',
      [`webhook:${one.id}`, one['secrets'][0].fingerprint, `webhook:${other.id}`],
    );
    t = await t.restart();
    await t.createDomain(`${randomUUID()}.example`);
    await eventually(
      () => look(t, one.id),
      ({ status, disabled_cause }) =>
        expect([status, disabled_cause]).toEqual(['disabled', 'config']),
    );
    expect(at(one.url)).toEqual([]);
    const ping = await t.send('POST', `/webhooks/${one.id}/ping`);
    expect(told(ping)).toEqual([200, null]);
    expect(ping.body.data).toMatchObject({ delivered: false, outcome: 'blocked' });
    expect(at(one.url)).toEqual([]);
  });
});

describe('a secret, whatever is done', () => {
  const answers: { text: string; isTelling: boolean }[] = [];
  const secrets: string[] = [];
  let before: bigint;
  const keep = (reply: Reply, isTelling = false) => {
    const text = `${[...reply.headers].join('\n')}\n${reply.text}`;
    answers.push({ text, isTelling });
    if (isTelling) secrets.push(reply.body.data.secret);
    return reply;
  };

  beforeAll(async () => {
    before = await headOf(t);
    const own = aSecret();
    const body = { url: `${receiver.url}/leaks`, event_types: ['*'], secret: own };
    const headers = { 'Idempotency-Key': 'leaks' };
    const { id } = keep(await t.send('POST', '/webhooks', { body, headers }), true).body.data;
    const path = `/webhooks/${id}`;
    keep(await t.send('POST', '/webhooks', { body, headers }));
    keep(await t.send('POST', `${path}/secret/rotate`, { body: {}, headers }), true);
    keep(await t.send('POST', `${path}/secret/rotate`, { body: {}, headers }));
    keep(await t.send('POST', `${path}/secret/rotate`, { body: { secret: own } }));
    keep(await t.send('POST', `${path}/secret/rotate`, { body: { secret: aSecret() } }), true);
    keep(await t.send('POST', '/webhooks', { body: { ...body, url: 'http://10.0.0.1/' } }));
    keep(await t.send('POST', '/webhooks', { body: { ...body, secret: `${own}x` } }));
    keep(await t.send('POST', '/webhooks', { body: { ...body, colour: own } }));
    keep(await t.send('POST', '/webhooks', { body: `{"secret":"${own}` }));
    keep(await t.send('PATCH', path, { body: { secret: own } }));
    keep(await t.send('PATCH', path, { body: { description: 'x' }, headers: { 'If-Match': own } }));
    keep(await t.send('GET', `/webhooks?cursor=${encodeURIComponent(own)}`));
    keep(await t.send('GET', `${path}/deliveries/${encodeURIComponent(own)}/attempts`));
    receiver.behave((_, index) => (index % 2 === 0 ? { status: 500, body: 'x' } : {}));
    await t.createDomain(`${randomUUID()}.example`);
    keep(await t.send('POST', `${path}/ping`));
    for (const sub of ['', '/stats', '/deliveries', '/parked', '/replays']) {
      keep(await t.send('GET', path + sub));
    }
    keep(await t.send('GET', '/webhooks'));
    // A bug on the way, with the secret in what it throws.
    const { log } = t.gateway.context;
    const mutable = log as { append: typeof log.append };
    const { append } = log;
    mutable.append = () => Promise.reject(Object.assign(new Error('broken'), { secret: 'x' }));
    keep(await t.send('POST', '/webhooks', { body }));
    keep(await t.send('POST', `${path}/secret/rotate`, { body: { secret: aSecret() } }));
    mutable.append = append;
    keep(await t.send('GET', `/audit/logs?resource=webhook:${id}&limit=1000`));
    keep(await t.send('GET', '/audit/logs?form=evidence&limit=10000'));
    keep(await t.send('GET', '/audit/logs', { headers: { Accept: 'application/x-ndjson' } }));
    keep(await t.send('GET', '/audit/logs', { headers: { Accept: 'text/csv' } }));
    keep(await t.send('POST', `${path}/pause`));
    keep(await t.send('GET', '//metrics'));
    receiver.behave(() => ({}));
    keep(await t.send('DELETE', path));
  });

  /** In every way in which it might be printed. */
  const formsOf = (secret: string) => {
    const bytes = Buffer.from(secret.slice(6), 'base64');
    return [
      secret.slice(6),
      bytes.toString('hex'),
      bytes.toString('base64url'),
      encodeURIComponent(secret.slice(6)),
      JSON.stringify([...bytes]).slice(1, -1),
    ];
  };
  const holds = (text: string) =>
    secrets.some((secret) => formsOf(secret).some((form) => text.includes(form)));

  it('was told often enough for this to mean something', () => {
    expect(secrets).toHaveLength(3);
    expect(answers.filter(({ text, isTelling }) => isTelling && holds(text))).toHaveLength(3);
    expect(t.logged.join('')).toContain('a request failed on a bug');
  });

  it('stands in no answer but the one that told it', () => {
    const holding = answers.filter(({ text, isTelling }) => !isTelling && holds(text));
    expect(holding.map(({ text }) => text.slice(0, 300))).toEqual([]);
    for (const secret of secrets) {
      expect(answers.filter(({ text }) => text.includes(secret.slice(6)))).toHaveLength(1);
    }
  });

  it('stands in no log line', () => {
    expect(t.logged.filter(holds)).toEqual([]);
  });

  it('stands in no event, disclosed or not', async () => {
    const events = await allSince(t, before);
    expect(events.some(({ type }) => type === 'webhook.secret_rotated')).toBe(true);
    expect(events.map((event) => JSON.stringify(event)).filter(holds)).toEqual([]);
  });

  it('was posted nowhere', () => {
    expect(receiver.received.map((one) => JSON.stringify(one)).filter(holds)).toEqual([]);
  });

  it('stands in no table', async () => {
    const { rows: tables } = await t.database.pool.query<{ name: string }>(
      `select format('%I.%I', schemaname, tablename) as name from pg_tables
       where schemaname in ('public', 'eventlog')
         and has_table_privilege(format('%I.%I', schemaname, tablename), 'select')`,
    );
    expect(tables.map(({ name }) => name)).toContain('public.credentials');
    for (const { name } of tables) {
      const { rows } = await t.database.pool.query<{ t: string }>(`select t::text from ${name} t`);
      expect([name, rows.some((row) => holds(row.t))]).toEqual([name, false]);
    }
  });
});
