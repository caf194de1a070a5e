import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseCidr, readCidrs, toSingle } from '../src/cidr-text.ts';
import { allows, type Cidr, holds, isWithin } from '../src/domain/cidr.ts';

const cidr = (text: string): Cidr => {
  const parsed = parseCidr(text);
  if (parsed.cidr === null) throw new Error(`${text} ${parsed.issue}`);
  return parsed.cidr;
};

/** An address as a number, and as text, by nothing that src has. */
type Family = Readonly<{ width: number; toText: (value: bigint) => string }>;
const V4: Family = {
  width: 32,
  toText: (value) => [24n, 16n, 8n, 0n].map((by) => String((value >> by) & 0xffn)).join('.'),
};
const V6: Family = {
  width: 128,
  toText: (value) =>
    Array.from({ length: 8 }, (_, i) =>
      ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16),
    ).join(':'),
};
const isMapped = (value: bigint) => value >> 32n === 0xffffn;
const networkOf = (value: bigint, width: number, bits: number): bigint => {
  const left = BigInt(width - bits);
  return (value >> left) << left;
};

type Drawn = Readonly<{
  family: Family;
  value: bigint;
  bits: number;
  flipped: number | null;
  edge: 'first' | 'last' | 'before' | 'behind' | 'near';
}>;

/** An address, a prefix, and another address that is likely to differ in few bits, often at the edge. */
const cases: fc.Arbitrary<Drawn> = fc
  .constantFrom(V4, V6)
  .chain((family) =>
    fc.record({
      family: fc.constant(family),
      value: fc.bigInt(0n, (1n << BigInt(family.width)) - 1n),
      bits: fc.integer({ min: 0, max: family.width }),
      flipped: fc.option(fc.integer({ min: 0, max: family.width - 1 }), { nil: null }),
      edge: fc.constantFrom(...(['first', 'last', 'before', 'behind', 'near'] as const)),
    }),
  )
  .filter(({ family, value }) => family === V4 || !isMapped(value));

function probeOf({ family, value, bits, flipped, edge }: Drawn): bigint {
  const size = 1n << BigInt(family.width - bits);
  const first = networkOf(value, family.width, bits);
  const most = (1n << BigInt(family.width)) - 1n;
  const near = flipped === null ? value : value ^ (1n << BigInt(flipped));
  const probe = { first, last: first + size - 1n, before: first - 1n, behind: first + size, near }[
    edge
  ];
  return probe < 0n ? 0n : probe > most ? most : probe;
}

describe('holds', () => {
  it('agrees with the comparison of numbers, at the edges of blocks and near them', () => {
    const seen = new Set<boolean>();
    fc.assert(
      fc.property(cases, (drawn) => {
        const { family, value, bits } = drawn;
        const probe = probeOf(drawn);
        fc.pre(family === V4 || !isMapped(probe));
        const first = networkOf(value, family.width, bits);
        const size = 1n << BigInt(family.width - bits);
        const wanted = probe >= first && probe < first + size;
        seen.add(wanted);
        const outer = cidr(`${family.toText(first)}/${bits}`);
        expect(holds(outer, toSingle(family.toText(probe))!)).toBe(wanted);
      }),
      { numRuns: 2_000 },
    );
    expect([...seen].sort()).toEqual([false, true]);
  });

  it('of two blocks says whether the one lies in the other, as their ends do', () => {
    const block = (family: Family) =>
      fc.tuple(
        fc.bigInt(0n, (1n << BigInt(family.width)) - 1n),
        fc.integer({ min: 0, max: family.width }),
        fc.integer({ min: 0, max: family.width }),
      );
    fc.assert(
      fc.property(block(V4), ([value, a, b]) => {
        const ends = (bits: number) => {
          const first = networkOf(value, 32, bits);
          return { first, last: first + (1n << BigInt(32 - bits)) - 1n };
        };
        const [one, other] = [ends(a), ends(b)];
        const outer = cidr(`${V4.toText(one.first)}/${a}`);
        const inner = cidr(`${V4.toText(other.first)}/${b}`);
        expect(holds(outer, inner)).toBe(one.first <= other.first && other.last <= one.last);
      }),
      { numRuns: 1_000 },
    );
  });

  it.each([
    ['192.0.2.0/24', '2001:db8::1'],
    ['0.0.0.0/0', '::1'],
    ['::/0', '192.0.2.1'],
    ['::/0', '::ffff:192.0.2.1'],
  ])('%s does not hold %s, which is of the other family', (outer, inner) => {
    expect(holds(cidr(outer), cidr(inner))).toBe(false);
  });
});

