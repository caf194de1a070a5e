import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type IngestEnvelope, readIngestHeaders } from '../../src/api/ingest-headers.ts';
import { DomainError } from '../../src/domain/errors.ts';
import { domainOf } from '../../src/projections/recipient-groups.ts';

const NOW = new Date('2026-05-01T08:00:00Z');
const OURS = { 'X-Mail-From': 'a@example.org', 'X-Rcpt-To': 'b@example.net' };
const RSPAMD = { 'X-Rspamd-From': 'a@example.org', 'X-Rspamd-Rcpt': '["b@example.net"]' };

type Headers = Readonly<Record<string, string | readonly string[]>>;

/** Headers as Node hands them over: names and values in turn, the bytes of a value as Latin-1. */
const rawOf = (headers: Headers): string[] =>
  Object.entries(headers).flatMap(([name, values]) =>
    [values].flat().flatMap((value) => [name, Buffer.from(value).toString('latin1')]),
  );
const read = (headers: Headers): IngestEnvelope =>
  readIngestHeaders({ headers: {}, rawHeaders: rawOf(headers) }, NOW);
const ours = (headers: Headers) => read({ ...OURS, ...headers });
const rspamd = (headers: Headers) => read({ ...RSPAMD, ...headers });

function issuesOf(headers: Headers): Record<string, string> {
  try {
    read(headers);
  } catch (error) {
    expect(error).toBeInstanceOf(DomainError);
    const { code, details } = error as DomainError;
    expect(code).toBe('validation_failed');
    const { issues } = details as { issues: { path: string; message: string }[] };
    return Object.fromEntries(issues.map(({ path, message }) => [path, message]));
  }
  return {};
}
const wrongOf = (headers: Headers) => Object.keys(issuesOf(headers));

describe('our headers', () => {
  it('give the envelope', () => {
    const envelope = ours({
      'x-rcpt-to': ['b@example.net', '<c@Example.NET>, "d, e"@example.net'],
      'X-Rcpt-To': [],
      'X-Spam-Score': '14.7',
      'X-Quarantine-Reason': 'phishing',
      'X-Queue-Id': '3Pt2mN2VXxznjll',
      'X-Spam-Symbols': 'FISHY_TLD, RBL_HIT,FISHY_TLD',
      'X-Arrived-At': '2026-05-01T09:42:13.5+02:00',
    });
    expect(envelope).toEqual({
      sender: 'a@example.org',
      recipients: ['b@example.net', 'c@example.net', '"d, e"@example.net'],
      score: 14.7,
      reason: 'phishing',
      symbols: ['FISHY_TLD', 'RBL_HIT'],
      queueId: '3Pt2mN2VXxznjll',
      arrivedAt: new Date('2026-05-01T07:42:13.500Z'),
      clientIp: null,
      user: null,
      subject: null,
      isRspamd: false,
    });
  });

  it('leave what they do not say unknown: no score is not a score of 0', () => {
    const unknown = { score: null, reason: 'unscanned', symbols: [], queueId: null };
    expect(ours({})).toMatchObject({ ...unknown, arrivedAt: null, isRspamd: false });
    expect(ours({ 'X-Spam-Score': 'unknown' })).toMatchObject(unknown);
    expect(ours({ 'X-Quarantine-Reason': 'policy' })).toMatchObject({ reason: 'policy' });
    expect(ours({ 'X-Spam-Score': '0' })).toMatchObject({ score: 0, reason: 'spam' });
  });

  it('are refused all at once, each by its name', () => {
    const headers = {
      'X-Mail-From': 'nobody',
      'X-Rcpt-To': 'b@example.net, c@@example.net',
      'X-Spam-Score': 'high',
      'X-Quarantine-Reason': 'dislike',
      'X-Queue-Id': '../../etc',
      'X-Arrived-At': 'yesterday',
    };
    expect(wrongOf(headers).sort()).toEqual(Object.keys(headers).sort());
    expect(issuesOf(headers)['X-Rcpt-To']).toContain('number 2');
  });

  it('must name sender and recipients', () => {
    expect(issuesOf({})).toEqual({ 'X-Mail-From': 'is required', 'X-Rcpt-To': 'is required' });
    expect(wrongOf({ ...OURS, 'X-Rcpt-To': ' , ' })).toEqual(['X-Rcpt-To']);
  });

  it.each(Object.keys(OURS).concat('X-Spam-Score', 'X-Quarantine-Reason', 'X-Queue-Id'))(
    'may say %s once, or else only that of recipients',
    (name) => {
      const wrong = issuesOf({ ...OURS, [name]: ['1234@a.example', '1234@a.example'] });
      if (name === 'X-Rcpt-To') expect(wrong).toEqual({});
      else expect(wrong).toEqual({ [name]: 'is given twice' });
    },
  );

  it('take up to 1,000 different recipients', () => {
    const many = Array.from({ length: 1_000 }, (_, index) => `u${index}@example.net`);
    expect(ours({ 'X-Rcpt-To': [...many, ...many].join(',') }).recipients).toEqual(many);
    expect(wrongOf({ ...OURS, 'X-Rcpt-To': [...many, 'v@example.net'] })).toEqual(['X-Rcpt-To']);
  });

  it.each(['-1000000', '+3', '.5', '7.', '1e-05', '1000000'])('take the score %s', (text) =>
    expect(ours({ 'X-Spam-Score': text }).score).toBe(Number(text)),
  );

  it.each(['1000001', '-1e9', '1e999', 'NaN', 'Infinity', '0x10', '1,5', '1 2', '.', '١'])(
    'refuse the score %s',
    (text) => expect(wrongOf({ ...OURS, 'X-Spam-Score': text })).toEqual(['X-Spam-Score']),
  );

  it.each(['abc', 'a'.repeat(65), 'ABC-DEF', 'ABCD\u0000', 'ÄBCD'])(
    'refuse the queue id %j',
    (id) => expect(wrongOf({ ...OURS, 'X-Queue-Id': id })).toEqual(['X-Queue-Id']),
  );

  it.each([
    '2026-05-01T08:05:01Z',
    '2016-04-01T00:00:00Z',
    '2026-02-30T00:00:00Z',
    '2026-05-01T07:00:00',
    '2026-05-01',
    '1777620000',
  ])('refuse to have arrived at %s', (text) =>
    expect(wrongOf({ ...OURS, 'X-Arrived-At': text })).toEqual(['X-Arrived-At']),
  );

  it.each(['2026-05-01T08:04:59Z', '2016-06-01T00:00:00Z'])('may have arrived at %s', (text) =>
    expect(ours({ 'X-Arrived-At': text }).arrivedAt).toEqual(new Date(text)),
  );
});

