import { describe, expect, it } from 'vitest';
import {
  type ApiKeyCommand,
  type ApiKeyCreated,
  type ApiKeyDeleted,
  type ApiKeyExpired,
  type ApiKeyRevoked,
  type ApiKeyRotated,
  type ApiKeyUpdated,
  apiKey,
} from '../../src/domain/api-key.ts';
import { given } from '../support/given.ts';

const key = given(apiKey);

const MAY = '2026-05-01T00:00:00.000000Z';
const JUNE = '2026-06-01T00:00:00.000000Z';
const JULY = '2026-07-01T00:00:00.000000Z';

const names = { name: 'SIEM', key_prefix: 'nmg_0123456789abcdef' };
const createdData = {
  scope: 'read-only',
  mail_domain: null,
  rate_limit_per_minute: 100,
  expires_at: null,
  owner: { type: 'api_key', id: '1' },
  predecessor: null,
  bucket: '43',
} as const;
const created: ApiKeyCreated = { type: 'api_key.created', data: createdData };
const restricted: ApiKeyCreated = {
  type: 'api_key.created',
  data: { ...createdData, restricted: true },
};
const createdUntilJune: ApiKeyCreated = {
  type: 'api_key.created',
  data: { ...createdData, expires_at: JUNE },
};
const rotated: ApiKeyRotated = {
  type: 'api_key.rotated',
  data: { successor: '44', grace_until: MAY },
};
const revokedFact: ApiKeyRevoked = { type: 'api_key.revoked', data: {} };
const expired: ApiKeyExpired = { type: 'api_key.expired', data: { expired_at: JUNE } };
const deleted: ApiKeyDeleted = { type: 'api_key.deleted', data: {} };

const create: ApiKeyCommand = { type: 'CreateApiKey', data: createdData, names };
const rename: ApiKeyCommand = { type: 'UpdateApiKey', name: 'Splunk' };
const rotate: ApiKeyCommand = { type: 'RotateApiKey', successor: '44', graceUntil: JULY };
const revoke: ApiKeyCommand = { type: 'RevokeApiKey', reason: 'leaked' };
const expire: ApiKeyCommand = { type: 'ExpireApiKey', now: JUNE };
const remove: ApiKeyCommand = { type: 'DeleteApiKey' };

const personalCidrs = (...value: string[]) =>
  [{ name: 'allowed_cidrs', value, class: 'identity' }] as const;

const revokedFor = (reason: string | null): ApiKeyRevoked => ({
  ...revokedFact,
  personal: [{ name: 'reason', value: reason, class: 'content' }],
});

describe('CreateApiKey', () => {
  it('creates a key, its names apart from its data', () =>
    key().when(create).records({ type: 'api_key.created', data: createdData, names }));
  it('says in the line that there are addresses, and keeps them out of it', () =>
    key()
      .when({ ...create, allowedCidrs: ['192.0.2.0/24'] })
      .records({ ...restricted, names, personal: personalCidrs('192.0.2.0/24') }));
  it.each([
    ['active', [created]],
    ['rotated', [created, rotated]],
    ['revoked', [created, revokedFact]],
    ['expired', [createdUntilJune, expired]],
    ['deleted', [created, deleted]],
  ])('refuses to create a %s key again', (_, past) =>
    key(...past)
      .when(create)
      .refuses('already_exists'),
  );
});

describe('UpdateApiKey', () => {
  const updated = (rate: number, expiresAt: string | null): ApiKeyUpdated => ({
    type: 'api_key.updated',
    data: { rate_limit_per_minute: rate, expires_at: expiresAt },
  });

  it('sets a name and repeats the rest', () =>
    key(created)
      .when(rename)
      .records({ ...updated(100, null), names: { name: 'Splunk' } }));
  it('sets a rate and leaves the expiry', () =>
    key(createdUntilJune)
      .when({ type: 'UpdateApiKey', rateLimitPerMinute: 600 })
      .records(updated(600, JUNE)));
  it('sets an expiry and leaves the rate', () =>
    key(created).when({ type: 'UpdateApiKey', expiresAt: JULY }).records(updated(100, JULY)));
  it('takes an expiry away', () =>
    key(createdUntilJune)
      .when({ type: 'UpdateApiKey', expiresAt: null })
      .records(updated(100, null)));
  it('builds on an earlier update', () =>
    key(created, updated(600, JULY))
      .when({ type: 'UpdateApiKey', rateLimitPerMinute: 700 })
      .records(updated(700, JULY)));
  it.each([
    ['sets', created],
    ['replaces', restricted],
  ])('%s addresses', (_, past) =>
    key(past)
      .when({ type: 'UpdateApiKey', allowedCidrs: ['192.0.2.7/32'] })
      .records({
        type: 'api_key.updated',
        data: { ...updated(100, null).data, restricted: true },
        personal: personalCidrs('192.0.2.7/32'),
      }),
  );
  it('takes addresses away', () =>
    key(restricted)
      .when({ type: 'UpdateApiKey', allowedCidrs: null })
      .records({
        type: 'api_key.updated',
        data: { ...updated(100, null).data, restricted: false },
      }));
  it('does not tell addresses again with another change', () =>
    key(restricted)
      .when({ type: 'UpdateApiKey', rateLimitPerMinute: 600 })
      .records(updated(600, null)));
  it('still knows of addresses after another change', () =>
    key(restricted, updated(600, null))
      .when({ type: 'UpdateApiKey', allowedCidrs: null })
      .records({
        type: 'api_key.updated',
        data: { ...updated(600, null).data, restricted: false },
      }));
  it('records nothing when there are no addresses to take away', () =>
    key(created).when({ type: 'UpdateApiKey', allowedCidrs: null }).recordsNothing());
  it('records nothing when nothing changes', () =>
    key(created)
      .when({ type: 'UpdateApiKey', rateLimitPerMinute: 100, expiresAt: null })
      .recordsNothing());
  it('records nothing when nothing is given', () =>
    key(created).when({ type: 'UpdateApiKey' }).recordsNothing());
  it.each([
    ['rotated', [created, rotated]],
    ['revoked', [created, revokedFact]],
    ['expired', [createdUntilJune, expired]],
  ])('refuses to change a %s key', (_, past) =>
    key(...past)
      .when(rename)
      .refuses('state_conflict'),
  );
});

