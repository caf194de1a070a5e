import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { actOn, aMail, handIn, held } from '../support/mail.ts';
import { headOf } from '../support/recorded.ts';

let t: TestGateway;
let narrowed: string;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const BASE_MS = Date.now() - 10 * DAY_MS;
const at = (hours: number): string => new Date(BASE_MS + hours * HOUR_MS).toISOString();

type Given = Readonly<{ from?: string; to: string | string[]; at: number; headers?: object }>;
const [com, org] = ['a@example.com', 'b@example.org'];
/** By their subjects, the oldest first. */
const MAIL: Readonly<Record<string, Given>> = {
  'Alpha invoice': { to: com, at: 1, headers: { 'X-Spam-Score': '3' } },
  'Beta 100%_sure': {
    to: org,
    at: 2,
    headers: { 'X-Spam-Score': '10', 'X-Spam-Symbols': 'A_RULE, B_RULE' },
  },
  Gamma: {
    from: 'mallory@other.example',
    to: [com, org],
    at: 3,
    headers: {
      'X-Spam-Score': '20',
      'X-Spam-Symbols': 'B_RULE',
      'X-Quarantine-Reason': 'phishing',
    },
  },
  Delta: { from: '', to: 'c@nobody.example', at: 4, headers: { 'X-Spam-Score': '' } },
  Epsilon: {
    from: 'EVE@Sender.Example',
    to: org,
    at: 5,
    headers: { 'X-Spam-Score': '30', 'X-Quarantine-Reason': 'virus' },
  },
  Zeta: {
    from: 'eve@sub.sender.example',
    to: com,
    at: 6,
    headers: { 'X-Spam-Score': '-2.5', 'X-Quarantine-Reason': 'rbl' },
  },
};

beforeAll(async () => {
  t = await startTestGateway();
  await t.createDomain('example.com', { quarantine_retention_days: 20 });
  await t.createDomain('example.org', { quarantine_retention_days: 60 });
  for (const [subject, { at: hours, headers, ...given }] of Object.entries(MAIL)) {
    const { id } = await held(t, {
      ...given,
      raw: aMail(subject),
      headers: { 'X-Arrived-At': at(hours), ...headers },
    });
    if (subject === 'Epsilon') await actOn(t, id, 'discard');
  }
  narrowed = (await t.createKey({ mail_domain: 'example.org' })).key;
});
afterAll(() => t.close());

const list = (query: string, key?: string): Promise<Reply> =>
  t.send('GET', `/mail/quarantine?${query}`, key === undefined ? {} : { key });
const subjectsOf = ({ body }: Reply): string[] =>
  body.data.map(({ subject }: { subject: string }) => subject.split(' ')[0]);

const OPEN = 'Zeta Delta Gamma Beta Alpha';
const ALL = 'Zeta Epsilon Delta Gamma Beta Alpha';
const TABLE: readonly (readonly [query: string, subjects: string])[] = [
  ['', OPEN],
  ['domain=example.com', 'Zeta Gamma Alpha'],
  ['domain=EXAMPLE.com.', 'Zeta Gamma Alpha'],
  ['domain=1', 'Zeta Gamma Alpha'],
  ['sender=eve@sender.example', 'Beta Alpha'],
  ['sender=EVE@SENDER.EXAMPLE', 'Beta Alpha'],
  ['sender=sender.example', 'Beta Alpha'],
  ['sender=@sender.example', 'Beta Alpha'],
  ['sender=sub.sender.example', 'Zeta'],
  ['sender=nobody', ''],
  ['recipient=b@example.org', 'Gamma Beta'],
  ['recipient=B@EXAMPLE.ORG', 'Gamma Beta'],
  ['recipient=c@nobody.example', 'Delta'],
  ['recipient=example.org', ''],
  ['symbol=B_RULE', 'Gamma Beta'],
  ['symbol=b_rule', ''],
  ['reason=phishing', 'Gamma'],
  ['reason=spam', 'Beta Alpha'],
  ['reason=unscanned', 'Delta'],
  ['reason=spam,phishing', 'Gamma Beta Alpha'],
  ['state=held', OPEN],
  ['state=any', ALL],
  ['state=discarded', 'Epsilon'],
  ['state=held,discarded', ALL],
  ['state=discarded,expired', 'Epsilon'],
  ['state=released', ''],
  ['node_id=node-1', OPEN],
  ['node_id=node-2', ''],
  [`since=${at(4)}`, 'Zeta Delta'],
  [`until=${at(4)}`, 'Gamma Beta Alpha'],
  [`since=${at(2)}&until=${at(4)}`, 'Gamma Beta'],
  [`since=${at(4)}&until=${at(4)}`, ''],
  ['min_score=10', 'Gamma Beta'],
  ['max_score=10', 'Zeta Beta Alpha'],
  ['max_score=-2.5', 'Zeta'],
  ['min_score=2.9&max_score=10.0', 'Beta Alpha'],
  ['subject=INVOICE', 'Alpha'],
  ['subject=%25', 'Beta'],
  ['subject=_', 'Beta'],
  ['subject=%5C', ''],
  ['q=mallory@other', 'Gamma'],
  ['q=zeta', 'Zeta'],
  ['q=%3CAlphainvoice@', 'Alpha'],
  [`expires_before=${new Date(BASE_MS + 21 * DAY_MS).toISOString()}`, 'Zeta Alpha'],
  [`expires_before=${new Date(BASE_MS + 31 * DAY_MS).toISOString()}`, 'Zeta Delta Alpha'],
  ['domain=example.com&symbol=B_RULE', 'Gamma'],
  ['sender=sender.example&state=any&min_score=10', 'Epsilon Beta'],
  ['sender=eve@sender.example&state=discarded&reason=virus&domain=example.org', 'Epsilon'],
  ['recipient=a@example.com&reason=rbl,policy&subject=zeta&node_id=node-1', 'Zeta'],
  ['state=held,release_failed&reason=spam,phishing&min_score=5&q=sender.example', 'Gamma Beta'],
];

