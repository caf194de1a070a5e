import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { recording } from '../support/recorded.ts';
import { issuesOf, told } from '../support/webhooks.ts';

/** Hosts that nothing may be posted to, as people and attackers write them. */
const FORBIDDEN = {
  loopback: '127.0.0.1',
  'loopback elsewhere': '127.255.255.254',
  'loopback, short': '127.1',
  'loopback as a number': '2130706433',
  'loopback in hex': '0x7f000001',
  'loopback in hex by parts': '0x7f.0.0.0x1',
  'loopback in octal': '0177.0.0.1',
  'loopback as an octal number': '017700000001',
  'loopback percent-encoded': '%31%32%37.0.0.1',
  'loopback in full width': '１２７.0.0.1',
  'loopback with ideographic stops': '127。0。0。1',
  'loopback with a final stop': '127.0.0.1.',
  'loopback of IPv6': '[::1]',
  'loopback of IPv6 at length': '[0:0:0:0:0:0:0:1]',
  'loopback, mapped': '[::ffff:127.0.0.1]',
  'loopback, mapped in hex': '[::ffff:7f00:1]',
  'loopback, compatible': '[::127.0.0.1]',
  'loopback behind NAT64': '[64:ff9b::127.0.0.1]',
  'loopback behind NAT64 in hex': '[64:ff9b::7f00:1]',
  'loopback behind a local NAT64': '[64:ff9b:1::7f00:1]',
  'loopback behind 6to4': '[2002:7f00:1::]',
  'this host': '0.0.0.0',
  'this host as a number': '0',
  'this host of IPv6': '[::]',
  'this host, mapped': '[::ffff:0.0.0.0]',
  '10/8': '10.1.2.3',
  '10/8 as a number': '167837955',
  '172.16/12': '172.31.255.255',
  '192.168/16': '192.168.1.1',
  '192.168/16, short': '192.168.257',
  '192.168/16, mapped': '[::ffff:192.168.1.1]',
  '100.64/10': '100.64.0.1',
  benchmarking: '198.18.0.1',
  documentation: '192.0.2.1',
  'link-local': '169.254.1.1',
  metadata: '169.254.169.254',
  'metadata as a number': '2852039166',
  'metadata in hex': '0xa9fea9fe',
  'metadata in octal': '0251.0376.0251.0376',
  'metadata, mapped': '[::ffff:169.254.169.254]',
  'metadata behind NAT64': '[64:ff9b::a9fe:a9fe]',
  'metadata of IPv6': '[fd00:ec2::254]',
  'the metadata of Azure, a public address': '168.63.129.16',
  multicast: '224.0.0.1',
  broadcast: '255.255.255.255',
  'unique local': '[fc00::1]',
  'link-local of IPv6': '[fe80::1]',
  'site-local of IPv6': '[fec0::1]',
  'multicast of IPv6': '[ff02::1]',
  'documentation of IPv6': '[2001:db8::1]',
  'a name of loopback': 'localhost',
  'a name of loopback in capitals': 'LOCALHOST',
} as const;

const create = (t: TestGateway, url: string) =>
  recording(t, () =>
    t.send('POST', '/webhooks', {
      body: { url, event_types: ['mail_domain.created'], enabled: false },
    }),
  );

async function expectRefused(t: TestGateway, url: string, why?: RegExp): Promise<void> {
  const { reply, facts } = await create(t, url);
  expect([url, ...told(reply)]).toEqual([url, 422, 'target_refused']);
  expect(issuesOf(reply)).toEqual(['url']);
  if (why !== undefined) expect(reply.body.message).toMatch(why);
  expect(facts).toEqual([]);
}

async function expectNothingKept(t: TestGateway): Promise<void> {
  const { rows } = await t.database.pool.query(
    "select subject from credentials where kind = 'webhook'",
  );
  const made = (await t.send('GET', '/webhooks?limit=1000')).body.data;
  expect(rows).toHaveLength(made.length);
}

