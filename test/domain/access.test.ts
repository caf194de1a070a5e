import { describe, expect, it } from 'vitest';
import { parseCidr } from '../../src/cidr-text.ts';
import {
  type Authority,
  acceptedScopes,
  isNarrowed,
  type Operation,
  type Principal,
  permits,
  requireMayEnd,
  requireWithinAuthority,
  SCOPES,
  type Scope,
  sees,
} from '../../src/domain/access.ts';

const OWN = 7;
const FOREIGN = 8;

const principal = (scope: Scope, fields: Partial<Principal> = {}): Principal => ({
  type: 'api_key',
  id: 43,
  scope,
  mailDomain: null,
  owner: { type: 'api_key', id: '1' },
  rateLimitPerMinute: 100,
  expiresAt: null,
  allowedCidrs: null,
  ...fields,
});

// contract.md section 2, written out once more: who may do what.
const MATRIX: Readonly<Record<Operation, readonly Scope[]>> = {
  read: ['read-only', 'domain-admin', 'full-admin'],
  keys_read: ['read-only', 'quarantine-only', 'domain-admin', 'full-admin'],
  quarantine_read: ['read-only', 'quarantine-only', 'domain-admin', 'full-admin'],
  quarantine_act: ['quarantine-only', 'domain-admin', 'full-admin'],
  write: ['domain-admin', 'full-admin'],
};
const cells = Object.entries(MATRIX).flatMap(([operation, scopes]) =>
  SCOPES.map((scope) => [scope, operation as Operation, scopes.includes(scope)] as const),
);

describe('permits', () => {
  it.each(cells)('%s, %s: %s', (scope, operation, isAllowed) => {
    const narrowed = principal(scope, { mailDomain: OWN });
    expect(permits(narrowed, operation, 'mail_domain')).toBe(isAllowed);
    expect(permits(narrowed, operation, 'installation')).toBe(false);
    const whole = principal(scope);
    expect(permits(whole, operation, 'mail_domain')).toBe(isAllowed);
    expect(permits(whole, operation, 'installation')).toBe(isAllowed && scope !== 'domain-admin');
  });

  it.each(Object.entries(MATRIX))('%s is what X-Accepted-Scopes says', (operation, scopes) => {
    expect(acceptedScopes(operation as Operation, 'mail_domain')).toEqual(scopes);
    // A domain-admin is always narrowed, so no route of the whole installation takes one.
    expect(acceptedScopes(operation as Operation, 'installation')).toEqual(
      scopes.filter((scope) => scope !== 'domain-admin'),
    );
  });
});

describe('sees', () => {
  it.each(SCOPES)('%s, narrowed: its own mail domain and nothing else', (scope) => {
    const reader = principal(scope, { mailDomain: OWN });
    expect(isNarrowed(reader)).toBe(true);
    expect(sees(reader, OWN)).toBe(true);
    expect(sees(reader, FOREIGN)).toBe(false);
    expect(sees(reader, null)).toBe(false);
  });

  it.each(['read-only', 'quarantine-only', 'full-admin'] as const)('%s, whole: all', (scope) => {
    const reader = principal(scope);
    expect(isNarrowed(reader)).toBe(false);
    expect([OWN, FOREIGN, null].map((id) => sees(reader, id))).toEqual([true, true, true]);
  });

  it('shows nothing to a domain-admin that lost its mail domain', () => {
    const reader = principal('domain-admin');
    expect([OWN, null].map((id) => sees(reader, id))).toEqual([false, false]);
  });
});

