import { describe, expect, it } from 'vitest';
import { cutText, decodeHeaderText, toStorableText } from '../../src/mail/mail-text.ts';

describe('text for people', () => {
  it('is one line that can be stored', () => {
    expect(toStorableText(' a\r\n\tb\ud800c\x7f ', 100)).toBe('a b\ufffdc\ufffd');
    expect(toStorableText('abc', 2)).toBe('ab');
  });

  it('is cut between characters', () => {
    expect(cutText('a😀b', 2)).toBe('a');
    expect(cutText('a😀b', 3)).toBe('a😀');
  });

  it('is decoded from the bytes that Node gives as Latin-1', () => {
    expect(decodeHeaderText('Gr\xc3\xbc\xc3\x9fe =?utf-8?Q?=C3=A4?=', 100)).toBe('Grüße ä');
  });
});