describe('allows and isWithin', () => {
  const office = [cidr('192.0.2.0/25'), cidr('192.0.2.128/25')];
  it('allow everything without a list, and nothing with an empty one', () => {
    const one = cidr('192.0.2.1');
    expect([allows(null, one), allows([], one), allows(office, one)]).toEqual([true, false, true]);
    expect([isWithin(null, null), isWithin([one], null), isWithin(null, [one])]).toEqual([
      true,
      true,
      false,
    ]);
  });
  it('do not take two halves for their whole', () => {
    expect(isWithin([cidr('192.0.2.0/24')], office)).toBe(false);
  });
});

describe('parseCidr', () => {
  it.each([
    ['192.0.2.7', '192.0.2.7/32'],
    ['192.0.2.0/24', '192.0.2.0/24'],
    ['0.0.0.0/0', '0.0.0.0/0'],
    ['2001:DB8:0:0::/32', '2001:db8::/32'],
    ['::1', '::1/128'],
    ['::/0', '::/0'],
    ['::ffff:192.0.2.7', '192.0.2.7/32'],
    ['::ffff:c000:200/120', '192.0.2.0/24'],
    ['::ffff:0:0/96', '0.0.0.0/0'],
    ['fe80::/10', 'fe80::/10'],
  ])('takes %s as %s', (text, canonical) => {
    expect(cidr(text).text).toBe(canonical);
  });

  it('gives the same again for what it gave', () => {
    fc.assert(
      fc.property(cases, ({ family, value, bits }) => {
        const { text } = cidr(`${family.toText(networkOf(value, family.width, bits))}/${bits}`);
        expect(cidr(text).text).toBe(text);
      }),
    );
  });

  it.each(malformed())('refuses %j', (text) => {
    expect(parseCidr(text)).toEqual({ cidr: null, issue: expect.stringMatching(/^must /) });
  });

  it.each([
    ['192.0.2.7/24', '192.0.2.0/24'],
    ['192.0.2.129/25', '192.0.2.128/25'],
    ['10.0.0.1/0', '0.0.0.0/0'],
    ['2001:db8::1/32', '2001:db8::/32'],
    ['::ffff:192.0.2.7/120', '192.0.2.0/24'],
    ['::ffff:0:0/95', '::fffe:0:0/95'],
  ])('refuses the host bits of %s, and names %s', (text, network) => {
    expect(parseCidr(text).issue).toBe(`has host bits set: the network is ${network}`);
  });
});

function malformed(): string[] {
  return [
    '',
    '/',
    '/24',
    '192.0.2.0/',
    '192.0.2.0/33',
    '192.0.2.0/-1',
    '192.0.2.0/024',
    '192.0.2.0/2 4',
    '192.0.2.0/1e1',
    '192.0.2.0/24/24',
    '192.0.2',
    '192.0.2.0.0',
    '192.0.2.256',
    '192.0.02.1',
    '0x7f.0.0.1',
    '2130706433',
    ' 192.0.2.0/24',
    '192.0.2.0/255.255.255.0',
    '2001:db8::/129',
    '2001:db8:::/32',
    'fe80::1%eth0',
    '[::1]',
    'localhost',
    'example.com/24',
    '*',
  ];
}

describe('readCidrs', () => {
  it('reads what was written', () => {
    expect(readCidrs(['192.0.2.0/24']).map(({ text }) => text)).toEqual(['192.0.2.0/24']);
  });
  it.each([
    ['null', null],
    ['text', '192.0.2.0/24'],
    ['an object', { 0: '192.0.2.0/24' }],
    ['one bad block of two', ['192.0.2.0/24', '192.0.2.0/99']],
    ['one number of two', ['192.0.2.0/24', 7]],
  ])('allows nothing for %s', (_, stored) => expect(readCidrs(stored)).toEqual([]));
});

describe('toSingle', () => {
  it.each([
    ['192.0.2.7', '192.0.2.7/32'],
    ['::ffff:192.0.2.7', '192.0.2.7/32'],
    ['fe80::1%eth0', 'fe80::1/128'],
  ])('reads %s', (address, text) => expect(toSingle(address)?.text).toBe(text));
  it.each(['', 'unknown', '192.0.2.0/24', '192.0.2.7%eth0', '0x7f.1'])('is null for %j', (text) =>
    expect(toSingle(text)).toBeNull(),
  );
});