describe('requireWithinAuthority', () => {
  const MAY = '2026-05-01T00:00:00.000000Z';
  const JUNE = '2026-06-01T00:00:00.000000Z';
  const wanted = (fields: Partial<Authority> = {}): Authority => ({
    scope: 'read-only',
    mailDomain: OWN,
    rateLimitPerMinute: 100,
    expiresAt: null,
    allowedCidrs: null,
    ...fields,
  });
  const admin = principal('domain-admin', { mailDomain: OWN });
  const cidrs = (...texts: string[]) => texts.map((text) => parseCidr(text).cidr!);
  const office = principal('full-admin', { allowedCidrs: cidrs('192.0.2.0/24', '2001:db8::/32') });

  it.each<[string, Principal, Authority]>([
    ['a domain-admin its own like', admin, wanted({ scope: 'domain-admin' })],
    ['a domain-admin a lower scope', admin, wanted({ scope: 'quarantine-only' })],
    ['a full-admin anything', principal('full-admin'), wanted({ rateLimitPerMinute: 1_000_000 })],
    ['a full-admin a full-admin', principal('full-admin'), wanted({ scope: 'full-admin' })],
    [
      'a narrowed full-admin a narrowed full-admin',
      principal('full-admin', { mailDomain: OWN }),
      wanted({ scope: 'full-admin' }),
    ],
    [
      'a key with an end the same end',
      principal('full-admin', { expiresAt: JUNE }),
      wanted({ expiresAt: JUNE }),
    ],
    [
      'a key with addresses narrower ones',
      office,
      wanted({ allowedCidrs: cidrs('192.0.2.128/25', '2001:db8::7', '192.0.2.0/24') }),
    ],
    ['a key without addresses any', admin, wanted({ allowedCidrs: cidrs('0.0.0.0/0') })],
    ['a key with addresses one that is closed', office, wanted({ allowedCidrs: [] })],
  ])('lets %s', (_, maker, authority) => {
    expect(() => requireWithinAuthority(maker, authority)).not.toThrow();
  });

  const mortal = principal('full-admin', { expiresAt: MAY });
  const twoBlocks = wanted({ allowedCidrs: cidrs('192.0.2.7', '192.0.3.0/24') });

  it.each<[string, Principal, Authority, string]>([
    ['a higher scope', admin, wanted({ scope: 'full-admin' }), 'scope'],
    ['another mail domain', admin, wanted({ mailDomain: FOREIGN }), 'mail_domain'],
    ['no mail domain', admin, wanted({ mailDomain: null }), 'mail_domain'],
    ['a higher rate', admin, wanted({ rateLimitPerMinute: 101 }), 'rate_limit_per_minute'],
    ['a longer life', mortal, wanted({ expiresAt: JUNE }), 'expires_at'],
    ['a life without end', mortal, wanted(), 'expires_at'],
    ['use from anywhere', office, wanted(), 'allowed_cidrs'],
    ['a wider block', office, wanted({ allowedCidrs: cidrs('192.0.2.0/23') }), 'allowed_cidrs'],
    ['one foreign block of two', office, twoBlocks, 'allowed_cidrs'],
    ['the other family', office, wanted({ allowedCidrs: cidrs('::/0') }), 'allowed_cidrs'],
  ])('refuses %s, and says what it is', (_, maker, authority, what) => {
    expect(() => requireWithinAuthority(maker, authority)).toThrow(
      expect.objectContaining({
        code: 'beyond_own_authority',
        message: `A key cannot give more than it has: ${what}.`,
      }),
    );
  });
});

describe('requireMayEnd', () => {
  const RANKS = { 'read-only': 0, 'quarantine-only': 0, 'domain-admin': 1, 'full-admin': 2 };
  const pairs = SCOPES.flatMap((own) => SCOPES.map((other) => [own, other] as const));

  it.each(pairs)('%s ending %s', (own, other) => {
    const end = () => requireMayEnd(principal(own, { mailDomain: OWN }), other);
    if (RANKS[other] <= RANKS[own]) expect(end).not.toThrow();
    else {
      expect(end).toThrow(
        expect.objectContaining({
          code: 'beyond_own_authority',
          message: expect.stringMatching(/higher scope/),
        }),
      );
    }
  });
});