describe("rspamd's headers", () => {
  it('give the envelope as the exporter writes it', () => {
    const envelope = rspamd({
      'X-Rspamd-Rcpt': '["b@example.net","c@example.net","b@example.net"]',
      'X-Rspamd-Score': '14.700000000001',
      'X-Rspamd-Action': 'quarantine',
      'X-Rspamd-Symbols':
        '[{"name":"PHISHING","score":4,"group":"phishing","groups":["a"],"options":["x, y"]},' +
        '{"name":"R_SPF_FAIL","score":1},{"name":"<b>"},{"name":"PHISHING","score":1},"PLAIN"]',
      'X-Rspamd-Qid': '4F2A8C0D',
      'X-Rspamd-Ip': '2001:db8::1',
      'X-Rspamd-Subject': 'Grüße',
      'X-Rspamd-User': 'jörg',
    });
    expect(envelope).toEqual({
      sender: 'a@example.org',
      recipients: ['b@example.net', 'c@example.net'],
      score: 14.700000000001,
      reason: 'phishing',
      symbols: ['PHISHING', 'R_SPF_FAIL', 'PLAIN'],
      queueId: '4F2A8C0D',
      arrivedAt: null,
      clientIp: '2001:db8::1',
      user: 'jörg',
      subject: 'Grüße',
      isRspamd: true,
    });
  });

  it('say unknown for what rspamd does not have, also for a list', () => {
    const names = ['From', 'Score', 'Symbols', 'Qid', 'Ip', 'Subject', 'User'];
    const unknown = Object.fromEntries(names.map((name) => [`X-Rspamd-${name}`, 'unknown']));
    expect(rspamd(unknown)).toEqual({
      ...rspamd({}),
      sender: '',
      reason: 'unscanned',
      isRspamd: true,
    });
    expect(wrongOf({ ...RSPAMD, 'X-Rspamd-Rcpt': 'unknown' })).toEqual(['X-Rspamd-Rcpt']);
    expect(wrongOf({ ...RSPAMD, 'X-Rspamd-Rcpt': '{}' })).toEqual(['X-Rspamd-Rcpt']);
  });

  it.each([
    ['b@example.net', ['b@example.net']],
    ['b@example.net, c@example.net', ['b@example.net', 'c@example.net']],
    ['["unknown","b@example.net"]', ['b@example.net']],
    ['["jörg@example.net"]', ['jörg@example.net']],
    ['"a\\", b"@example.net,c@example.net', ['"a\\", b"@example.net', 'c@example.net']],
  ])('take %s for recipients', (text, recipients) =>
    expect(rspamd({ 'X-Rspamd-Rcpt': text }).recipients).toEqual(recipients),
  );

  it.each(['["b@example.net"', '[["b@example.net"]]', '[{"a":1}]', '[1]', '{"b@example.net":1}'])(
    'refuse %s for recipients',
    (text) => expect(wrongOf({ ...RSPAMD, 'X-Rspamd-Rcpt': text })).toEqual(['X-Rspamd-Rcpt']),
  );

  it.each([
    ['A(1.20)[x, y], B(0.00)', ['A', 'B']],
    ['A(1.20) [x, y]\t\tB(-1.00)', ['A', 'B']],
    ['A,B C', ['A', 'B', 'C']],
    ['["A","B"]', ['A', 'B']],
    ['[]', []],
    ['{}', []],
    ['[null,1,[],{"name":1},{"name":"A\\u0000"},{"name":"B"}]', ['B']],
    [`["${'A'.repeat(129)}","${'B'.repeat(128)}"]`, ['B'.repeat(128)]],
  ])('take the symbols of %s', (text, symbols) =>
    expect(rspamd({ 'X-Rspamd-Symbols': text }).symbols).toEqual(symbols),
  );

  it('keep 200 symbols, and refuse JSON that is cut short', () => {
    const many = Array.from({ length: 300 }, (_, index) => `S${index}`);
    const { symbols } = rspamd({ 'X-Rspamd-Symbols': JSON.stringify(many) });
    expect(symbols).toEqual(many.slice(0, 200));
    expect(wrongOf({ ...RSPAMD, 'X-Rspamd-Symbols': '["A"' })).toEqual(['X-Rspamd-Symbols']);
  });

  it('may come as UTF-8, as Latin-1 or in encoded words', () => {
    const raw = (value: string) =>
      readIngestHeaders(
        { headers: {}, rawHeaders: [...rawOf(RSPAMD), 'X-Rspamd-Subject', value] },
        NOW,
      ).subject;
    expect(raw('Gr\xc3\xbc\xc3\x9fe')).toBe('Grüße');
    expect(raw('Gr\xfc\xdfe')).toBe('Grüße');
    expect(raw('=?UTF-8?Q?Gr=C3=BC=C3=9Fe?=')).toBe('Grüße');
    const sender = '=?UTF-8?Q?j=C3=B6rg=40example.org?=';
    expect(rspamd({ 'X-Rspamd-From': sender }).sender).toBe('jörg@example.org');
  });

  it('leave out an address or a queue id that is none: nobody would see a refusal', () => {
    const odd = { 'X-Rspamd-Qid': '1abcde-000ABC-2X', 'X-Rspamd-Ip': 'fe80::1%eth0' };
    expect(rspamd(odd)).toMatchObject({ queueId: null, clientIp: null });
    expect(rspamd({ 'X-Rspamd-Ip': '192.0.2.1' }).clientIp).toBe('192.0.2.1');
    expect(rspamd({ 'X-Rspamd-Ip': '192.0.2' }).clientIp).toBeNull();
  });

  it('may be joined by ours, but not on the same matter', () => {
    expect(rspamd({ 'X-Quarantine-Reason': 'policy' })).toMatchObject({
      reason: 'policy',
      isRspamd: true,
    });
    expect(issuesOf({ ...RSPAMD, 'X-Spam-Score': '1', 'X-Rspamd-Score': '1' })).toEqual({
      'X-Spam-Score': 'is given together with X-Rspamd-Score',
    });
    expect(wrongOf({ ...OURS, ...RSPAMD }).sort()).toEqual(['X-Mail-From', 'X-Rcpt-To']);
  });
});

