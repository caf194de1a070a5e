import fc from 'fast-check';
import PostalMime, { type Email } from 'postal-mime';
import { describe, expect, it } from 'vitest';
import { type Bounce, buildBounce } from '../../src/integrations/bounce.ts';

const HEAD = Buffer.from(
  'Received: from x\r\n\tby y\r\nFrom: Ann <ann@example.org>\r\nSubject: Offer\r\n\r\nBuy now.\r\n',
);

const build = (over: Partial<Bounce> = {}): Buffer =>
  Buffer.from(
    buildBounce({
      reportingMta: 'gateway.example.net',
      sender: 'ann@example.org',
      recipients: ['bob@example.net', 'eve@example.net'],
      reason: 'Advertising is not wanted here.',
      messageId: '01890a5d-ac96-774b-bcce-b302099a8057',
      arrivedAt: new Date('2026-03-01T10:00:00.123Z'),
      head: HEAD,
      at: new Date('2026-03-02T11:30:05.000Z'),
      boundary: 'b-0123456789abcdef',
      ...over,
    }),
  );

type Parsed = Email & { status: string; original: string };

async function parse(bytes: Buffer): Promise<Parsed> {
  const email = await PostalMime.parse(bytes, { attachmentEncoding: 'arraybuffer' });
  const contentOf = (type: string) => {
    const found = email.attachments.filter(({ mimeType }) => mimeType === type);
    expect(found).toHaveLength(1);
    return Buffer.from(found[0]!.content as ArrayBuffer).toString();
  };
  return {
    ...email,
    status: contentOf('message/delivery-status'),
    original: contentOf('text/rfc822-headers'),
  };
}

const header = (email: Email, name: string) =>
  email.headers.filter(({ key }) => key === name).map(({ value }) => value);
/** Everything up to the first empty line. */
const headerBlock = (bytes: Buffer) => bytes.toString().split('\r\n\r\n')[0]!;

describe('a bounce', () => {
  it('is a report that machines take for one', async () => {
    const email = await parse(build());
    expect(header(email, 'content-type')).toEqual([
      'multipart/report; report-type=delivery-status;\tboundary="b-0123456789abcdef"',
    ]);
    expect(email.from).toMatchObject({ address: 'MAILER-DAEMON@gateway.example.net' });
    expect(email.to).toMatchObject([{ address: 'ann@example.org' }]);
    expect(email.subject).toBe('Undelivered mail returned to sender');
    expect(email.messageId).toBe('<01890a5d-ac96-774b-bcce-b302099a8057@gateway.example.net>');
    expect(email.date).toBe('2026-03-02T11:30:05.000Z');
    expect(header(email, 'auto-submitted')).toEqual(['auto-replied']);
    expect(header(email, 'mime-version')).toEqual(['1.0']);
  });

  it('says for each recipient that delivery failed for good', async () => {
    const { status } = await parse(build());
    expect(status.trimEnd().replaceAll('\r\n', '\n')).toBe(
      [
        'Reporting-MTA: dns; gateway.example.net',
        'Arrival-Date: Sun, 01 Mar 2026 10:00:00 +0000',
        '',
        'Final-Recipient: rfc822; bob@example.net',
        'Action: failed',
        'Status: 5.7.1',
        '',
        'Final-Recipient: rfc822; eve@example.net',
        'Action: failed',
        'Status: 5.7.1',
      ].join('\n'),
    );
  });

  it('tells people who rejected what, and why', async () => {
    const { text } = await parse(build());
    for (const told of [
      'gateway.example.net',
      'Sun, 01 Mar 2026 10:00:00 +0000',
      'bob@example.net',
      'eve@example.net',
      "rejected by the recipient's mail gateway",
      'Advertising is not wanted here.',
    ]) {
      expect(text).toContain(told);
    }
  });

  it('tells a reason line by line, without what is no text', async () => {
    const { text } = await parse(build({ reason: 'one\u2028t\u0007w\u0085o\r\nthree' }));
    expect(text).toContain('\n    one\n    two\n    three\n');
  });

  it('gives no reason where none was given', async () => {
    for (const reason of [null, '', ' \r\n']) {
      expect((await parse(build({ reason }))).text).not.toContain('reason');
    }
  });

  it('shows the header of the message, and nothing of its body', async () => {
    const bytes = build();
    expect((await parse(bytes)).original.trimEnd()).toBe(
      HEAD.toString().split('\r\n\r\n')[0]!.replaceAll('\r\n', '\n'),
    );
    expect(bytes.toString()).not.toContain('Buy now');
  });

  it.each([
    ['LF', HEAD.toString().replaceAll('\r\n', '\n')],
    ['CR', HEAD.toString().replaceAll('\r\n', '\r')],
  ])('finds the end of a header with lines that end in %s', (_, text) => {
    const bytes = build({ head: Buffer.from(text) }).toString();
    expect(bytes).toContain('\r\nSubject: Offer\r\n');
    expect(bytes).not.toContain('Buy now');
  });

  it.each([
    ['a message without a body', 'Subject: only'],
    ['a message without a header', '\r\nBuy now.\r\n'],
    ['nothing', ''],
  ])('is whole for %s', async (_, head) => {
    const { original } = await parse(build({ head: Buffer.from(head) }));
    expect(original.trim()).toBe(head.startsWith('Subject') ? head : '');
  });

  it('shows at most 64 KiB of a header', () => {
    const head = Buffer.from(`X-Long: ${'y'.repeat(100)}\r\n`.repeat(5_000));
    const { length } = build({ head });
    expect(length).toBeGreaterThan(60_000);
    expect(length).toBeLessThan(70_000);
  });

  it('leaves in 7 bits, with lines of an allowed length, whatever the header has', async () => {
    const odd = Buffer.concat([
      Buffer.from(`Subject: Grüße \u0085 ${'z'.repeat(5_000)}\r\nX: `),
      Buffer.from([0, 255, 7, 13, 10]),
      Buffer.from('\r\nbody'),
    ]);
    const bytes = build({ head: odd, reason: `${'w'.repeat(1_500)} für dich 😀` });
    expect(bytes.every((byte) => byte < 128 && byte !== 0)).toBe(true);
    expect(
      Math.max(
        ...bytes
          .toString()
          .split('\r\n')
          .map(({ length }) => length),
      ),
    ).toBeLessThan(999);
    const email = await parse(bytes);
    expect(email.text).toContain('für dich 😀');
    expect(email.original).toContain(`Subject: Grüße \u0085 ${'z'.repeat(5_000)}`);
  });

  it('tells 2,000 characters of a reason at most', () => {
    expect(build({ reason: 'r'.repeat(100_000) }).length).toBeLessThan(6_000);
  });

  it('writes addresses that are not ASCII for readers that know no better', async () => {
    const email = await parse(
      build({ sender: 'jörg@example.org', recipients: ['a+ö=\\@bücher.example'] }),
    );
    expect(email.to).toMatchObject([{ address: 'jörg@example.org' }]);
    expect(email.status).toContain(
      'Final-Recipient: utf-8; a\\x{2B}\\x{F6}\\x{3D}\\x{5C}@b\\x{FC}cher.example',
    );
  });
});