describe('GET /mail/quarantine', () => {
  it.each(TABLE)('?%s finds %s', async (query, subjects) => {
    const reply = await list(query);
    expect([reply.status, subjectsOf(reply).join(' ')]).toEqual([200, subjects]);
    expect(reply.headers.get('x-has-more')).toBe('false');
    expect(reply.headers.get('link')).toBeNull();
  });

  it('shows each message as it is shown alone', async () => {
    for (const item of (await list('state=any')).body.data) {
      const alone = await t.send('GET', `/mail/quarantine/messages/${item.id}`);
      expect(alone.body.data).toEqual(item);
    }
  });

  it('HEAD: the head of GET, and nothing recorded', async () => {
    const get = await list('limit=2');
    const before = await headOf(t);
    const head = await t.send('HEAD', '/mail/quarantine?limit=2');
    expect([head.status, head.text]).toEqual([200, '']);
    for (const name of ['x-has-more', 'x-next-cursor', 'link', 'content-type']) {
      expect(head.headers.get(name)).toBe(get.headers.get(name));
    }
    expect(await headOf(t)).toBe(before);
  });
});

describe('a narrowed key', () => {
  const OWN = ['Epsilon', 'Gamma', 'Beta'];
  const isRefused = (query: string) => /domain=(?!example\.org)/.test(query);
  // Gamma went to a@example.com, too: who is told that it did would know.
  const isForeign = (query: string) => query.includes('recipient=a@example.com');

  it.each(TABLE.filter(([query]) => !isRefused(query)))(
    '?%s finds of its own mail domain alone',
    async (query, subjects) => {
      const reply = await list(query, narrowed);
      const own = subjects.split(' ').filter((subject) => OWN.includes(subject));
      expect([reply.status, subjectsOf(reply)]).toEqual([200, isForeign(query) ? [] : own]);
      for (const secret of ['example.com', 'nobody.example']) {
        expect(reply.text).not.toContain(secret);
      }
    },
  );

  it('finds nothing by a recipient who is not its own, also of a shared message', async () => {
    expect(subjectsOf(await list('recipient=a@example.com'))).toContain('Gamma');
    expect(subjectsOf(await list('recipient=a@example.com', narrowed))).toEqual([]);
    const [shared] = (await list('recipient=b@example.org', narrowed)).body.data;
    expect(shared).toMatchObject({
      subject: 'Gamma',
      recipients: ['b@example.org'],
      recipients_hidden: 1,
      mail_domains: ['example.org'],
    });
  });

  it.each(TABLE.filter(([query]) => isRefused(query)))(
    '422 unknown_mail_domain: ?%s, as one that is not there',
    async (query) => {
      const reply = await list(query, narrowed);
      expect([reply.status, reply.body.error]).toEqual([422, 'unknown_mail_domain']);
      const nothing = await list('domain=never.example', narrowed);
      expect(reply.text).toBe(nothing.text);
    },
  );

  it('is not told by pages how much it does not see', async () => {
    const first = await list('limit=1', narrowed);
    expect([subjectsOf(first), first.headers.get('x-has-more')]).toEqual([['Gamma'], 'true']);
    const second = await list(`limit=1&cursor=${first.headers.get('x-next-cursor')}`, narrowed);
    expect([subjectsOf(second), second.headers.get('x-has-more')]).toEqual([['Beta'], 'false']);
    expect(subjectsOf(await list('offset=1', narrowed))).toEqual(['Beta']);
  });
});

