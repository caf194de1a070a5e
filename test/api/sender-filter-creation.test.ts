import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { recording } from '../support/recorded.ts';

let t: TestGateway;
let domain: { id: number; name: string };
let other: { id: number; name: string };
let key: string;
beforeAll(async () => {
  t = await startTestGateway();
  domain = await t.createDomain('bücher.example');
  other = await t.createDomain('other.example');
  key = (await t.createKey({ scope: 'domain-admin', mail_domain: domain.id })).key;
});
afterAll(() => t.close());

const SPAM = { kind: 'block', scope: 'global', sender: '@spam.example' } as const;
const post = (body: object, as?: string) =>
  recording(t, () => t.send('POST', '/sender-filters', { body, ...(as && { key: as }) }));
const inDomain = (name = domain.name) => ({ scope: 'mail_domain', mail_domain: name });

describe('POST /sender-filters', () => {
  it('201: for everybody, with the sender outside the line', async () => {
    const { reply, facts } = await post(SPAM);
    expect(reply.status).toBe(201);
    const { id, created_at, ...rest } = reply.body.data;
    expect(rest).toEqual({
      ...SPAM,
      mail_domain: null,
      recipient: null,
      expires_at: null,
      made_by: null,
    });
    expect(reply.body.message).toBe('Created');
    expect(reply.headers.get('location')).toBe(`/api/v1/sender-filters/${id}`);
    expect(facts).toMatchObject([
      {
        type: 'sender_filter.created',
        stream: `sender_filter-${id}`,
        resource: { type: 'sender_filter', id: String(id) },
        mail_domains: [],
        recorded_at: created_at,
        data: { kind: 'block', scope: 'global', mail_domain: null, made_by: null },
        disclosed: { sender: '@spam.example', recipient: null },
      },
    ]);
    const { disclosed: _, ...line } = facts[0]!;
    expect(JSON.stringify(line)).not.toContain('spam.example');
    expect((await t.send('GET', `/sender-filters/${id}`)).body.data).toEqual(reply.body.data);
  });

  it('201: for one mail domain, by name or id', async () => {
    for (const mail_domain of ['BÜCHER.example.', 'xn--bcher-kva.example', domain.id]) {
      const { reply, facts } = await post({ ...SPAM, scope: 'mail_domain', mail_domain });
      expect(reply.body.data).toMatchObject({ scope: 'mail_domain', mail_domain: domain.name });
      expect(facts[0]).toMatchObject({
        mail_domains: [String(domain.id)],
        data: { mail_domain: String(domain.id) },
      });
    }
  });

  it('201: for one recipient, whose mail domain is its own', async () => {
    const recipient = 'Ann@BÜCHER.example';
    const { reply, facts } = await post({ ...SPAM, kind: 'allow', scope: 'recipient', recipient });
    expect(reply.body.data).toMatchObject({
      kind: 'allow',
      scope: 'recipient',
      recipient: 'Ann@xn--bcher-kva.example',
      mail_domain: domain.name,
    });
    expect(facts[0]?.disclosed['recipient']).toBe('Ann@xn--bcher-kva.example');
    const { disclosed: _, ...line } = facts[0]!;
    expect(JSON.stringify(line)).not.toContain('Ann@');
  });

  it('201: until a time, with members of other scopes null', async () => {
    const body = {
      ...SPAM,
      recipient: null,
      mail_domain: null,
      expires_at: '2099-05-01T02:00:00+02:00',
    };
    const { reply, facts } = await post(body);
    expect(reply.body.data.expires_at).toBe('2099-05-01T00:00:00.000000Z');
    expect(facts[0]?.data['expires_at']).toBe('2099-05-01T00:00:00.000000Z');
    const { id } = reply.body.data;
    expect((await t.send('GET', `/sender-filters/${id}`)).body.data).toEqual(reply.body.data);
  });

  it.each([
    ['Bob@Spam.Example', 'Bob@spam.example'],
    ['spam.example', '@spam.example'],
    ['@SPAM.example.', '@spam.example'],
    ['@bücher.example', '@xn--bcher-kva.example'],
    ['jürgen@bücher.example', 'jürgen@xn--bcher-kva.example'],
    ['a+b=c@spam.example', 'a+b=c@spam.example'],
    ['"a b"@spam.example', '"a b"@spam.example'],
  ])('201: the sender %s is %s', async (given, sender) => {
    expect((await post({ ...SPAM, sender: given })).reply.body.data?.sender).toBe(sender);
  });

  it('201: the same again under one Idempotency-Key is the same filter', async () => {
    const headers = { 'Idempotency-Key': 'filter-1' };
    const send = () => t.send('POST', '/sender-filters', { body: SPAM, headers });
    const first = await send();
    const { reply, facts } = await recording(t, send);
    expect(reply.body).toEqual(first.body);
    expect(facts).toEqual([]);
  });

  it('201: a narrowed key for its own mail domain and its recipients', async () => {
    const forDomain = await post({ ...SPAM, ...inDomain() }, key);
    const recipient = `ann@${domain.name}`;
    const forOne = await post({ ...SPAM, scope: 'recipient', recipient }, key);
    expect([forDomain.reply.status, forOne.reply.status]).toEqual([201, 201]);
  });

  it('403: a narrowed key for everybody', async () => {
    const narrowed = await t.createKey({ scope: 'full-admin', mail_domain: domain.id });
    for (const caller of [key, narrowed.key]) {
      const { reply, facts } = await post(SPAM, caller);
      expect([reply.status, reply.body.error]).toEqual([403, 'scope_forbidden']);
      expect(reply.headers.get('x-accepted-scopes')).toBe('full-admin');
      expect(facts).toEqual([]);
    }
  });

  it.each(['read-only', 'quarantine-only'])('403: %s', async (scope) => {
    const caller = await t.createKey({ scope });
    const { reply, facts } = await post(SPAM, caller.key);
    expect([reply.status, reply.body.error]).toEqual([403, 'scope_forbidden']);
    expect(facts).toEqual([]);
  });

  it('422: a mail domain that is unknown, or unknown to a narrowed key', async () => {
    const wishes = [
      inDomain('nowhere.example'),
      { scope: 'mail_domain', mail_domain: 999_999 },
      { scope: 'recipient', recipient: 'ann@nowhere.example' },
    ];
    for (const wish of wishes) {
      const { reply, facts } = await post({ ...SPAM, ...wish });
      expect([reply.status, reply.body.error]).toEqual([422, 'unknown_mail_domain']);
      expect(facts).toEqual([]);
    }
    const unknown = (await post({ ...SPAM, ...inDomain('nowhere.example') }, key)).reply.text;
    for (const wish of [
      inDomain(other.name),
      { scope: 'mail_domain', mail_domain: other.id },
      { scope: 'recipient', recipient: `ann@${other.name}` },
    ]) {
      expect((await post({ ...SPAM, ...wish }, key)).reply.text).toBe(unknown);
    }
  });

  it.each<[string, object]>([
    ['kind', { kind: 'deny' }],
    ['scope', { scope: 'everybody' }],
    ['sender', { sender: undefined }],
    ['sender', { sender: '' }],
    ['sender', { sender: '@' }],
    ['sender', { sender: 'nodots' }],
    ['sender', { sender: 'a@nodots' }],
    ['sender', { sender: 'a@@spam.example' }],
    ['sender', { sender: '@a@spam.example' }],
    ['sender', { sender: 'a b@spam.example' }],
    ['sender', { sender: 'a@ spam.example' }],
    ['sender', { sender: '<a@spam.example>' }],
    ['sender', { sender: 'a@[192.0.2.1]' }],
    ['sender', { sender: '*@spam_.example' }],
    ['sender', { sender: `${'a'.repeat(250)}@spam.example` }],
    ['sender', { sender: 'a\r\nb@spam.example' }],
    ['recipient', { scope: 'recipient' }],
    ['recipient', { scope: 'recipient', recipient: '@bücher.example' }],
    ['recipient', { scope: 'recipient', recipient: 'bücher.example' }],
    ['recipient', { recipient: 'ann@bücher.example' }],
    ['recipient', { ...inDomain('other.example'), recipient: 'ann@other.example' }],
    ['mail_domain', { scope: 'mail_domain' }],
    ['mail_domain', { mail_domain: 'other.example' }],
    [
      'mail_domain',
      { scope: 'recipient', recipient: 'a@other.example', mail_domain: 'other.example' },
    ],
    ['expires_at', { expires_at: '2020-01-01T00:00:00Z' }],
    ['expires_at', { expires_at: 'tomorrow' }],
    ['made_by', { made_by: null }],
    ['id', { id: 1 }],
  ])('400: %s in %j', async (path, fields) => {
    const { reply, facts } = await post({ ...SPAM, ...fields });
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(reply.body.data.issues.map((issue: { path: string }) => issue.path)).toContain(path);
    expect(facts).toEqual([]);
  });
});