describe('the reason', () => {
  const reasonOf = (symbols: unknown, score = '12') =>
    rspamd({ 'X-Rspamd-Score': score, 'X-Rspamd-Symbols': JSON.stringify(symbols) }).reason;
  const rated = (scores: Readonly<Record<string, number>>) =>
    reasonOf(Object.entries(scores).map(([name, score]) => ({ name, score })));

  it.each([
    [['CLAM_VIRUS', 'PHISHING'], 'virus'],
    [['SOPHOS_VIRUS_EICAR'], 'virus'],
    [['VIRUS_FOUND'], 'virus'],
    [['DACH_PHISHING_SUBJECT', 'FISHY_TLD', 'RBL_HIT'], 'phishing'],
    [['MY_SANDBOX', 'RBL_HIT'], 'sandbox'],
    [['RBL_HIT', 'FISHY_TLD'], 'rbl'],
    [['ZEN_RBL_HIT'], 'rbl'],
    [['RBL_VIRUSFREE_BOTNET'], 'rbl'],
    [['BAYES_SPAM'], 'spam'],
    [[], 'spam'],
  ])('of %j is %s', (symbols, reason) => expect(reasonOf(symbols)).toBe(reason));

  it('is a blocklist only when blocklists gave most of the score', () => {
    expect(rated({ RBL_SPAMHAUS: 6, MIME_HTML_ONLY: 0.2 })).toBe('rbl');
    expect(rated({ RBL_SPAMHAUS: 2, BAYES_SPAM: 5.1 })).toBe('spam');
    expect(rated({ RBL_BLOCKED_OPENRESOLVER: 0, BAYES_SPAM: 0.1 })).toBe('spam');
  });

  it('is no symbol that spoke for the message', () => {
    expect(rated({ NOT_PHISHING: -3, BAYES_SPAM: 5.1 })).toBe('spam');
    expect(rated({ CLAM_VIRUS: 0 })).toBe('virus');
  });

  it('is the one that is given, whatever the symbols', () => {
    const given = { 'X-Spam-Symbols': 'CLAM_VIRUS', 'X-Quarantine-Reason': 'spam' };
    expect(ours(given).reason).toBe('spam');
    expect(ours({ 'X-Spam-Symbols': 'CLAM_VIRUS' }).reason).toBe('virus');
    expect(ours({ 'X-Spam-Symbols': 'BAYES_SPAM' }).reason).toBe('unscanned');
  });

  it('is not read from headers that a message might bring along', () => {
    const envelope = ours({ 'X-Spam-Status': 'Yes', 'X-Spam-Level': '***', 'X-Spam-Flag': 'YES' });
    expect(envelope).toEqual(ours({}));
  });
});

