import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { AnyRoute } from '../../src/api/route.ts';
import { routes } from '../../src/api/routes.ts';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { handIn, held } from '../support/mail.ts';
import { allSince, flushWindows, headOf } from '../support/recorded.ts';
import { type StoppedClock, stoppedClock } from '../support/stopped-clock.ts';
import { LOOPBACK } from '../support/webhook-receiver.ts';

const SCOPES = ['read-only', 'quarantine-only', 'domain-admin', 'full-admin'] as const;
const REACHES = ['whole', 'own', 'foreign'] as const;
type Scope = (typeof SCOPES)[number];
type Reach = (typeof REACHES)[number];
/** `hidden`: a list that is answered, without what belongs to another mail domain. */
type Answer = number | 'hidden' | '-';
type Row = Readonly<Record<Scope, readonly [whole: Answer, own: Answer, foreign: Answer]>>;

// contract.md section 2, written out by route and independently of src: what a key of each scope is answered, not
// narrowed, narrowed to the mail domain of the object, and narrowed to another one. A domain-admin is always narrowed.
const no = [403, 403, 403] as const;
const rows = {
  all: (status: number): Row => ({
    'read-only': [status, status, 404],
    'quarantine-only': [status, status, 404],
    'domain-admin': ['-', status, 404],
    'full-admin': [status, status, 404],
  }),
  notQuarantine: (status: number): Row => ({ ...rows.all(status), 'quarantine-only': no }),
  /** Something that belongs to no mail domain, and is no secret. */
  ofNobody: {
    'read-only': [200, 200, 200],
    'quarantine-only': no,
    'domain-admin': ['-', 200, 200],
    'full-admin': [200, 200, 200],
  } as Row,
  /** Release and its kind: also for those who may do nothing else. */
  actors: (status: number): Row => ({ ...rows.all(status), 'read-only': no }),
  writers: (status: number): Row => ({
    ...rows.all(status),
    'read-only': no,
    'quarantine-only': no,
  }),
};
const TABLE: Readonly<Record<string, Row | 'public'>> = {
  listApiKeys: {
    'read-only': [200, 200, 'hidden'],
    'quarantine-only': [200, 200, 'hidden'],
    'domain-admin': ['-', 200, 'hidden'],
    'full-admin': [200, 200, 'hidden'],
  },
  createApiKey: {
    'read-only': no,
    'quarantine-only': no,
    'domain-admin': ['-', 201, 422],
    'full-admin': [201, 201, 422],
  },
  getApiKey: rows.all(200),
  updateApiKey: rows.writers(200),
  revokeApiKey: rows.writers(200),
  deleteApiKey: rows.writers(200),
  rotateApiKey: rows.writers(201),
  getApiKeyActivity: rows.all(200),
  listQuarantine: {
    'read-only': [200, 200, 'hidden'],
    'quarantine-only': [200, 200, 'hidden'],
    'domain-admin': ['-', 200, 'hidden'],
    'full-admin': [200, 200, 'hidden'],
  },
  quarantineMessage: {
    'read-only': no,
    'quarantine-only': no,
    'domain-admin': ['-', 201, 403],
    'full-admin': [201, 201, 403],
  },
  getQuarantinedMessage: rows.all(200),
  getQuarantinedBody: rows.all(200),
  getQuarantinedBodyInQueue: rows.all(200),
  previewQuarantinedMessage: rows.all(200),
  previewQuarantinedMessageInQueue: rows.all(200),
  getQuarantineHistory: rows.all(200),
  getQuarantineHistoryInQueue: rows.all(200),
  releaseMessage: rows.actors(202),
  releaseMessageInQueue: rows.actors(202),
  discardMessage: rows.actors(200),
  discardMessageInQueue: rows.actors(200),
  rejectMessage: rows.actors(202),
  rejectMessageInQueue: rows.actors(202),
  retrainMessage: rows.actors(200),
  retrainMessageInQueue: rows.actors(200),
  createQuarantineBulk: {
    'read-only': no,
    'quarantine-only': [202, 202, 202],
    'domain-admin': ['-', 202, 202],
    'full-admin': [202, 202, 202],
  },
  getQuarantineBulk: rows.all(200),
  // The job has ended by then, which is told to those who may know of it.
  cancelQuarantineBulk: rows.actors(409),
  listMailDomains: {
    'read-only': [200, 200, 'hidden'],
    'quarantine-only': no,
    'domain-admin': ['-', 200, 'hidden'],
    'full-admin': [200, 200, 'hidden'],
  },
  createMailDomain: {
    'read-only': no,
    'quarantine-only': no,
    'domain-admin': ['-', 403, 403],
    'full-admin': [201, 403, 403],
  },
  getMailDomain: rows.notQuarantine(200),
  replaceMailDomain: rows.writers(200),
  patchMailDomain: rows.writers(200),
  deleteMailDomain: rows.writers(200),
  listSenderFilters: {
    'read-only': [200, 200, 'hidden'],
    'quarantine-only': no,
    'domain-admin': ['-', 200, 'hidden'],
    'full-admin': [200, 200, 'hidden'],
  },
  createSenderFilter: {
    'read-only': no,
    'quarantine-only': no,
    'domain-admin': ['-', 201, 422],
    'full-admin': [201, 201, 422],
  },
  getSenderFilter: rows.notQuarantine(200),
  deleteSenderFilter: rows.writers(200),
  listWebhooks: {
    'read-only': [200, 200, 'hidden'],
    'quarantine-only': no,
    'domain-admin': ['-', 200, 'hidden'],
    'full-admin': [200, 200, 'hidden'],
  },
  createWebhook: {
    'read-only': no,
    'quarantine-only': no,
    'domain-admin': ['-', 201, 422],
    'full-admin': [201, 201, 422],
  },
  getWebhook: rows.notQuarantine(200),
  updateWebhook: rows.writers(200),
  deleteWebhook: rows.writers(200),
  pauseWebhook: rows.writers(200),
  resumeWebhook: rows.writers(200),
  enableWebhook: rows.writers(200),
  rotateWebhookSecret: rows.writers(201),
  pingWebhook: rows.writers(200),
  getWebhookStats: rows.notQuarantine(200),
  listWebhookDeliveries: rows.notQuarantine(200),
  listWebhookAttempts: rows.notQuarantine(200),
  resendWebhookEvent: rows.writers(202),
  listParkedWebhookEvents: rows.notQuarantine(200),
  listWebhookEvents: rows.notQuarantine(200),
  createWebhookReplay: rows.writers(202),
  listWebhookReplays: rows.notQuarantine(200),
  getWebhookReplay: rows.notQuarantine(200),
  cancelWebhookReplay: rows.writers(200),
  listWebhookEventTypes: rows.ofNobody,
  getWebhookEventTypeSchema: rows.ofNobody,
  listAuditLogs: {
    'read-only': [200, 200, 'hidden'],
    'quarantine-only': no,
    'domain-admin': ['-', 200, 'hidden'],
    'full-admin': [200, 200, 'hidden'],
  },
  getAuditLog: rows.notQuarantine(200),
  livez: 'public',
  readyz: 'public',
  metrics: 'public',
  openapiYaml: 'public',
  openapiJson: 'public',
  docs: 'public',
  docsFile: 'public',
};

