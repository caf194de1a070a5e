import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HEAD_BYTES_MAX } from '../../src/domain/message-store.ts';
import { readMailHead, stripMboxLine } from '../../src/mail/mail-head.ts';

const latin1 = (text: string) => Buffer.from(text, 'latin1');
const utf8 = (text: string) => Buffer.from(text, 'utf8');
const subjectOf = (field: string) => readMailHead(utf8(`Subject: ${field}\r\n\r\n`))?.subject;
const isStorable = (text: string) => !/[\p{Cc}\p{Cs}]/u.test(text);

describe('readMailHead', () => {
  it('reads the four fields of a message', () => {
    const head = utf8(
      [
        'Received: from x',
        'From: "Ann" <ann@example.org>',
        'Date: Fri, 1 May 2026 07:42:13 +0000',
        'MESSAGE-ID: <1@example.org>',
        'Subject: Hello',
        '',
        'Subject: not this',
      ].join('\r\n'),
    );
    expect(readMailHead(head)).toEqual({
      subject: 'Hello',
      messageId: '<1@example.org>',
      from: '"Ann" <ann@example.org>',
      date: 'Fri, 1 May 2026 07:42:13 +0000',
      isWhole: true,
    });
  });

  it('has an empty subject and nulls for what is not there or is empty', () => {
    expect(readMailHead(utf8('X-A: b\nFrom:\nDate: \n\n'))).toEqual({
      subject: '',
      messageId: null,
      from: null,
      date: null,
      isWhole: true,
    });
  });

  it.each([
    ['nothing', ''],
    ['a mailbox line alone', 'From a@b Fri May  1 07:42:13 2026\n'],
    ['two mailbox lines', 'From a@b\nFrom c@d\nSubject: x\n\n'],
    ['an empty first line', '\r\nSubject: x\r\n\r\n'],
    ['a folded first line', ' Subject: x\r\n\r\n'],
    ['prose', 'Hello there: this is no mail\n\n'],
    ['a name of no characters', ': x\n\n'],
    ['a name that is not ASCII', 'Sübject: x\n\n'],
    ['HTML', '<!doctype html>a: b'],
    ['a zip', 'PK\u0003\u0004\u0014\0'],
  ])('is null for %s', (_, text) => expect(readMailHead(utf8(text))).toBeNull());

  it('is not null for the same with a field before it', () => {
    expect(readMailHead(utf8('From a@b\nX: y\n\n'))).not.toBeNull();
    expect(readMailHead(utf8('X: y'))).not.toBeNull();
  });

  it.each([
    ['CRLF', '\r\n'],
    ['LF', '\n'],
    ['a lone CR', '\r'],
    ['CR CR LF', '\r\r\n'],
  ])('takes %s for a line end', (_, end) => {
    const lines = ['From x', 'Subject: one', ' two', 'From: a@b', '', 'Date: body'];
    expect(readMailHead(utf8(lines.join(end)))).toMatchObject({
      subject: 'one two',
      from: 'a@b',
      date: null,
    });
  });

  it('takes the first of two fields of one name, and no field that another holds', () => {
    const head = utf8('Subject: first\nX-Note: a\n Subject: folded\nSubject: second\n more\n\n');
    expect(readMailHead(head)?.subject).toBe('first');
  });

  it('allows white space before the colon, and skips a line that is no field', () => {
    expect(readMailHead(utf8('X: y\n>From me\nSubject \t: hi\n\n'))?.subject).toBe('hi');
  });

  it.each([
    ['=?UTF-8?B?R3LDvMOfZQ==?=', 'Grüße'],
    ['=?iso-8859-1?Q?Gr=FC=DFe_an_alle?=', 'Grüße an alle'],
    ['=?utf-8?Q?a?= =?utf-8?Q?b?=\r\n\t=?utf-8?Q?c?= d', 'abc d'],
    ['=?utf-8?B?YWHD?= =?utf-8?B?vA==?= x', 'aaü x'],
    ['=?UTF-8?Q?=F0=9F=98?=\r\n =?UTF-8?Q?=80?=', '😀'],
    ['=?no-such-charset?Q?caf=E9?=', 'café'],
    ['=?shift_jis?B?k/qWew==?=', '日本'],
    ['=?windows-1252?Q?=93it=92s=94?=', '“it’s”'],
    ['=?utf-8?X?abc?=', '=?utf-8?X?abc?='],
    ['=?utf-8?Q?open', '=?utf-8?Q?open'],
  ])('decodes %j', (field, text) => expect(subjectOf(field)).toBe(text));

  it('reads raw bytes as UTF-8, and else as Windows-1252', () => {
    expect(subjectOf('Grüße 😀')).toBe('Grüße 😀');
    expect(readMailHead(latin1('Subject: Gr\xfc\xdfe \x80\n\n'))?.subject).toBe('Grüße €');
  });

  it('leaves no line end and no control character of encoded words', () => {
    expect(subjectOf('=?utf-8?Q?a=0D=0ABcc:_x=00=1B[2J=C2=81?=')).toBe(
      'a Bcc: x\ufffd\ufffd[2J\ufffd',
    );
    expect(subjectOf('=?utf-16be?B?2AAAAA==?=')).toBe('\ufffd\ufffd');
    expect(subjectOf('a\u2028b\0c')).toBe('a b\ufffdc');
  });

  it('cuts a subject at 998 characters and the rest at 500, never in a character', () => {
    const long = '😀'.repeat(2_000);
    const head = readMailHead(utf8(`Subject: x${long}\nFrom: x${long}\nMessage-ID: ${long}\n\n`));
    expect(head?.subject).toHaveLength(997);
    expect(head?.from).toHaveLength(499);
    expect(head?.messageId).toHaveLength(500);
    expect(isStorable(head?.subject ?? '\0')).toBe(true);
  });

  it('keeps UTF-8 apart from other charsets also where a long field is cut', () => {
    for (const padding of ['', 'a', 'ab', 'abc']) {
      expect(subjectOf(`${padding}${'😀'.repeat(20_000)}`)?.slice(0, 8)).toBe(
        `${padding}😀😀😀😀`.slice(0, 8),
      );
    }
  });

  it('knows whether the header block ended', () => {
    const open = Buffer.alloc(HEAD_BYTES_MAX + 10, 'X-A: b\n');
    expect(readMailHead(open)?.isWhole).toBe(false);
    expect(readMailHead(open.subarray(0, 1_000))?.isWhole).toBe(true);
    expect(readMailHead(Buffer.concat([utf8('A: b\n\n'), open]))?.isWhole).toBe(true);
  });

  it('looks at no byte beyond its bound', () => {
    const head = Buffer.alloc(HEAD_BYTES_MAX + 100, 'X-Abc: y');
    head.write('\nSubject: late\n\n', HEAD_BYTES_MAX);
    expect(readMailHead(head)?.subject).toBe('');
  });

  it('reads a view of a larger buffer without its neighbours', () => {
    const all = utf8('Subject: a\n\nSubject: b\n\n');
    expect(readMailHead(new Uint8Array(all.buffer, all.byteOffset + 12, 12))?.subject).toBe('b');
  });

  it.each([
    ['empty encoded words', 'Subject: ', '=?a?B?AAAA?= '],
    ['openings of encoded words', 'Subject: ', '=?a?q?=?'],
    ['carriage returns', 'Subject: x', '\r\r\r\r\n'],
    ['folded blanks', 'Subject: x', '\n '],
    ['a name without end', 'Subject', 'a'],
    ['blanks before a colon', 'Subject', ' '],
    ['short fields', '', 'a:\n'],
    ['mailbox lines', '', 'From '],
  ])('has an answer for 256 KiB of %s', (_, start, unit) => {
    const head = Buffer.alloc(HEAD_BYTES_MAX, unit);
    head.write(start);
    expect(() => readMailHead(head)).not.toThrow();
  });

  it('answers any bytes with null or with text that can be stored', () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 40 }),
      fc
        .constantFrom('Subject: ', 'From: ', '\r\n', '\r', '\n\n', '=?utf-8?Q?=00', '?=', '\ud800')
        .map(utf8),
    );
    const bytes = fc.array(piece, { maxLength: 30 }).map((pieces) => Buffer.concat(pieces));
    fc.assert(
      fc.property(bytes, fc.boolean(), (rest, isMail) => {
        const head = readMailHead(isMail ? Buffer.concat([utf8('A: b\n'), rest]) : rest);
        if (isMail) expect(head).not.toBeNull();
        const { subject = '', from, date, messageId } = head ?? {};
        return [subject, from, date, messageId].every((text) => isStorable(text ?? ''));
      }),
    );
  });
});

describe('stripMboxLine', () => {
  it.each<[string, number]>([
    ['From a@b Fri May  1\nSubject: x', 20],
    ['From a@b\r\nSubject: x', 10],
    ['From a@b\rSubject: x', 9],
    ['From: a@b\n', 0],
    ['from a@b\n', 0],
    ['>From a@b\n', 0],
    ['', 0],
  ])('of %j is %i', (text, offset) => expect(stripMboxLine(utf8(text))).toBe(offset));

  it('takes no long line for one', () => {
    expect(stripMboxLine(utf8(`From ${'a'.repeat(2_000)}\n`))).toBe(0);
  });
});
