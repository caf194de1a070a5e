import { isIP } from 'node:net';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readIngestHeaders } from '../../src/api/ingest-headers.ts';
import { announcementOfEnvelope, readAnnouncement } from '../../src/api/rspamd-announcement.ts';
import { DomainError } from '../../src/domain/errors.ts';
import { type Announcement, REASONS } from '../../src/domain/quarantine-language.ts';

const QID = '4jZw8h4Zs8z1TwMx';
const read = (members: object): Announcement => readAnnouncement({ qid: QID, ...members });

function issuesOf(act: () => unknown): Record<string, string> {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(DomainError);
    const { code, details } = error as DomainError;
    expect(code).toBe('validation_failed');
    const { issues } = details as { issues: { path: string; message: string }[] };
    return Object.fromEntries(issues.map(({ path, message }) => [path, message]));
  }
  return {};
}
const wrongOf = (members: object) => Object.keys(issuesOf(() => read(members)));

/** What rspamd 3.4 sent, for a message that Postfix 3.7 then held. */
const HELD = `{"subject":"held one","user":"unknown","qid":"4jZw8h4Zs8z1TwMx","score":13.400000,"header_from":["a@sender.example"],"header_to":["ok@rcpt.example,two@rcpt.example"],"rcpt":["ok@rcpt.example","two@rcpt.example"],"header_date":["Thu, 26 Nov 2026 12:00:04 +0000"],"action":"quarantine","scan_time":7,"from":"a@sender.example","ip":"127.0.0.1","fuzzy":[],"symbols":[{"name":"RCPT_COUNT_TWO","options":["2"],"groups":["headers"],"group":"headers","score":0},{"name":"FROM_NO_DN","groups":["headers"],"group":"headers","score":0},{"name":"TEST_HELD","options":["held"],"groups":[],"group":"ungrouped","score":13},{"name":"TO_MATCH_ENVRCPT_ALL","groups":["headers"],"group":"headers","score":0},{"name":"RCVD_COUNT_ZERO","options":["0"],"groups":["headers"],"group":"headers","score":0},{"name":"FROM_EQ_ENVFROM","groups":["headers"],"group":"headers","score":0},{"name":"TO_DN_NONE","groups":["headers"],"group":"headers","score":0},{"name":"MID_RHS_NOT_FQDN","groups":["Message ID"],"group":"Message ID","score":0.500000},{"name":"MIME_TRACE","options":["0:+"],"groups":["mime_types"],"group":"mime_types","score":0},{"name":"MIME_GOOD","options":["text/plain"],"groups":["mime_types"],"group":"mime_types","score":-0.100000}],"rspamd_server":"vm","message_id":"20261126120004.021719@vm","header_subject":["held one"]}`;

describe("a body of rspamd's exporter", () => {
  it('announces a message that is held', () =>
    expect(readAnnouncement(JSON.parse(HELD))).toEqual({
      queueId: '4jZw8h4Zs8z1TwMx',
      score: 13.4,
      symbols: [
        'RCPT_COUNT_TWO',
        'FROM_NO_DN',
        'TEST_HELD',
        'TO_MATCH_ENVRCPT_ALL',
        'RCVD_COUNT_ZERO',
        'FROM_EQ_ENVFROM',
        'TO_DN_NONE',
        'MID_RHS_NOT_FQDN',
        'MIME_TRACE',
        'MIME_GOOD',
      ],
      reason: 'spam',
      clientIp: '127.0.0.1',
    }));

  it('says unknown for what rspamd does not have, also for a list or a number', () => {
    const names = 'ip user subject action rspamd_server score fuzzy rcpt from symbols'.split(' ');
    const more = 'scan_time header_from header_to header_subject header_date message_id'.split(' ');
    const unknown = Object.fromEntries([...names, ...more].map((name) => [name, 'unknown']));
    const nothing = { queueId: QID, score: null, symbols: [], reason: 'unscanned', clientIp: null };
    expect(read(unknown)).toEqual(nothing);
    expect(read({})).toEqual(nothing);
    expect(read({ score: null, symbols: null, ip: null })).toEqual(nothing);
    expect(read({ score: '', symbols: '', ip: '' })).toEqual(nothing);
  });

  it.each(['reject', 'quarantine', 'soft reject', 'no action', 'unknown', 7, {}])(
    'may tell the action %j, and members of a later release',
    (action) => expect(read({ action, size: 460, structured: { a: [] } })).toEqual(read({})),
  );

  it.each([null, 'qid', 4, true, [], [{ qid: QID }]])('is not %j', (body) =>
    expect(issuesOf(() => readAnnouncement(body))).toEqual({ '': 'must be a JSON object' }),
  );

  it('is refused all at once, each member by its name', () => {
    const wrong = { qid: '../hold', score: [], symbols: 'A, B' };
    expect(wrongOf(wrong).sort()).toEqual(Object.keys(wrong).sort());
  });

  it('is read from its own members, not from those of a prototype', () => {
    const body: unknown = JSON.parse(`{"__proto__":{"qid":"${QID}"}}`);
    expect(Object.keys(issuesOf(() => readAnnouncement(body)))).toEqual(['qid']);
  });
});