describe('an address', () => {
  const addressOf = (text: string) => ours({ 'X-Mail-From': text }).sender;

  it.each([
    ['', ''],
    ['<>', ''],
    ['MAILER-DAEMON', ''],
    ['<a@example.org>', 'a@example.org'],
    ['A.B+c=d@EXAMPLE.org', 'A.B+c=d@example.org'],
    ['a@example.org.', 'a@example.org'],
    ['a@bücher.example', 'a@xn--bcher-kva.example'],
    ['用户@例え.jp', '用户@xn--r8jz45g.jp'],
    ['a@[192.0.2.1]', 'a@[192.0.2.1]'],
    ['a@[IPv6:2001:DB8::1]', 'a@[ipv6:2001:db8::1]'],
    ['"a b@c"@example.org', '"a b@c"@example.org'],
    ['root@localhost', 'root@localhost'],
    ['a@My_PC.example', 'a@my_pc.example'],
    [`a@${`${'b'.repeat(62)}.`.repeat(3)}${'c'.repeat(60)}.de`, expect.stringMatching(/^a@b/)],
  ])('of %j is %j', (text, address) => expect(addressOf(text)).toEqual(address));

  it.each([
    'a',
    '@example.org',
    'a@',
    'a@b@example.org',
    'a b@example.org',
    'a@exa mple.org',
    'a@ example.org',
    'a@-',
    'a@example..org',
    'a@[300.1.1.1]',
    'a@[1.2.3.4',
    'a@[IPv6:fe80::1%eth0]',
    'a@[IPv6:1.2.3.4]',
    '<a@example.org',
    'a@example.org>',
    'Ann <a@example.org>',
    '"a"b@example.org',
    '"a@example.org',
    'a@example.org, b@example.org',
    'a\u0000@example.org',
    'a\u009b@example.org',
    'a\u00a0b@example.org',
    'a@example.org/x',
    'a@b%00.example',
    `${'a'.repeat(243)}@example.org`,
    `${'ä'.repeat(122)}@example.org`,
    'unknown',
  ])('is not %j', (text) =>
    expect(wrongOf({ ...OURS, 'X-Mail-From': text })).toEqual(['X-Mail-From']),
  );

  it.each([
    'a@example.org\r\nX-Rcpt-To: evil@example.net',
    'a@example.org\nRCPT TO:<evil@example.net>',
    '"a\r\nb"@example.org',
  ])('holds no forged line: %j', (text) => {
    expect(wrongOf({ ...OURS, 'X-Mail-From': text })).toEqual(['X-Mail-From']);
    expect(wrongOf({ ...OURS, 'X-Rcpt-To': text })).toEqual(['X-Rcpt-To']);
    expect(wrongOf({ ...RSPAMD, 'X-Rspamd-Rcpt': JSON.stringify([text]) })).toEqual([
      'X-Rspamd-Rcpt',
    ]);
  });

  it('holds no half of a surrogate pair and no line end that JSON has escaped', () => {
    for (const list of ['["a\\ud800@example.org"]', '["a@example.org\\r\\n"]']) {
      expect(wrongOf({ ...RSPAMD, 'X-Rspamd-Rcpt': list })).toEqual(['X-Rspamd-Rcpt']);
    }
  });

  it('holds no line that an encoded word would bring in', () => {
    const forged = '=?utf-8?Q?a=40example.org=0D=0ARCPT?=';
    expect(wrongOf({ ...RSPAMD, 'X-Rspamd-From': forged })).toEqual(['X-Rspamd-From']);
    expect(rspamd({ 'X-Rspamd-Subject': '=?utf-8?Q?a=0D=0AX:_b=00?=' }).subject).toBe(
      'a X: b\ufffd',
    );
  });

  it('has a domain', () => {
    expect(domainOf('"a@b"@example.org')).toBe('example.org');
    expect(domainOf('a@[192.0.2.1]')).toBe('[192.0.2.1]');
  });
});

