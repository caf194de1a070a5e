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
async function make(fields: object = {}): Promise<number> {
  const { reply } = await post({ ...SPAM, ...fields });
  expect([reply.status, reply.text]).toEqual([201, reply.text]);
  return reply.body.data.id;
}
const inDomain = (name = domain.name) => ({ scope: 'mail_domain', mail_domain: name });
const idsOf = async (query: string, as?: string): Promise<number[]> => {
  const reply = await t.send(
    'GET',
    `/sender-filters?${query}`,
    as === undefined ? {} : { key: as },
  );
  expect(reply.status).toBe(200);
  return reply.body.data.map(({ id }: { id: number }) => id);
};

describe('GET /sender-filters', () => {
  it('200: newest first, by cursor, and the link keeps the filters', async () => {
    const sender = '@paged.example';
    const made: number[] = [];
    for (let n = 0; n < 5; n += 1) made.unshift(await make({ sender, ...inDomain() }));
    const seen: number[] = [];
    let next = `/sender-filters?sender=PAGED.example&domain=${domain.name}&limit=2`;
    for (let page = 0; page < 3; page += 1) {
      const reply = await t.send('GET', next);
      seen.push(...reply.body.data.map(({ id }: { id: number }) => id));
      const link = /^<\/api\/v1(.*)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
      expect(reply.headers.get('x-has-more')).toBe(String(link !== undefined));
      next = link ?? next;
    }
    expect(seen).toEqual(made);
  });

  it('200: by kind, scope, mail domain and sender', async () => {
    const sender = 'Bob@chosen.example';
    const all = await make({ sender, kind: 'allow' });
    const own = await make({ sender, ...inDomain() });
    const one = await make({ sender, scope: 'recipient', recipient: `ann@${domain.name}` });
    const foreign = await make({ sender, ...inDomain(other.name) });
    const by = (query: string) => idsOf(`sender=bob@CHOSEN.example&${query}`);
    expect(await by('')).toEqual([foreign, one, own, all]);
    expect(await by('kind=allow')).toEqual([all]);
    expect(await by('kind=block')).toEqual([foreign, one, own]);
    expect(await by('scope=global')).toEqual([all]);
    expect(await by('scope=recipient')).toEqual([one]);
    expect(await by(`domain=${domain.id}`)).toEqual([one, own]);
    expect(await by(`domain=B%C3%BCcher.example&scope=mail_domain`)).toEqual([own]);
    expect(await idsOf('sender=@chosen.example')).toEqual([]);
  });

  it('200: a narrowed key sees those of its mail domain alone', async () => {
    const sender = '@narrow.example';
    const own = await make({ sender, ...inDomain() });
    const one = await make({ sender, scope: 'recipient', recipient: `ann@${domain.name}` });
    await make({ sender });
    await make({ sender, ...inDomain(other.name) });
    expect(await idsOf('sender=narrow.example', key)).toEqual([one, own]);
    expect(await idsOf(`sender=narrow.example&domain=${domain.id}`, key)).toEqual([one, own]);
  });

  it('422: of a mail domain that is unknown, or unknown to a narrowed key', async () => {
    const unknown = await t.send('GET', '/sender-filters?domain=nowhere.example');
    expect([unknown.status, unknown.body.error]).toEqual([422, 'unknown_mail_domain']);
    for (const given of [other.name, other.id]) {
      const reply = await t.send('GET', `/sender-filters?domain=${given}`, { key });
      expect(reply.text).toBe(unknown.text);
    }
  });

  it('403: a key for the quarantine alone', async () => {
    const caller = await t.createKey({ scope: 'quarantine-only' });
    expect((await t.send('GET', '/sender-filters', { key: caller.key })).status).toBe(403);
  });

  it.each([
    'kind=deny',
    'scope=all',
    'sender=nodots',
    'domain=',
    'cursor=x',
    'recipient=a@b.example',
  ])('400: %s', async (query) => {
    const reply = await t.send('GET', `/sender-filters?${query}`);
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(reply.body.data.issues[0].path).toBe(query.split('=')[0]);
  });
});

describe('GET /sender-filters/{id}', () => {
  it('200: with its revision as ETag', async () => {
    const id = await make(inDomain());
    const reply = await t.send('GET', `/sender-filters/${id}`, { key });
    expect(reply.body).toMatchObject({ error: null, message: 'OK', data: { id } });
    expect(reply.headers.get('etag')).toBe('"0"');
  });

  it('404: one that is not there, or not for this key', async () => {
    const nothing = await t.send('GET', '/sender-filters/999999');
    expect(nothing.body).toMatchObject({ data: null, error: 'not_found' });
    for (const id of [await make(), await make(inDomain(other.name))]) {
      const reply = await t.send('GET', `/sender-filters/${id}`, { key });
      expect([reply.status, reply.text]).toEqual([404, nothing.text]);
    }
  });
});

describe('DELETE /sender-filters/{id}', () => {
  const remove = (id: number, as?: string) =>
    recording(t, () =>
      t.send('DELETE', `/sender-filters/${id}`, as === undefined ? {} : { key: as }),
    );

  it('200: and it is gone', async () => {
    const id = await make(inDomain());
    const { reply, facts } = await remove(id, key);
    expect([reply.status, reply.body]).toEqual([
      200,
      { data: null, error: null, message: 'Deleted' },
    ]);
    expect(facts).toMatchObject([
      { type: 'sender_filter.deleted', mail_domains: [String(domain.id)], data: {} },
    ]);
    expect((await t.send('GET', `/sender-filters/${id}`)).status).toBe(404);
    expect(await idsOf('limit=1000')).not.toContain(id);
  });

  it('404: again, one that is not there, or not for this key', async () => {
    const gone = await make();
    await remove(gone);
    for (const [id, as] of [[gone], [999_999], [await make(), key]] as [number, string?][]) {
      const { reply, facts } = await remove(id, as);
      expect([reply.status, reply.body.error]).toEqual([404, 'not_found']);
      expect(facts).toEqual([]);
    }
  });

  it('403: a key that only reads', async () => {
    const caller = await t.createKey();
    const { reply, facts } = await remove(await make(), caller.key);
    expect(reply.status).toBe(403);
    expect(facts).toEqual([]);
  });
});