describe('RotateApiKey', () => {
  it('names the successor and the end of the grace period', () =>
    key(created)
      .when(rotate)
      .records({ type: 'api_key.rotated', data: { successor: '44', grace_until: JULY } }));
  it('never puts the own expiry off by a grace period', () =>
    key(createdUntilJune)
      .when(rotate)
      .records({ type: 'api_key.rotated', data: { successor: '44', grace_until: JUNE } }));
  it('keeps a grace period that ends before the expiry', () =>
    key(createdUntilJune)
      .when({ ...rotate, graceUntil: MAY })
      .records({ type: 'api_key.rotated', data: { successor: '44', grace_until: MAY } }));
  it('records nothing for the same successor again', () =>
    key(created, rotated).when(rotate).recordsNothing());
  it('refuses a second successor', () =>
    key(created, rotated)
      .when({ ...rotate, successor: '45' })
      .refuses('state_conflict'));
  it.each([
    ['revoked', [created, revokedFact]],
    ['revoked after its rotation', [created, rotated, revokedFact]],
    ['expired', [createdUntilJune, expired]],
  ])('refuses a %s key', (_, past) =>
    key(...past)
      .when(rotate)
      .refuses('state_conflict'),
  );
});

describe('RevokeApiKey', () => {
  it('revokes an active key, its reason as a personal value', () =>
    key(created).when(revoke).records(revokedFor('leaked')));
  it('commits to a reason also when there is none', () =>
    key(created).when({ type: 'RevokeApiKey', reason: null }).records(revokedFor(null)));
  it('cuts a grace period short', () =>
    key(created, rotated).when(revoke).records(revokedFor('leaked')));
  it('records nothing for a key already revoked', () =>
    key(created, revokedFact).when(revoke).recordsNothing());
  it('records nothing for a key that has expired', () =>
    key(createdUntilJune, expired).when(revoke).recordsNothing());
});

describe('ExpireApiKey', () => {
  it('ends a key at its expiry', () =>
    key(createdUntilJune)
      .when(expire)
      .records({ type: 'api_key.expired', data: { expired_at: JUNE } }));
  it('says when it expired, not when that was noticed', () =>
    key(createdUntilJune)
      .when({ type: 'ExpireApiKey', now: JULY })
      .records({ type: 'api_key.expired', data: { expired_at: JUNE } }));
  it('records nothing before the expiry', () =>
    key(createdUntilJune)
      .when({ type: 'ExpireApiKey', now: '2026-05-31T23:59:59.999999Z' })
      .recordsNothing());
  it('goes by an expiry that was put off', () =>
    key(createdUntilJune, {
      type: 'api_key.updated',
      data: { rate_limit_per_minute: 100, expires_at: JULY },
    })
      .when(expire)
      .recordsNothing());
  it.each([
    ['that never expires', [created]],
    ['already expired', [createdUntilJune, expired]],
    ['revoked', [createdUntilJune, revokedFact]],
    ['rotated', [createdUntilJune, rotated]],
  ])('records nothing for a key %s', (_, past) =>
    key(...past)
      .when(expire)
      .recordsNothing(),
  );
});

describe('DeleteApiKey', () => {
  it.each([
    ['active', [created]],
    ['rotated', [created, rotated]],
    ['revoked', [created, revokedFact]],
    ['expired', [createdUntilJune, expired]],
  ])('deletes a key that is %s', (_, past) =>
    key(...past)
      .when(remove)
      .records(deleted),
  );
});

describe('a key that is not there', () => {
  it.each([
    ['UpdateApiKey', rename],
    ['RotateApiKey', rotate],
    ['RevokeApiKey', revoke],
    ['ExpireApiKey', expire],
    ['DeleteApiKey', remove],
  ])('refuses %s before it was created and after it was deleted', (_, command) => {
    key().when(command).refuses('not_found');
    key(created, deleted).when(command).refuses('not_found');
    key(created, revokedFact, deleted).when(command).refuses('not_found');
  });
});

describe('a key', () => {
  it.each([
    ['active', [created]],
    ['rotated', [created, rotated]],
    ['revoked', [created, revokedFact]],
    ['expired', [createdUntilJune, expired]],
    ['deleted', [created, deleted]],
  ] as const)('is %s after that', (status, past) =>
    expect(past.reduce(apiKey.evolve, apiKey.initialState).status).toBe(status),
  );
});