describe('the queue id of an announcement', () => {
  it.each(['ABCD', '4F2A8C0D', '1234567890', 'a'.repeat(64)])('may be %s', (qid) =>
    expect(read({ qid }).queueId).toBe(qid),
  );

  it.each([
    undefined,
    null,
    'unknown',
    '',
    'ABC',
    'a'.repeat(65),
    '-',
    'ALL!',
    '../../etc',
    '1abcde-000ABC-2X',
    'ABCD\n',
    'ABCD\u0000',
    'ÄBCD',
    '١٢٣٤',
    12345678,
    ['ABCD'],
    {},
  ])('is needed, and is not %j: nothing could be joined to it', (qid) =>
    expect(issuesOf(() => read({ qid }))).toEqual({ qid: 'must be 4 to 64 letters and digits' }),
  );
});

describe('the score of an announcement', () => {
  it.each([
    [0, 0],
    [13.4, 13.4],
    [-1_000_000, -1_000_000],
    [1_000_000, 1_000_000],
    ['14.70', 14.7],
    ['-3', -3],
    ['1e-05', 1e-5],
  ])('of %j is %d', (score, number) => expect(read({ score }).score).toBe(number));

  it.each([
    1_000_000.1,
    -1e9,
    JSON.parse('1e999'),
    NaN,
    '1000001',
    '1e999',
    'NaN',
    'nan',
    'inf',
    'Infinity',
    '0x10',
    '1,5',
    '1 2',
    true,
    [],
    [1],
    {},
  ])('is not %j', (score) => expect(wrongOf({ score })).toEqual(['score']));
});

describe('the symbols of an announcement', () => {
  it.each([
    [[], []],
    [{}, []],
    [[{ name: 'A', score: 1, group: 'g', groups: ['g'], options: ['o, "p"'] }], ['A']],
    [
      [{ name: 'B' }, { name: 'A' }, { name: 'B', score: 4 }, 'A', 'C'],
      ['B', 'A', 'C'],
    ],
    [[null, 1, [], {}, { name: 1 }, { name: '<b>' }, { name: 'A\u0000' }, { name: 'A' }], ['A']],
    [['A'.repeat(129), 'B'.repeat(128), '', 'A B', 'Ä'], ['B'.repeat(128)]],
  ])('of %j are %j', (symbols, names) => expect(read({ symbols }).symbols).toEqual(names));

  it('are at most 200, and those beyond still tell the reason', () => {
    const many = Array.from({ length: 200 }, (_, index) => ({ name: `S${index}`, score: 0 }));
    const { symbols, reason } = read({ symbols: [...many, { name: 'CLAM_VIRUS', score: 10 }] });
    expect(symbols).toEqual(many.map(({ name }) => name));
    expect(reason).toBe('virus');
  });

  it.each(['A', '[]', 7, false, { name: 'A' }])('are not %j', (symbols) =>
    expect(wrongOf({ symbols })).toEqual(['symbols']),
  );
});

describe('the reason of an announcement', () => {
  it.each([
    [{ score: 20, symbols: [{ name: 'CLAM_VIRUS', score: 15 }] }, 'virus'],
    [{ score: 20, symbols: [{ name: 'PHISHING', score: 4 }] }, 'phishing'],
    [{ score: 12, symbols: [{ name: 'RBL_SPAMHAUS', score: 9 }] }, 'rbl'],
    [{ score: 12, symbols: [{ name: 'BAYES_SPAM', score: 5 }] }, 'spam'],
    [{ score: 0 }, 'spam'],
    [{ symbols: [{ name: 'BAYES_SPAM', score: 5 }] }, 'spam'],
    [{ symbols: ['CLAM_VIRUS'] }, 'virus'],
    [{ symbols: [{ name: '<b>', score: 5 }] }, 'unscanned'],
    [{}, 'unscanned'],
  ])('of %j is %s', (members, reason) => expect(read(members).reason).toBe(reason));
});

describe('the address of the client', () => {
  it.each(['192.0.2.1', '2001:db8::1', '::ffff:192.0.2.1'])('may be %s', (ip) =>
    expect(read({ ip }).clientIp).toBe(ip),
  );

  it.each(['fe80::1%eth0', '192.0.2', 'localhost', '/run/rspamd.sock', 7, {}, ['192.0.2.1']])(
    'is left out when it is %j: the announcement is worth more',
    (ip) => expect(read({ ip })).toEqual(read({})),
  );
});