let t: TestGateway;
let clock: StoppedClock;
let foreign: { id: number; name: string };
beforeAll(async () => {
  clock = stoppedClock();
  t = await startTestGateway({ clock, config: { smtpRelay: NOBODY, ...LOOPBACK } });
  foreign = await t.createDomain();
});
afterAll(() => t.close());
// Refusals are summarised above a number a minute, so each test has a minute of its own.
beforeEach(() => clock.advance(60_000));

/** Where nothing listens: what is sent there is put off at once. */
const NOBODY = '127.0.0.1:9';
const FILTER = { kind: 'block', scope: 'mail_domain', sender: '@spam.example' };

/** A mail domain with a key and a sender filter in it, and where its first event stands. */
async function makeTarget(route?: AnyRoute) {
  const before = await headOf(t);
  const domain = await t.createDomain(undefined, { backend_servers: [NOBODY] });
  const events = await allSince(t, before);
  const position = events.find(({ type }) => type === 'mail_domain.created')?.position ?? '';
  const key = await t.createKey({ mail_domain: domain.name });
  const body = { ...FILTER, mail_domain: domain.name };
  const filter = (await t.send('POST', '/sender-filters', { body })).body.data as { id: number };
  const isOfMessage = /\{(queue_id|job_id)\}|messages\/\{id\}/.test(route?.path ?? '');
  const message = isOfMessage ? await held(t, { to: `you@${domain.name}` }) : NO_MESSAGE;
  const job = route?.path.includes('{job_id}') ? await endedJob(domain.name) : NO_MESSAGE.id;
  const isOfWebhook = route?.path.startsWith('/webhooks') === true;
  const hook = isOfWebhook ? await webhookOf(domain.name, route) : NO_WEBHOOK;
  const eventId = events.find(({ type }) => type === 'mail_domain.created')?.event_id ?? '';
  return { domain, position, key, filter, message, job, hook, eventId };
}

