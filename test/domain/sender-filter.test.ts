import { describe, expect, it } from 'vitest';
import {
  type SenderFilterCommand,
  type SenderFilterEvent,
  senderFilter,
} from '../../src/domain/sender-filter.ts';
import { given } from '../support/given.ts';

const filter = given(senderFilter);

const MAY = '2026-05-01T00:00:00.000000Z';
const JUNE = '2026-06-01T00:00:00.000000Z';

const data = {
  kind: 'allow',
  scope: 'recipient',
  mail_domain: '7',
  expires_at: null,
  made_by: null,
} as const;
const created: SenderFilterEvent = { type: 'sender_filter.created', data };
const createdUntilJune: SenderFilterEvent = {
  type: 'sender_filter.created',
  data: { ...data, expires_at: JUNE },
};
const deleted: SenderFilterEvent = { type: 'sender_filter.deleted', data: {} };
const expired: SenderFilterEvent = { type: 'sender_filter.expired', data: {} };

const create: SenderFilterCommand = {
  type: 'CreateSenderFilter',
  data,
  sender: '@spam.example',
  recipient: 'ann@d7.example',
};
const remove: SenderFilterCommand = { type: 'DeleteSenderFilter' };
const expireAt = (now: string): SenderFilterCommand => ({ type: 'ExpireSenderFilter', now });

describe('CreateSenderFilter', () => {
  it('makes a filter, with whom it is about outside the line', () =>
    filter()
      .when(create)
      .records({
        ...created,
        personal: [
          { name: 'sender', value: '@spam.example', class: 'identity' },
          { name: 'recipient', value: 'ann@d7.example', class: 'identity' },
        ],
      }));
  it('commits to a recipient also where there is none', () =>
    filter()
      .when({
        ...create,
        data: { ...data, scope: 'global', mail_domain: null, made_by: 'message-1' },
        recipient: null,
      })
      .records({
        type: 'sender_filter.created',
        data: { ...data, scope: 'global', mail_domain: null, made_by: 'message-1' },
        personal: [
          { name: 'sender', value: '@spam.example', class: 'identity' },
          { name: 'recipient', value: null, class: 'identity' },
        ],
      }));
  it('records nothing for one that is there, or has ended since', () => {
    filter(created).when(create).recordsNothing();
    filter(created, deleted).when(create).recordsNothing();
    filter(createdUntilJune, expired).when(create).recordsNothing();
  });
});

describe('DeleteSenderFilter', () => {
  it('ends an active filter', () => {
    filter(created).when(remove).records(deleted);
    filter(createdUntilJune).when(remove).records(deleted);
  });
  it('refuses one that was never made, or has ended', () => {
    filter().when(remove).refuses('not_found');
    filter(created, deleted).when(remove).refuses('not_found');
    filter(createdUntilJune, expired).when(remove).refuses('not_found');
  });
});

describe('ExpireSenderFilter', () => {
  it('ends a filter at its time', () => {
    filter(createdUntilJune).when(expireAt(JUNE)).records(expired);
    filter(createdUntilJune).when(expireAt('2026-06-01T00:00:00.000001Z')).records(expired);
  });
  it('records nothing before', () => {
    filter(createdUntilJune).when(expireAt(MAY)).recordsNothing();
    filter(createdUntilJune).when(expireAt('2026-05-31T23:59:59.999999Z')).recordsNothing();
  });
  it('records nothing for one that has no time, has ended, or was never made', () => {
    filter(created).when(expireAt(JUNE)).recordsNothing();
    filter(createdUntilJune, deleted).when(expireAt(JUNE)).recordsNothing();
    filter(createdUntilJune, expired).when(expireAt(JUNE)).recordsNothing();
    filter().when(expireAt(JUNE)).recordsNothing();
  });
});

describe('a filter', () => {
  it.each([
    ['active', [created]],
    ['ended', [created, deleted]],
    ['ended', [createdUntilJune, expired]],
  ] as const)('is %s after that', (status, past) =>
    expect(past.reduce(senderFilter.evolve, senderFilter.initialState).status).toBe(status),
  );
});