describe("the exporter's headers", () => {
  type Headers = Readonly<Record<string, string>>;
  const BASE = { 'X-Rspamd-From': 'a@example.org', 'X-Rspamd-Rcpt': '["b@example.net"]' };
  const ofHeaders = (headers: Headers): Announcement => {
    const rawHeaders = Object.entries({ ...BASE, ...headers }).flat();
    return announcementOfEnvelope(readIngestHeaders({ headers: {}, rawHeaders }, new Date()));
  };

  it('announce what the body does', () => {
    const { qid, score, ip, symbols } = JSON.parse(HELD) as Record<string, unknown>;
    const headers = {
      'X-Rspamd-Qid': String(qid),
      'X-Rspamd-Score': String(score),
      'X-Rspamd-Ip': String(ip),
      'X-Rspamd-Symbols': JSON.stringify(symbols),
    };
    expect(ofHeaders(headers)).toEqual(readAnnouncement(JSON.parse(HELD)));
  });

  it('are of a message that was looked at, when they name symbols', () => {
    const unscored = (symbols: string) =>
      ofHeaders({ 'X-Rspamd-Qid': QID, 'X-Rspamd-Symbols': symbols });
    expect(unscored('BAYES_SPAM(5.10)[99%]')).toMatchObject({ score: null, reason: 'spam' });
    expect(unscored('CLAM_VIRUS(0.00)[]')).toMatchObject({ score: null, reason: 'virus' });
    expect(unscored('unknown')).toMatchObject({ score: null, reason: 'unscanned' });
  });

  it('may give a reason, which stays', () => {
    const given = { 'X-Rspamd-Qid': QID, 'X-Rspamd-Score': '4', 'X-Quarantine-Reason': 'policy' };
    expect(ofHeaders(given).reason).toBe('policy');
    expect(ofHeaders({ ...given, 'X-Quarantine-Reason': 'unscanned' }).reason).toBe('unscanned');
  });

  it.each([{}, { 'X-Rspamd-Qid': 'unknown' }, { 'X-Rspamd-Qid': '1abcde-000ABC-2X' }])(
    'are refused without a queue id: %j',
    (headers) =>
      expect(issuesOf(() => ofHeaders(headers))).toEqual({
        'X-Queue-Id': 'must be 4 to 64 letters and digits',
      }),
  );
});

describe('any JSON', () => {
  const json = fc.jsonValue({ maxDepth: 3, stringUnit: 'binary' });
  const number = fc.oneof(
    { weight: 3, arbitrary: fc.double({ min: -1_000_001, max: 1_000_001 }) },
    fc.constantFrom('unknown', '12', '-1e7', '1e999'),
    fc.double(),
    json,
  );
  const name = fc.oneof(
    fc.constantFrom('A', 'CLAM_VIRUS', 'RBL_X', 'PHISHING', 'SANDBOX', 'unknown', 'a b', ''),
    fc.string({ minLength: 120, maxLength: 140, unit: fc.constantFrom('A', '_', '9') }),
    fc.nat(400).map((index) => `S${index}`),
    json,
  );
  const symbol = fc.oneof(fc.record({ name, score: number }, { requiredKeys: [] }), name);
  const symbols = fc.oneof(
    fc.array(symbol),
    fc.array(symbol, { minLength: 200, maxLength: 400, size: 'max' }),
    json,
    fc.constantFrom('unknown', {}),
  );
  const qid = fc.oneof(
    { weight: 3, arbitrary: fc.stringMatching(/^[A-Za-z0-9]{4,64}$/) },
    fc.constantFrom('unknown', 'ABC', '../x'),
    json,
  );
  const ip = fc.oneof(fc.ipV4(), fc.ipV6(), fc.constantFrom('unknown', 'fe80::1%lo'), json);
  const members = fc.record(
    { qid, score: number, symbols, ip, action: json, fuzzy: json },
    { requiredKeys: ['qid'] },
  );
  const body = fc.oneof({ weight: 4, arbitrary: members }, json);

  function requireBounds({ queueId, score, symbols, reason, clientIp }: Announcement): void {
    expect(queueId).toMatch(/^(?!unknown$)[A-Za-z0-9]{4,64}$/);
    if (score !== null) expect(Math.abs(score)).toBeLessThanOrEqual(1_000_000);
    expect(symbols.length).toBeLessThanOrEqual(200);
    expect(new Set(symbols).size).toBe(symbols.length);
    for (const one of symbols) expect(one).toMatch(/^[A-Za-z0-9_.:-]{1,128}$/);
    expect(REASONS).toContain(reason);
    expect(reason === 'unscanned').toBe(score === null && symbols.length === 0);
    if (clientIp !== null) expect(isIP(clientIp)).toBeGreaterThan(0);
  }

  it('is an announcement within its bounds or a refusal that names its members', () => {
    let taken = 0;
    let refused = 0;
    fc.assert(
      fc.property(body, (value) => {
        const given: unknown = JSON.parse(JSON.stringify(value));
        let announcement: Announcement | null = null;
        const issues = issuesOf(() => {
          announcement = readAnnouncement(given);
        });
        if (announcement === null) {
          refused += 1;
          expect(Object.keys(issues)).not.toEqual([]);
          expect(['', 'qid', 'score', 'symbols']).toEqual(
            expect.arrayContaining(Object.keys(issues)),
          );
        } else {
          taken += 1;
          requireBounds(announcement);
        }
      }),
      { numRuns: 500 },
    );
    expect(taken).toBeGreaterThan(20);
    expect(refused).toBeGreaterThan(20);
  });
});