describe('any headers', () => {
  const NAMES = [
    'X-Mail-From X-Rcpt-To X-Spam-Score X-Quarantine-Reason X-Queue-Id X-Spam-Symbols X-Arrived-At',
    'From Rcpt Score Action Symbols Qid Ip Subject User'.replaceAll(/\w+/g, 'X-Rspamd-$&'),
  ].flatMap((names) => names.split(' '));
  const value = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 30 }),
    fc.json({ maxDepth: 2 }),
    fc.constantFrom('unknown', 'a@b.example', '["a@b.example"]', '12', '"', 'A(1)[b], C'),
  );
  const headers = fc.uniqueArray(fc.tuple(fc.constantFrom(...NAMES), value), {
    maxLength: 12,
    // One of each kind, so that few are refused for being given twice.
    selector: ([name]) => name.replace('Rspamd', 'Mail').replace('Rcpt-To', 'Mail-Rcpt'),
  });

  it('give an envelope within its bounds or a refusal that names its headers', () => {
    fc.assert(
      fc.property(headers, (pairs) => {
        const isGiven = (part: string) => pairs.some(([name]) => name.includes(part));
        const needed = Object.entries(OURS).filter(
          ([name]) => !isGiven(name.includes('Rcpt') ? '-Rcpt' : '-From'),
        );
        const given = [...needed, ...pairs].flat();
        try {
          const envelope = readIngestHeaders({ headers: {}, rawHeaders: given }, NOW);
          expect(envelope.recipients.length).toBeGreaterThan(0);
          expect(JSON.stringify(envelope)).not.toMatch(/\\u00|\\ud[89a-f]/);
        } catch (error) {
          expect((error as DomainError).code).toBe('validation_failed');
          const { issues } = (error as DomainError).details as { issues: { path: string }[] };
          expect(issues.every(({ path }) => NAMES.includes(path))).toBe(true);
        }
      }),
    );
  });
});