describe('422 unknown_mail_domain', () => {
  it.each(['never.example', 'no%20name', 'xn--'])('domain=%s', async (domain) => {
    const reply = await list(`domain=${domain}`);
    expect([reply.status, reply.body.error]).toEqual([422, 'unknown_mail_domain']);
  });
});

describe('400', () => {
  const DATE = 'm2026-99-99T99:99:99.000000Z_019683b4-a5c8-7857-bd64-bba9f0cfe218';
  const ID = 'm2026-11-22T10:00:00.000000Z_------------------------------------';
  const PLAIN =
    'domain= sender= sender=a%00b recipient=%0A symbol=a%20b reason=eggs reason=spam, state=lost ' +
    'state= node_id=a/b since=yesterday since=2026-02-30T00:00:00Z until=2026-11-22T10:00:00 ' +
    'expires_before=1 min_score=high min_score=1e3 max_score=NaN subject= q=%07 limit=0 limit=1001 ' +
    'limit=ten offset=-1 offset=10001 cursor=x surprise=1 reason=spam&reason=virus';
  it.each([
    ...PLAIN.split(' '),
    `recipient=${'a'.repeat(321)}`,
    `subject=${'a'.repeat(201)}`,
    `cursor=${DATE}`,
    `cursor=${ID}`,
    'offset=1&cursor=m2026-11-22T10:00:00.000000Z_019683b4-a5c8-7857-bd64-bba9f0cfe218',
  ])('%s', async (query) => {
    const reply = await list(query);
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(reply.body.data.issues).not.toEqual([]);
  });
});

describe('pages', () => {
  const WALKED = 23;
  const hand = (n: number, hours: number) =>
    held(t, {
      raw: aMail(`walk ${n}`),
      to: 'you@walk.example',
      headers: { 'X-Arrived-At': at(hours) },
    });
  let newestFirst: string[];
  beforeAll(async () => {
    await t.createDomain('walk.example');
    const ids: string[] = [];
    // Three at each instant: the order among them is theirs for ever.
    for (let n = 0; n < WALKED; n += 1) ids.push((await hand(n, 24 + Math.floor(n / 3))).id);
    newestFirst = ids
      .map((id, n) => ({ id, hours: Math.floor(n / 3) }))
      .sort((a, b) => b.hours - a.hours || (a.id < b.id ? 1 : -1))
      .map(({ id }) => id);
  });
  const idsOf = ({ body }: Reply): string[] => body.data.map(({ id }: { id: string }) => id);

  it('have every message once while mail arrives, from cursor to cursor', async () => {
    const seen: string[] = [];
    let cursor = '';
    for (let page = 0; page < WALKED; page += 1) {
      const reply = await list(`domain=walk.example&limit=4${cursor}`);
      seen.push(...idsOf(reply));
      if (reply.headers.get('x-has-more') === 'false') break;
      cursor = `&cursor=${reply.headers.get('x-next-cursor')}`;
      await hand(100 + page, 100 + page);
    }
    expect(seen).toEqual(newestFirst);
  });

  it('lead on by their links, with the filters', async () => {
    const seen: string[] = [];
    let path: string | undefined = `/mail/quarantine?q=walk&until=${at(40)}&limit=5`;
    for (let page = 0; page < WALKED && path !== undefined; page += 1) {
      const reply: Reply = await t.send('GET', path);
      seen.push(...idsOf(reply));
      path = /^<\/api\/v1(.*)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
    }
    expect(seen).toEqual(newestFirst);
  });

  it('begin behind an offset', async () => {
    const query = `domain=walk.example&until=${at(40)}`;
    for (const offset of [0, 1, 7, WALKED - 1, WALKED, 9_999]) {
      const reply = await list(`${query}&limit=4&offset=${offset}`);
      expect(idsOf(reply)).toEqual(newestFirst.slice(offset, offset + 4));
      expect(reply.headers.get('x-has-more')).toBe(String(offset + 4 < WALKED));
    }
  });

  it('of a cursor at the end wait for what comes behind it', async () => {
    const last = await list(`domain=walk.example&until=${at(40)}`);
    const cursor = last.headers.get('x-next-cursor');
    const after = await list(`domain=walk.example&cursor=${cursor}`);
    expect([after.body.data, after.headers.get('x-has-more')]).toEqual([[], 'false']);
  });

  it('hold what was handed in by the time it was answered', async () => {
    const reply = await handIn(t, { raw: aMail('just now'), to: 'you@walk.example' });
    expect(idsOf(await list('domain=walk.example&limit=1'))).toEqual([reply.body.data.id]);
  });
});