const NO_WEBHOOK = { id: 999_999, replay: 999_999 };
const WEBHOOK = { url: `http://${NOBODY}/`, event_types: ['*'], start: 'earliest' };

/** A subscription to all that happened to a mail domain, with a replay; held, but where that matters. */
async function webhookOf(mailDomain: string, route: AnyRoute) {
  const enabled = route.id === 'enableWebhook';
  const body = { ...WEBHOOK, mail_domain: mailDomain, enabled };
  const { id } = (await t.send('POST', '/webhooks', { body })).body.data;
  const replay = { from: 'earliest', reason: 'they ask' };
  const made = await t.send('POST', `/webhooks/${id}/replays`, { body: replay });
  return { id, replay: made.body.data.id };
}

const NO_MESSAGE = {
  id: '00000000-0000-7000-8000-000000000000',
  node_id: 'node-1',
  queue_id: 'ABC1',
};

/** A job of a key that is narrowed to the mail domain. */
async function endedJob(mailDomain: string): Promise<string> {
  const { key } = await t.createKey({ scope: 'full-admin', mail_domain: mailDomain });
  const body = { action: 'discard', filter: { q: 'nothing' }, dry_run: true };
  const { job_id: id } = (await t.send('POST', '/mail/quarantine/bulk', { body, key })).body.data;
  const state = async () => (await t.send('GET', `/mail/quarantine/bulk/${id}`)).body.data.state;
  await expect.poll(state, { interval: 5, timeout: 5_000 }).toBe('completed');
  return id;
}
type Target = Awaited<ReturnType<typeof makeTarget>>;

function requestFor(route: AnyRoute, target: Target) {
  const { domain, position, key, filter, message, job, hook } = target;
  const ids: Record<string, number> = {
    domains: domain.id,
    'sender-filters': filter.id,
    webhooks: hook.id,
  };
  const id = ids[route.path.split('/')[1] ?? ''] ?? key.id;
  const path = `${route.atRoot ? '/' : ''}${route.path}`
    .replace('messages/{id}', `messages/${message.id}`)
    .replace('{node_id}', message.node_id)
    .replace('{queue_id}', message.queue_id)
    .replace('{job_id}', job)
    .replace('{id}', String(id))
    .replace('{replay_id}', String(hook.replay))
    .replace('{event_id}', target.eventId)
    .replace('{type}', 'quarantine.added')
    .replace('{position}', position);
  const bodies: Record<string, object> = {
    retrainMessage: { class: 'spam' },
    retrainMessageInQueue: { class: 'spam' },
    createQuarantineBulk: { action: 'discard', filter: { q: 'nothing' } },
    createApiKey: {
      name: 'x',
      scope: 'read-only',
      mail_domain: domain.name,
      rate_limit_per_minute: 1,
    },
    createMailDomain: { name: `new${key.id}.example` },
    createSenderFilter: { ...FILTER, mail_domain: domain.name },
    createWebhook: { ...WEBHOOK, mail_domain: domain.name },
    updateWebhook: { description: 'changed' },
    createWebhookReplay: { from: 'earliest', reason: 'they ask' },
    updateApiKey: { name: 'renamed' },
    replaceMailDomain: { quarantine_threshold: 1 },
    patchMailDomain: { quarantine_threshold: 2 },
  };
  const body = bodies[route.id];
  return { method: route.method.toUpperCase(), path, ...(body === undefined ? {} : { body }) };
}