describe('POST /webhooks with the settings as they come', () => {
  let t: TestGateway;
  beforeAll(async () => {
    t = await startTestGateway();
  });
  afterAll(() => t.close());

  it.each(Object.entries(FORBIDDEN))('422: %s, %s, over https', async (_, host) => {
    await expectRefused(t, `https://${host}/hook`, /not public/);
    await expectRefused(t, `https://${host}:8443/hook?x=1`, /not public/);
  });

  it.each([
    ['http', 'http://hooks.example.com/', /must begin with https:/],
    ['http to an address', 'http://8.8.8.8/', /must begin with https:/],
    ['http to loopback', 'http://127.0.0.1/', /must begin with https:/],
    ['another scheme', 'ftp://8.8.8.8/', /must begin with https:/],
    ['a file', 'file:///etc/passwd', /must begin with https:/],
    ['gopher', 'gopher://8.8.8.8/', /must begin with https:/],
    ['no scheme', 'hooks.example.com/', /not a URL/],
    ['no host', 'https://', /not a URL/],
    ['a host that is no address', 'https://256.1.1.1/', /not a URL/],
    ['a zone', 'https://[fe80::1%25eth0]/', /not a URL/],
    ['a user', 'https://user@8.8.8.8/', /no user name/],
    ['a password', 'https://user:password@8.8.8.8/', /no user name/],
    ['a user that looks like a host', 'https://8.8.8.8@127.0.0.1/', /no user name/],
    ['a fragment', 'https://8.8.8.8/#top', /no fragment/],
    ['the port of SMTP', 'https://8.8.8.8:25/', /port 25/],
    ['the port of submission', 'https://8.8.8.8:587/', /port 587/],
    ['the port of SSH', 'https://hooks.example.com:22/', /port 22/],
    ['port 0', 'https://8.8.8.8:0/', /port 0/],
    ['the port of http', 'https://8.8.8.8:80/', /port 80/],
  ] as const)('422: %s, %s', (_, url, why) => expectRefused(t, url, why));

  it('422: says nothing of a query, whatever is wrong', async () => {
    for (const url of ['http://8.8.8.8/?token=canary', 'https://localhost/?token=canary']) {
      expect((await create(t, url)).reply.text).not.toContain('canary');
    }
  });

  it('422: does not tell what a name resolves to', async () => {
    expect((await create(t, 'https://localhost/')).reply.text).not.toContain('127.0.0.1');
  });

  it('201: what is public, and a name that does not resolve yet', async () => {
    for (const url of [
      'https://8.8.8.8/hook',
      'https://8.8.8.8:8443/hook',
      'https://[2606:4700::1111]/hook',
      'https://not-yet.invalid/hook?token=x',
    ]) {
      const { reply } = await create(t, url);
      expect([reply.status, reply.body.data.url]).toEqual([201, url]);
    }
  });

  it('keeps nothing of what was refused', () => expectNothingKept(t));

  it('PATCH 422: every one of them, and the URL stays', async () => {
    const { reply } = await create(t, 'https://8.8.8.8/hook');
    const path = `/webhooks/${reply.body.data.id}`;
    for (const host of Object.values(FORBIDDEN)) {
      const refused = await t.send('PATCH', path, { body: { url: `https://${host}/hook` } });
      expect([host, ...told(refused)]).toEqual([host, 422, 'target_refused']);
    }
    const after = await t.send('GET', path);
    expect(after.body.data.url).toBe('https://8.8.8.8/hook');
    expect(after.headers.get('etag')).toMatch(/^"0-/);
  });
});

describe('POST /webhooks where http and link-local addresses are allowed', () => {
  let t: TestGateway;
  beforeAll(async () => {
    const webhooks = { allowHttp: true, allowCidrs: ['169.254.0.0/16', 'fd00:ec2::/32'] };
    t = await startTestGateway({ config: { webhooks } });
  });
  afterAll(() => t.close());

  const { 'link-local': allowed, ...forbidden } = FORBIDDEN;

  it.each(Object.entries(forbidden))('422: %s, %s, over http', async (_, host) => {
    await expectRefused(t, `http://${host}/hook`, /not public/);
    await expectRefused(t, `http://${host}:8080/hook`, /not public/);
  });

  it('201: what is allowed, at any port, and what is public', async () => {
    for (const url of [`http://${allowed}:81/`, 'http://8.8.8.8/', 'http://8.8.8.8:8080/']) {
      expect((await create(t, url)).reply.status).toBe(201);
    }
  });

  it('422: a port below 1024 of what is public', async () => {
    for (const port of [25, 22, 81, 1_023]) {
      await expectRefused(t, `http://8.8.8.8:${port}/`, /port/);
    }
  });

  it('keeps nothing of what was refused', () => expectNothingKept(t));

  it('a ping of what was let in by other settings reaches nobody', async () => {
    const { reply } = await create(t, 'http://8.8.8.8/');
    const { id } = reply.body.data;
    await t.database.pool.query('update webhooks set url = $2 where id = $1', [
      id,
      `http://127.0.0.1:${new URL(t.url).port}/api/v1/auth/api-keys`,
    ]);
    const ping = await t.send('POST', `/webhooks/${id}/ping`);
    expect(ping.body.data).toMatchObject({ delivered: false, outcome: 'blocked', status: null });
    expect(ping.body.data).toMatchObject({ connected_to: null, response: null });
  });
});
