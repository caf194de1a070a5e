import { describe, expect, it, vi } from 'vitest';
import { addressPolicy, type LookupAll } from '../../src/webhooks/addresses.ts';
import { checkTarget, parseTarget, type TargetPolicy } from '../../src/webhooks/target.ts';

const STRICT: TargetPolicy = { addresses: addressPolicy([]), allowHttp: false };
const WITH_HTTP: TargetPolicy = { ...STRICT, allowHttp: true };
const WITH_LAN: TargetPolicy = { addresses: addressPolicy(['10.0.0.0/8']), allowHttp: true };

/** Spellings of loopback; the URL parser makes addresses of them. */
const LOOPBACK = [
  '127.0.0.1',
  '127.1',
  '127.0.0.1.',
  '2130706433',
  '0x7f000001',
  '0x7f.1',
  '0177.0.0.1',
  '017700000001',
  '%31%32%37.0.0.1',
  '127。0。0。1',
  '１２７.0.0.1',
  '0.0.0.0',
  '0',
  '[::1]',
  '[::]',
  '[0:0:0:0:0:0:0:1]',
  '[::ffff:127.0.0.1]',
  '[::ffff:7f00:1]',
  '[::127.0.0.1]',
  '[64:ff9b::127.0.0.1]',
  '[2002:7f00:1::]',
];

const accepts = (text: string, policy = STRICT) => {
  expect(parseTarget(text, policy).refusal).toBeNull();
};
const refuses = (text: string, refusal: string, policy = STRICT) => {
  const target = parseTarget(text, policy);
  expect(target.url).toBeNull();
  expect(target.refusal).toContain(refusal);
};

describe('parseTarget', () => {
  it('gives the URL as it will be called', () => {
    const { url } = parseTarget('HTTPS://Hooks.Example.COM:443/a?token=b', STRICT);
    expect(url?.href).toBe('https://hooks.example.com/a?token=b');
  });

  it('takes https alone, unless http is allowed', () => {
    refuses('http://example.com/', 'must begin with https://');
    accepts('http://example.com/', WITH_HTTP);
    for (const scheme of ['ftp', 'file', 'ws', 'gopher', 'data', 'javascript']) {
      refuses(`${scheme}://example.com/`, 'must begin with', WITH_HTTP);
    }
  });

  it.each(['', 'example.com', '/hook', 'https://', 'https://exa mple.com/', 'https://[::1/'])(
    'refuses %o, which is no URL',
    (text) => refuses(text, 'not a URL'),
  );

  it.each(['https://1.2.3.4.5/', 'https://256.1.1.1/', 'https://[fe80::1%25eth0]/'])(
    'refuses %s, whose host is no address although it looks like one',
    (text) => refuses(text, 'not a URL'),
  );

  it.each(['https://./', 'https://.example.com/', 'https://example..com/'])(
    'refuses %s, which has no whole host name',
    (text) => refuses(text, 'empty label'),
  );

  it('refuses credentials in the URL', () => {
    refuses('https://user@example.com/', 'no user name');
    refuses('https://:secret@example.com/', 'no password');
    refuses('https://8.8.8.8@127.0.0.1/', 'no user name');
  });

  it('refuses a fragment, also an empty one', () => {
    refuses('https://example.com/#top', 'no fragment');
    refuses('https://example.com/#', 'no fragment');
    accepts('https://example.com/%23');
  });

  it.each(['\u0000', '\t', '\n', '\r', '\u001f', '\u007f', '\u0085'])(
    'refuses the control character %j, at any place',
    (character) => {
      refuses(`https://example.com/${character}hook`, 'control characters');
      refuses(`https://exam${character}ple.com/hook`, 'control characters');
      refuses(`https://example.com/hook${character}`, 'control characters');
    },
  );

  it('refuses more than 2,048 characters, as written or as sent', () => {
    const base = 'https://example.com/';
    accepts(base + 'a'.repeat(2_048 - base.length));
    refuses(base + 'a'.repeat(2_049 - base.length), 'at most 2048');
    refuses(base + 'é'.repeat(500), 'at most 2048');
  });

  it('takes port 443, the port of http for http, and ports from 1024', () => {
    for (const port of [443, 1_024, 8_443, 65_535]) accepts(`https://example.com:${port}/`);
    for (const port of [80, 443, 8_080]) accepts(`http://example.com:${port}/`, WITH_HTTP);
    for (const port of [0, 22, 25, 80, 465, 587, 1_023]) {
      refuses(`https://example.com:${port}/`, `port ${port}`);
    }
    refuses('https://example.com:65536/', 'not a URL');
    refuses('http://8.8.8.8:25/', 'port 25', WITH_LAN);
  });

  it('takes any port of an address that the operator has allowed', () => {
    accepts('http://10.1.2.3:81/', WITH_LAN);
    accepts('http://[::ffff:10.1.2.3]:25/', WITH_LAN);
    refuses('http://127.0.0.1:81/', 'not public', WITH_LAN);
  });

  it.each(LOOPBACK)('refuses loopback written as %s', (host) => {
    refuses(`https://${host}/`, 'not public');
    refuses(`http://${host}:8080/`, 'not public', WITH_HTTP);
  });

  it('takes a public address', () => {
    accepts('https://8.8.8.8/');
    accepts('https://[2606:4700::1111]/');
  });

  it.each(['localhost', 'a.localhost', 'printer.local', 'vault.internal', 'localhost.'])(
    'leaves the name %s to what it resolves to',
    (name) => accepts(`https://${name}/`),
  );

  it('says nothing of the query, whatever is wrong', () => {
    const wrong = ['http://example.com/', 'https://127.0.0.1/', 'https://example.com:22/', 'x'];
    for (const text of [...wrong, 'https://a@example.com/', 'https://example.com/\t']) {
      expect(parseTarget(`${text}?token=canary`, STRICT).refusal).not.toContain('canary');
    }
  });
});

