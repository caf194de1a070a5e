import net from 'node:net';
import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { describe, expect, it } from 'vitest';
import { addressPolicy } from '../../src/webhooks/addresses.ts';

const { denies } = addressPolicy([]);

const METADATA_IPV4 = [
  '169.254.169.254',
  '169.254.170.2',
  '169.254.170.23',
  '100.100.100.200',
  '192.0.0.192',
  '168.63.129.16',
];
const METADATA_IPV6 = ['fd00:ec2::23', 'fd00:ec2::254', 'fd20:ce::254', 'FD00:0EC2:0:0:0:0:0:254'];

const hexGroups = (ipv4: string) => {
  const [a = 0, b = 0, c = 0, d = 0] = ipv4.split('.').map(Number);
  return `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
};

/** Every IPv6 form that carries an IPv4 address. */
const formsOf = (ipv4: string) => [
  `::ffff:${ipv4}`,
  `::FFFF:${hexGroups(ipv4)}`,
  `0:0:0:0:0:ffff:${ipv4}`,
  `::${ipv4}`,
  `::${hexGroups(ipv4)}`,
  `::ffff:0:${ipv4}`,
  `64:ff9b::${ipv4}`,
  `64:ff9b::${hexGroups(ipv4)}`,
  `64:ff9b:1::${ipv4}`,
  `2002:${hexGroups(ipv4)}::`,
  `2002:${hexGroups(ipv4)}::1`,
];

const INSIDE = [
  // IPv4, first and last of each range
  ['0.0.0.0', '0.255.255.255'],
  ['10.0.0.0', '10.255.255.255'],
  ['100.64.0.0', '100.127.255.255'],
  ['127.0.0.0', '127.255.255.255'],
  ['169.254.0.0', '169.254.255.255'],
  ['172.16.0.0', '172.31.255.255'],
  ['192.0.0.0', '192.0.0.255'],
  ['192.0.2.0', '192.0.2.255'],
  ['192.88.99.0', '192.88.99.255'],
  ['192.168.0.0', '192.168.255.255'],
  ['198.18.0.0', '198.19.255.255'],
  ['198.51.100.0', '198.51.100.255'],
  ['203.0.113.0', '203.0.113.255'],
  ['224.0.0.0', '255.255.255.255'],
  // IPv6
  ['::', '::1'],
  ['::2', '::ffff:ffff'],
  ['64:ff9b::', '64:ff9b::ffff:ffff'],
  ['64:ff9b:1::', '64:ff9b:1:ffff:ffff:ffff:ffff:ffff'],
  ['100::', '100::ffff:ffff:ffff:ffff'],
  ['2001::', '2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['2001:db8::', '2001:db8:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['2002::', '2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['3fff::', '3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['4000::', '5fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['fc00::', 'fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['fe80::', 'febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['fec0::', 'feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['ff00::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
].flat();

const PUBLIC = [
  ['1.1.1.1', '9.255.255.255', '11.0.0.0', '100.63.255.255', '100.128.0.0'],
  ['126.255.255.255', '128.0.0.0', '169.253.255.255', '169.255.0.0', '172.15.255.255'],
  ['172.32.0.0', '192.0.1.0', '192.0.3.0', '192.167.255.255', '192.169.0.0', '198.17.255.255'],
  ['198.20.0.0', '203.0.112.255', '203.0.114.0', '223.255.255.255'],
  ['2000::1', '2001:200::', '2001:4860:4860::8888', '2001:db7:ffff::', '2001:db9::', '2003::'],
  ['2606:4700::1111', '3ffe:ffff::1', '::ffff:8.8.8.8', '::ffff:808:808'],
].flat();

describe('an address policy without an allow-list', () => {
  it.each(INSIDE)('denies %s', (address) => expect(denies(address)).toBe(true));
  it.each(PUBLIC)('lets %s through', (address) => expect(denies(address)).toBe(false));

  it.each(['127.0.0.1', '10.1.2.3', ...METADATA_IPV4])(
    'denies %s in every IPv6 form that carries it',
    (ipv4) => {
      for (const form of formsOf(ipv4)) expect([form, denies(form)]).toEqual([form, true]);
    },
  );

  it('denies a gateway form even of a public address', () => {
    for (const form of formsOf('8.8.8.8').slice(3))
      expect([form, denies(form)]).toEqual([form, true]);
  });

  it.each([
    ['nothing', ''],
    ['a name', 'localhost'],
    ['a decimal number', '2130706433'],
    ['a hexadecimal number', '0x7f000001'],
    ['a short form', '127.1'],
    ['an octal form', '0177.0.0.1'],
    ['a leading zero', '08.8.8.8'],
    ['a public address in brackets', '[2606:4700::1111]'],
    ['a zone', 'fe80::1%eth0'],
    ['a zone behind a public address', '2606:4700::1111%eth0'],
    ['a range', '8.8.8.0/24'],
    ['a space', ' 8.8.8.8'],
    ['a final dot', '8.8.8.8.'],
    ['two gaps', '2606::1::1'],
    ['too many groups', '2606:1:2:3:4:5:6:7:8'],
  ])('denies what is no plain address: %s', (_, text) => expect(denies(text)).toBe(true));
});

describe('an allow-list', () => {
  it('lets its ranges through, and nothing beside them', () => {
    const policy = addressPolicy(['10.20.0.0/16', '192.168.7.9', 'fd12:3456::/32']);
    const inside = ['10.20.0.1', '::ffff:10.20.0.1', '192.168.7.9', 'fd12:3456::1', '8.8.8.8'];
    expect(inside.filter(policy.denies)).toEqual([]);
    const outside = ['10.21.0.1', '192.168.7.8', 'fd12:3457::1', '127.0.0.1', '::10.20.0.1'];
    expect(outside.filter(policy.denies)).toEqual(outside);
  });

  it('never opens the metadata services of clouds, in whatever form', () => {
    const all = ['0.0.0.0/0', '::/0', '::ffff:0:0/96', '64:ff9b::/96', '64:ff9b:1::/48'];
    const { denies } = addressPolicy([...all, '2002::/16', ...METADATA_IPV4, ...METADATA_IPV6]);
    expect(['10.0.0.1', '127.0.0.1', 'fe80::1', '::1'].filter(denies)).toEqual([]);
    const forms = [...METADATA_IPV4, ...METADATA_IPV4.flatMap(formsOf), ...METADATA_IPV6];
    expect(forms.filter((form) => !denies(form))).toEqual([]);
  });

  it('of Teredo never opens them either, which it carries inverted', () => {
    const { denies } = addressPolicy(['2001::/32']);
    expect(denies('2001:0:102:304:0:0:5601:5601')).toBe(true);
    expect(denies('2001:0:102:304:0:0:f7f7:f7f7')).toBe(false);
  });

  it('of IPv6 loopback is no matter of IPv4', () => {
    const { denies } = addressPolicy(['::1']);
    expect(denies('::1')).toBe(false);
    expect(denies('::')).toBe(true);
    expect(denies('127.0.0.1')).toBe(true);
  });

  it('of a NAT64 prefix lets public addresses through it, and no private ones', () => {
    const { denies } = addressPolicy(['64:ff9b::/96']);
    expect(denies('64:ff9b::8.8.8.8')).toBe(false);
    expect(denies('64:ff9b::10.0.0.1')).toBe(true);
    expect(addressPolicy(['64:ff9b::/96', '10.0.0.0/8']).denies('64:ff9b::10.0.0.1')).toBe(false);
  });

  it('of all IPv6 opens no IPv4 address', () => {
    const { denies } = addressPolicy(['::/0']);
    expect(denies('fe80::1')).toBe(false);
    expect(denies('127.0.0.1')).toBe(true);
    expect(denies('::ffff:127.0.0.1')).toBe(true);
  });

  it('takes a range written in mapped form for the IPv4 range it is', () => {
    const { denies } = addressPolicy(['::ffff:10.0.0.0/104']);
    expect(denies('10.1.2.3')).toBe(false);
    expect(denies('11.1.2.3')).toBe(false);
    expect(denies('127.0.0.1')).toBe(true);
  });

  it.each([
    '',
    'intranet',
    '10.0.0.0/33',
    '10.0.0.0/',
    '10.0.0.0/8/8',
    '::/129',
    'fe80::%1/64',
    '10/8',
  ])('refuses %o', (text) => expect(() => addressPolicy([text])).toThrow('is no CIDR'));
});

describe('ipaddr.js, as a second opinion', () => {
  const isPublic = (address: string) => ipaddr.process(address).range() === 'unicast';
  const AZURE = '168.63.129.16';
  const seed = { seed: 20_261_125, numRuns: 5_000 };

  it('agrees on any IPv4 address, plain and mapped', () => {
    const ipv4 = fc.oneof(
      fc.ipV4(),
      // Near the borders of the ranges, where mistakes live.
      fc
        .tuple(fc.constantFrom(...INSIDE, ...PUBLIC).filter(net.isIPv4), fc.nat(255))
        .map(([address, last]) => address.replace(/\d+$/, String(last))),
    );
    fc.assert(
      fc.property(ipv4, (address) => {
        fc.pre(address !== AZURE);
        expect(denies(address)).toBe(!isPublic(address));
        expect(denies(`::ffff:${address}`)).toBe(!isPublic(address));
      }),
      seed,
    );
  });

  it('agrees on any IPv6 address that IANA has given out, and calls no denied one public', () => {
    const group = fc.integer({ min: 0, max: 0xffff }).map((value) => value.toString(16));
    const first = fc.constantFrom('0', '64', '100', '2001', '2002', '2606', '2620', '3fff', 'fd00');
    const second = fc.constantFrom('0', '1', 'ff9b', 'db8', '4f', '200', '1ff', 'fff');
    const groups = fc
      .tuple(
        fc.oneof(first, group),
        fc.oneof(second, group),
        fc.array(group, { minLength: 6, maxLength: 6 }),
      )
      .map(([a, b, others]) => [a, b, ...others].join(':'));
    fc.assert(
      fc.property(fc.oneof(fc.ipV6(), groups), (address) => {
        const { parts } = ipaddr.parse(address) as ipaddr.IPv6;
        const isGivenOut = (parts[0] ?? 0) >> 13 === 1;
        if (!isPublic(address)) expect(denies(address)).toBe(true);
        else if (isGivenOut) expect(denies(address)).toBe(false);
      }),
      seed,
    );
  });
});