const ask = (route: AnyRoute, target: Target, key: string | null): Promise<Reply> => {
  if (route.id === 'quarantineMessage') {
    return handIn(t, { key, to: `you@${target.domain.name}` });
  }
  const { method, path, ...rest } = requestFor(route, target);
  return t.send(method, path, { ...rest, key });
};

/** Whether a list shows something of the target's mail domain. */
function shows(route: AnyRoute, reply: Reply, { domain, key }: Target): boolean {
  if (route.id === 'listApiKeys')
    return reply.body.data.some((k: { id: number }) => k.id === key.id);
  if (route.id === 'listMailDomains') {
    return reply.body.data.some((d: { id: number }) => d.id === domain.id);
  }
  return reply.text.includes(domain.name);
}

const LISTS = [
  'listQuarantine',
  'listApiKeys',
  'listMailDomains',
  'listSenderFilters',
  'listWebhooks',
  'listAuditLogs',
];
const byId = (id: string) => routes.find((route) => route.id === id)!;

describe('every route of the table stands in the table of this test', () => {
  it('and the other way round (8.2.1)', () => {
    expect(routes.map(({ id }) => id).toSorted()).toEqual(Object.keys(TABLE).toSorted());
  });
});

const cells = Object.entries(TABLE).flatMap(([id, row]) =>
  row === 'public'
    ? []
    : SCOPES.flatMap((scope) =>
        REACHES.map((reach, column) => [id, scope, reach, row[scope][column]!] as const),
      ),
);

describe('what a key may (8.2.1, 8.2.2, 8.4.1)', () => {
  it.each(cells.filter(([, , , answer]) => answer !== '-'))(
    '%s, %s, %s: %s',
    async (id, scope, reach, answer) => {
      const route = byId(id);
      const target = await targetFor(route, answer);
      if (id === 'listQuarantine') await held(t, { to: `you@${target.domain.name}` });
      const narrowing: Record<Reach, string | null> = {
        whole: null,
        own: target.domain.name,
        foreign: foreign.name,
      };
      const caller = await t.createKey({ scope, mail_domain: narrowing[reach] });
      const reply = await ask(route, target, caller.key);
      expect(reply.status).toBe(answer === 'hidden' ? 200 : answer);
      if (LISTS.includes(id) && reply.status === 200) {
        const from = BigInt(target.position) - 1n;
        const query = id === 'listAuditLogs' ? `?limit=1000&after=${from}` : '';
        const path = `${requestFor(route, target).path}${query}`;
        const list = await t.send('GET', path, { key: caller.key });
        expect(shows(route, list, target)).toBe(answer !== 'hidden');
      }
      if (reply.status === 403) await expectForbidden(reply, route, caller.id);
      if (reply.status === 404)
        expect(reply.text).toBe((await askForNothing(route, caller.key)).text);
      if (reply.status >= 400) await expectUntouched(target);
    },
  );
});

const targets = new Map<string, Target>();

/** Neither a read nor what is refused changes anything, so that those of one route can share what they are about. */
async function targetFor(route: AnyRoute, answer: Answer): Promise<Target> {
  const isShared = route.method === 'get' || (typeof answer === 'number' && answer >= 400);
  if (!isShared) return makeTarget(route);
  const target = targets.get(route.id) ?? (await makeTarget(route));
  targets.set(route.id, target);
  return target;
}

/** The scopes that this route has an answer for, of whoever may be meant. */
const acceptedBy = (id: string): string[] => {
  const row = TABLE[id] as Row;
  const accepted: readonly Answer[] = [200, 201, 202, 409];
  return SCOPES.filter((scope) => row[scope].some((answer) => accepted.includes(answer)));
};

