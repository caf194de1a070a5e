import { describe, expect, it } from 'vitest';
import {
  type QuarantineBulkCommand,
  type QuarantineBulkEvent,
  quarantineBulk,
} from '../../src/domain/quarantine-bulk.ts';
import { given } from '../support/given.ts';

const job = given(quarantineBulk);

const data = {
  action: 'release',
  class: null,
  dry_run: false,
  messages: 3,
  by: 'filter',
} as const;
const requested: QuarantineBulkEvent = { type: 'quarantine.bulk_requested', data };
const cancelled: QuarantineBulkEvent = { type: 'quarantine.bulk_cancelled', data: {} };
const counts = { released: 2, conflict: 1 };
const ended: QuarantineBulkEvent = { type: 'quarantine.bulk_ended', data: { counts } };

const request: QuarantineBulkCommand = {
  type: 'RequestBulk',
  data,
  reason: 'campaign',
  filter: '{"sender":"a@spam.example"}',
};
const cancel: QuarantineBulkCommand = { type: 'CancelBulk' };
const end: QuarantineBulkCommand = { type: 'EndBulk', counts };

describe('RequestBulk', () => {
  it('begins a job, with its reason and its filter outside the line', () =>
    job()
      .when(request)
      .records({
        ...requested,
        personal: [
          { name: 'reason', value: 'campaign', class: 'content' },
          { name: 'filter', value: '{"sender":"a@spam.example"}', class: 'content' },
        ],
      }));
  it('commits to both also where there are none', () =>
    job()
      .when({ ...request, data: { ...data, by: 'ids' }, reason: null, filter: null })
      .records({
        type: 'quarantine.bulk_requested',
        data: { ...data, by: 'ids' },
        personal: [
          { name: 'reason', value: null, class: 'content' },
          { name: 'filter', value: null, class: 'content' },
        ],
      }));
  it('records nothing for a job that is there', () => {
    job(requested).when(request).recordsNothing();
    job(requested, cancelled).when(request).recordsNothing();
    job(requested, ended).when(request).recordsNothing();
  });
});

describe('CancelBulk', () => {
  it('stops a running job', () => job(requested).when(cancel).records(cancelled));
  it('records nothing for one that was stopped', () =>
    job(requested, cancelled).when(cancel).recordsNothing());
  it('refuses one that has ended, stopped or not', () => {
    job(requested, ended).when(cancel).refuses('state_conflict');
    job(requested, cancelled, ended).when(cancel).refuses('state_conflict');
  });
  it('refuses one that was never begun', () => job().when(cancel).refuses('not_found'));
});

describe('EndBulk', () => {
  it('ends a job, also one that was stopped', () => {
    job(requested).when(end).records(ended);
    job(requested, cancelled).when(end).records(ended);
  });
  it('records nothing for one that has ended', () => {
    job(requested, ended)
      .when({ type: 'EndBulk', counts: { released: 3 } })
      .recordsNothing();
    job(requested, cancelled, ended).when(end).recordsNothing();
  });
  it('refuses one that was never begun', () => job().when(end).refuses('not_found'));
});

describe('a job', () => {
  it.each([
    ['running', [requested]],
    ['cancelled', [requested, cancelled]],
    ['ended', [requested, ended]],
  ] as const)('is %s after that', (status, past) =>
    expect(past.reduce(quarantineBulk.evolve, quarantineBulk.initialState).status).toBe(status),
  );
});
