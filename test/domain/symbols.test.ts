import { describe, expect, it } from 'vitest';
import {
  distinctSymbols,
  namesToKeep,
  type RatedSymbol,
  reasonOf,
  symbolsOfText,
  toSymbol,
} from '../../src/domain/symbols.ts';

const rated = (name: string, score: number | null = null): RatedSymbol => ({ name, score });

describe('symbolsOfText', () => {
  it.each<[string, RatedSymbol[]]>([
    ['', []],
    [' , ', []],
    ['BAYES_SPAM', [rated('BAYES_SPAM')]],
    ['A, B,C  D', [rated('A'), rated('B'), rated('C'), rated('D')]],
    ['BAYES_SPAM(5.10)[99%]', [rated('BAYES_SPAM', 5.1)]],
    ['R_SPF_ALLOW(-0.20) [+ip4:192.0.2.1:c]', [rated('R_SPF_ALLOW', -0.2)]],
    ['A(1.20)\r\n\t[x],\r\n\tB(2)[]', [rated('A', 1.2), rated('B', 2)]],
    ['A(), B(much)', [rated('A'), rated('B')]],
  ])('of %j', (text, symbols) => expect(symbolsOfText(text)).toEqual(symbols));

  it('takes nothing of the brackets, where the message may speak', () => {
    const both = [rated('A', 1), rated('B', 2)];
    expect(symbolsOfText('A(1)[CLAM_VIRUS, PHISHING(9)], B(2)[RBL_X]')).toEqual(both);
    expect(symbolsOfText('A(1)  [CLAM_VIRUS], B(2)[,]')).toEqual(both);
    expect(symbolsOfText('A[CLAM_VIRUS], B')).toEqual([rated('A'), rated('B')]);
  });
});

describe('toSymbol', () => {
  it.each<[unknown, RatedSymbol]>([
    ['BAYES_SPAM', rated('BAYES_SPAM')],
    [{ name: 'BAYES_SPAM', score: 5.1, options: ['99%'] }, rated('BAYES_SPAM', 5.1)],
    [{ name: 'ZERO', score: 0 }, rated('ZERO', 0)],
    [{ name: 'TEXT', score: '5.1' }, rated('TEXT')],
    [{ name: 'ENDLESS', score: Number.POSITIVE_INFINITY }, rated('ENDLESS')],
    [{ name: 7, score: 1 }, rated('', 1)],
    [{}, rated('')],
    [null, rated('')],
    [7, rated('')],
  ])('of %j is %j', (item, symbol) => expect(toSymbol(item)).toEqual(symbol));
});

describe('distinctSymbols', () => {
  it('keeps each as it was told first, in that order', () => {
    const told = [rated('B', 2), rated('A', 1), rated('B', 9), rated('A')];
    expect(distinctSymbols(told)).toEqual([rated('B', 2), rated('A', 1)]);
  });

  it.each(['A', 'x9_.:-Z', 'N'.repeat(128)])('keeps the name %s', (name) =>
    expect(distinctSymbols([rated(name)])).toEqual([rated(name)]),
  );

  it.each(['', '<b>', 'A B', 'A<', '<A', 'Ü', 'N'.repeat(129)])('leaves out the name %j', (name) =>
    expect(distinctSymbols([rated(name), rated('A')])).toEqual([rated('A')]),
  );
});

describe('namesToKeep', () => {
  it('are the first 200', () => {
    const many = Array.from({ length: 201 }, (_, n) => rated(`S${n}`, n));
    expect(namesToKeep(many)).toEqual(many.slice(0, 200).map(({ name }) => name));
    expect(namesToKeep(many.slice(0, 2))).toEqual(['S0', 'S1']);
  });
});

describe('reasonOf', () => {
  it.each<[string, RatedSymbol[]]>([
    ['virus', [rated('CLAM_VIRUS', 15)]],
    ['virus', [rated('CLAM_VIRUS_ENCRYPTED', 0)]],
    ['virus', [rated('VIRUS_FOUND')]],
    ['virus', [rated('ESET_VIRUS_ANY', 1)]],
    ['phishing', [rated('PHISHING', 4)]],
    ['phishing', [rated('HACKED_PHISH_URL')]],
    ['sandbox', [rated('MY_SANDBOX', 4)]],
    ['rbl', [rated('RBL_SPAMHAUS', 4)]],
    ['rbl', [rated('URIBL_RBL', 4)]],
    ['spam', [rated('BAYES_SPAM', 4)]],
    ['spam', []],
  ])('is %s for %j', (reason, symbols) => expect(reasonOf(symbols, 12)).toBe(reason));

  it('is the gravest of several', () => {
    const all = ['RBL_X', 'SANDBOX_X', 'PHISHING', 'CLAM_VIRUS'].map((name) => rated(name, 1));
    const reasons = [1, 2, 3, 4].map((count) => reasonOf(all.slice(0, count), 12));
    expect(reasons).toEqual(['rbl', 'sandbox', 'phishing', 'virus']);
  });

  it.each([
    'RBL_VIRUS',
    'RBL_CLAM_VIRUS',
    'RBL_SENDER_VIRUS',
    'ANTIVIRUS',
    'NO_CLAMVIRUS',
    'A_CLAMVIRUS_',
  ])('is no virus for %s', (name) =>
    expect(reasonOf([rated(name, 0), rated('BAYES_SPAM', 9)], 12)).toBe('spam'),
  );

  it('hears nobody who speaks for the message', () => {
    const good = ['CLAM_VIRUS', 'PHISHING', 'SANDBOX_CLEAN'].map((name) => rated(name, -0.1));
    expect(reasonOf(good, 12)).toBe('spam');
  });

  it('is a blocklist when blocklists gave more than half, not counting what spoke for it', () => {
    const listed = rated('RBL_X', 5);
    expect(reasonOf([listed, rated('BAYES_SPAM', 4.9)], 9.9)).toBe('rbl');
    expect(reasonOf([listed, rated('BAYES_SPAM', 5)], 10)).toBe('spam');
    expect(reasonOf([listed, rated('BAYES_SPAM', 5), rated('R_SPF_ALLOW', -1)], 9)).toBe('spam');
    expect(reasonOf([rated('RBL_X', -1), rated('BAYES_SPAM', 0)], 0)).toBe('spam');
    expect(reasonOf([listed, rated('UNRATED')], 5)).toBe('rbl');
    expect(reasonOf([rated('RBL_X'), rated('BAYES_SPAM', 5)], 5)).toBe('spam');
    expect(reasonOf([rated('HARBL_X', 5)], 5)).toBe('spam');
  });

  it('goes by the name of a blocklist where no symbol has a score', () => {
    expect(reasonOf([rated('BAYES_SPAM'), rated('RBL_X')], 12)).toBe('rbl');
    expect(reasonOf([rated('RBL_X')], null)).toBe('rbl');
  });

  it('is unscanned without symbols and without a score, which is not a score of 0', () => {
    expect(reasonOf([], null)).toBe('unscanned');
    expect(reasonOf([], 0)).toBe('spam');
    expect(reasonOf([rated('BAYES_SPAM')], null)).toBe('unscanned');
  });
});