async function expectForbidden(reply: Reply, route: AnyRoute, caller: number): Promise<void> {
  expect(reply.body).toMatchObject({ data: null, error: 'scope_forbidden' });
  expect(reply.headers.get('x-accepted-scopes')?.split(', ').toSorted()).toEqual(
    acceptedBy(route.id).toSorted(),
  );
  const windows = t.gateway.context.activity.openWindows(caller);
  expect(windows).toContainEqual(
    expect.objectContaining({ type: 'denied', reason: 'scope_forbidden', count: 1 }),
  );
}

/** The same request for something that never was. */
function askForNothing(route: AnyRoute, key: string): Promise<Reply> {
  const nothing = {
    domain: { id: 999_999, name: 'x' },
    key: { id: 999_999, key: '' },
    filter: { id: 999_999 },
    message: NO_MESSAGE,
    job: NO_MESSAGE.id,
    hook: NO_WEBHOOK,
    eventId: NO_MESSAGE.id,
  };
  return ask(route, { ...nothing, position: '999999999' }, key);
}

async function expectUntouched({ domain, key, filter }: Target): Promise<void> {
  expect((await t.send('GET', `/sender-filters/${filter.id}`)).status).toBe(200);
  expect((await t.send('GET', `/domains/${domain.id}`)).headers.get('etag')).toBe('"0"');
  expect((await t.send('GET', `/auth/api-keys/${key.id}`)).headers.get('etag')).toMatch(/^"0-/);
}

describe('401 (6.3.8, 14.2.1)', () => {
  const guarded = Object.entries(TABLE).filter(([, row]) => row !== 'public');

  it.each(guarded)('%s: one answer for every reason', async (id) => {
    const route = byId(id);
    const target = await makeTarget();
    const make = () => t.createKey({ scope: 'full-admin' });
    const [revoked, deleted, rotated, expired, good] = await Promise.all([
      make(),
      make(),
      make(),
      t.createKey({
        scope: 'full-admin',
        expires_at: new Date(clock.nowMs() + 1_000).toISOString(),
      }),
      make(),
    ]);
    await t.send('POST', `/auth/api-keys/${revoked.id}/revoke`);
    await t.send('DELETE', `/auth/api-keys/${deleted.id}`);
    await t.send('POST', `/auth/api-keys/${rotated.id}/rotate`);
    clock.advance(1_000);
    const callers: Record<string, string | null> = {
      missing: null,
      empty: '',
      malformed: 'nmg_short',
      'in capitals': good.key.toUpperCase(),
      'with more behind': `${good.key}0`,
      'with another prefix': good.key.replace('nmg_', 'nmx_'),
      unknown: `nmg_${'0123456789abcdef'.repeat(4)}`,
      'a right prefix': good.key.slice(0, 20) + '0'.repeat(48),
      'all but the last digit': good.key.slice(0, -1) + (good.key.endsWith('0') ? '1' : '0'),
      'two keys': `${good.key}, ${good.key}`,
      revoked: revoked.key,
      deleted: deleted.key,
      rotated: rotated.key,
      expired: expired.key,
    };
    const texts = new Set<string>();
    for (const [reason, key] of Object.entries(callers)) {
      const reply = await ask(route, target, key);
      expect([reason, reply.status]).toEqual([reason, 401]);
      expect(reply.headers.get('www-authenticate')).toBe('ApiKey realm="mailguard"');
      expect(reply.headers.get('ratelimit')).toBeNull();
      expect(reply.headers.get('x-accepted-scopes')).toBeNull();
      texts.add(reply.text);
    }
    expect([...texts]).toHaveLength(1);
    await expectUntouched(target);
  });

  it('takes a key from no other place', async () => {
    const places: [string, Record<string, string>][] = [
      ['/domains', { Authorization: `Bearer ${t.bootstrapKey}` }],
      ['/domains', { Cookie: `X-API-Key=${t.bootstrapKey}` }],
      [
        '/domains',
        { Authorization: `Basic ${Buffer.from(`x:${t.bootstrapKey}`).toString('base64')}` },
      ],
    ];
    for (const [path, headers] of places) {
      expect((await t.send('GET', path, { key: null, headers })).status).toBe(401);
    }
  });

  it('leaves an event per reason, with where it came from (16.3.1)', async () => {
    await t.gateway.context.activity.flush(true);
    const before = await headOf(t);
    const { id, key } = await t.createKey();
    await t.send('POST', `/auth/api-keys/${id}/revoke`);
    for (const given of [null, 'x', `nmg_${'a'.repeat(64)}`, key, key]) {
      await t.send('GET', '/domains', { key: given });
    }
    const denied = (await flushWindows(t, before)).filter(({ type }) => type === 'api_key.denied');
    const found = denied.map(({ data, actor, resource, outcome, disclosed }) => [
      data['reason'],
      data['count'],
      `${actor.type}:${actor.id}`,
      `${resource.type}:${resource.id}`,
      outcome,
      disclosed['addresses'],
    ]);
    const nobody = ['anonymous:anonymous', 'api_key:unknown', 'denied', ['127.0.0.1']];
    expect(found.toSorted()).toEqual([
      ['malformed', 1, ...nobody],
      ['missing', 1, ...nobody],
      ['revoked', 2, `api_key:${id}`, `api_key:${id}`, 'denied', ['127.0.0.1']],
      ['unknown', 1, ...nobody],
    ]);
  });

  it('summarises a flood and drops nothing', async () => {
    await t.gateway.context.activity.flush(true);
    const before = await headOf(t);
    clock.advance(60_000);
    const { activity } = t.gateway.context;
    for (let n = 0; n < 500; n += 1) {
      activity.denied('unknown', null, `10.0.${n >> 8}.${n & 255}`);
    }
    const denied = (await flushWindows(t, before)).filter(({ type }) => type === 'api_key.denied');
    expect(denied.length).toBeLessThanOrEqual(100);
    expect(denied.reduce((sum, { data }) => sum + Number(data['count']), 0)).toBe(500);
  });
});

describe('evidence', () => {
  const forms = ['/audit/logs?form=evidence', '/audit/logs/1?form=evidence'];

  it.each(forms)('%s: for unnarrowed full-admin and read-only alone', async (path) => {
    const domain = await t.createDomain();
    const statusFor = async (scope: Scope, mail_domain: string | null) => {
      const { id, key } = await t.createKey({ scope, mail_domain });
      const reply = await t.send('GET', path, { key });
      if (reply.status === 403) {
        expect(reply.headers.get('x-accepted-scopes')).toBe('read-only, full-admin');
        expect(t.gateway.context.activity.openWindows(id)).toContainEqual(
          expect.objectContaining({ type: 'denied', reason: 'scope_forbidden' }),
        );
      }
      return reply.status;
    };
    expect(await statusFor('full-admin', null)).toBe(200);
    expect(await statusFor('read-only', null)).toBe(200);
    expect(await statusFor('full-admin', domain.name)).toBe(403);
    expect(await statusFor('read-only', domain.name)).toBe(403);
    expect(await statusFor('domain-admin', domain.name)).toBe(403);
  });
});

describe('a change of authority bites at once (8.3.2)', () => {
  it('with the mail domain gone its keys are', async () => {
    const domain = await t.createDomain();
    const { key } = await t.createKey({ scope: 'domain-admin', mail_domain: domain.name });
    expect((await t.send('GET', '/domains', { key })).status).toBe(200);
    await t.send('DELETE', `/domains/${domain.id}`);
    expect((await t.send('GET', '/domains', { key })).status).toBe(401);
  });

  it('with the expiry moved to now', async () => {
    const { id, key } = await t.createKey();
    const soon = new Date(clock.nowMs() + 1).toISOString();
    await t.send('PATCH', `/auth/api-keys/${id}`, { body: { expires_at: soon } });
    expect((await t.send('GET', '/domains', { key })).status).toBe(200);
    clock.advance(1);
    expect((await t.send('GET', '/domains', { key })).status).toBe(401);
  });
});