const answering =
  (...addresses: readonly string[]): LookupAll =>
  async () =>
    addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));

describe('checkTarget', () => {
  const url = 'https://hooks.example.com/?token=canary';

  it('takes a name with public addresses alone', async () => {
    const target = await checkTarget(url, STRICT, answering('8.8.8.8', '2606:4700::1111'));
    expect(target.url?.hostname).toBe('hooks.example.com');
  });

  it.each([
    ['the first', ['127.0.0.1', '8.8.8.8']],
    ['the last', ['8.8.8.8', '2606:4700::1111', '::ffff:10.0.0.1']],
    ['the only one', ['169.254.169.254']],
    ['one with a zone', ['fe80::1%eth0']],
  ])(
    'refuses a name when %s of its addresses is denied, and does not say which',
    async (_, all) => {
      const { refusal } = await checkTarget(url, STRICT, answering(...all));
      expect(refusal).toBe('hooks.example.com resolves to an address that is not public');
    },
  );

  it('takes a name that resolves to what the operator has allowed', async () => {
    const target = await checkTarget(url, WITH_LAN, answering('10.1.2.3'));
    expect(target.refusal).toBeNull();
  });

  it('lets a name that does not resolve through', async () => {
    const none = async () => Promise.reject(new Error('queryA ENOTFOUND'));
    expect((await checkTarget(url, STRICT, none)).refusal).toBeNull();
    expect((await checkTarget(url, STRICT, answering())).refusal).toBeNull();
  });

  it('asks for nothing when the URL is refused, or its host is an address', async () => {
    let asked = 0;
    const counting: LookupAll = async () => {
      asked += 1;
      return [];
    };
    expect((await checkTarget('http://example.com/', STRICT, counting)).refusal).not.toBeNull();
    expect((await checkTarget('https://127.0.0.1/', STRICT, counting)).refusal).not.toBeNull();
    expect((await checkTarget('https://8.8.8.8/', STRICT, counting)).refusal).toBeNull();
    expect(asked).toBe(0);
  });

  it('refuses a name with a final dot by what it resolves to', async () => {
    for (const name of ['localhost.', 'a.localhost.', 'vault.internal.', 'printer.local.']) {
      const { refusal } = await checkTarget(`https://${name}/`, STRICT, answering('127.0.0.1'));
      expect(refusal).toBe(`${name} resolves to an address that is not public`);
    }
  });

  it.each(['localhost', 'LOCALHOST'])(
    'refuses %s by what the system itself resolves it to',
    async (name) => {
      const { refusal } = await checkTarget(`https://${name}/`, STRICT);
      expect(refusal).toContain('not public');
    },
  );

  it('waits three seconds at most for an answer', async () => {
    const never = () => new Promise<never>(() => undefined);
    vi.useFakeTimers();
    const checked = checkTarget(url, STRICT, never);
    await vi.advanceTimersByTimeAsync(3_000);
    expect((await checked).refusal).toBeNull();
    vi.useRealTimers();
  });
});