describe('nothing that is given to a bounce', () => {
  const EVIL = [
    'x\r\nBcc: all@example.org\r\n\r\nspam',
    'x\nBcc: all@example.org',
    'x\rBcc: all@example.org',
    '\r\n--b-0123456789abcdef\r\nContent-Type: text/html\r\n\r\n<b>spam</b>',
    'x\0\u0085Bcc:\u2028Bcc: y',
    '"\r\n.\r\n',
    '=?utf-8?Q?=0D=0ABcc:_a?=',
    '>, <all@example.org',
  ];
  const members = ['reportingMta', 'sender', 'reason', 'messageId', 'recipients', 'head'] as const;
  const cases = members.flatMap((member) => EVIL.map((evil) => [member, evil] as const));

  it.each(cases)('as %s adds a field or a part: %j', async (member, evil) => {
    const value = { recipients: [evil], head: Buffer.from(evil) }[member as string] ?? evil;
    const bytes = build({ [member]: value });
    const email = await parse(bytes);
    expect(email.headers.map(({ key }) => key).sort()).toEqual([
      'auto-submitted',
      'content-type',
      'date',
      'from',
      'message-id',
      'mime-version',
      'subject',
      'to',
    ]);
    expect(email.to).toHaveLength(1);
    expect(email.html).toBeUndefined();
    expect(email.attachments).toHaveLength(2);
    expect(headerBlock(bytes)).toMatch(/boundary="[^"]+"$/);
    expect(bytes.toString().replaceAll('\r\n', '')).not.toMatch(/[\r\n]/);
    // Each group of the status has the fields that it should have, and no other.
    const names = email.status.match(/^[A-Za-z-]+(?=:)/gm);
    const recipient = ['Final-Recipient', 'Action', 'Status'];
    const count = member === 'recipients' ? 1 : 2;
    const groups = Array.from({ length: count }, () => recipient).flat();
    expect(names).toEqual(['Reporting-MTA', 'Arrival-Date', ...groups]);
  });

  it('can end a part, not even when it knows the boundary', async () => {
    const head = Buffer.from(
      'X: 1\r\n--b-0123456789abcdef--\r\n--b-0123456789abcdef_1\r\nY: 2\r\n',
    );
    const email = await parse(build({ head }));
    expect(email.original).toContain('Y: 2');
    expect(email.attachments).toHaveLength(2);
  });

  it('breaks its form, whatever it is', async () => {
    const anything = fc.string({ unit: 'binary', maxLength: 60 });
    const property = fc.asyncProperty(
      anything,
      anything,
      anything,
      fc.uint8Array({ maxLength: 200 }),
      async (sender, recipient, reason, head) => {
        const email = await parse(build({ sender, recipients: [recipient], reason, head }));
        expect(email.headers).toHaveLength(8);
        expect(email.attachments).toHaveLength(2);
        expect(email.status).toContain('Status: 5.7.1');
      },
    );
    await fc.assert(property, { numRuns: 200 });
  });

  it('is a boundary that is none', () => {
    for (const boundary of ['', 'a b', 'a"b', 'a\r\nb', 'x'.repeat(61)]) {
      expect(() => build({ boundary })).toThrow(/boundary/);
    }
  });
});
