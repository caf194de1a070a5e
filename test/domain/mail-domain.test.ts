import { describe, it } from 'vitest';
import {
  type MailDomainCommand,
  type MailDomainCreated,
  type MailDomainDeleted,
  type MailDomainSettings,
  type MailDomainUpdated,
  mailDomain,
} from '../../src/domain/mail-domain.ts';
import { given } from '../support/given.ts';
import { settings } from '../support/mail-domain-settings.ts';

const domain = given(mailDomain);

const backend = {
  name: 'backend_servers',
  value: ['mx.example.com:25'],
  class: 'identity',
} as const;
const created: MailDomainCreated = { type: 'mail_domain.created', data: { id: '7', settings } };
const deleted: MailDomainDeleted = { type: 'mail_domain.deleted', data: { id: '7' } };
const updated = (changes: Partial<MailDomainSettings>): MailDomainUpdated => ({
  type: 'mail_domain.updated',
  data: { id: '7', settings: { ...settings, ...changes } },
});

const create: MailDomainCommand = {
  type: 'CreateMailDomain',
  id: '7',
  name: 'example.com',
  settings,
  backendServers: ['mx.example.com:25'],
};
const update = (
  changes: Partial<MailDomainSettings>,
  backendServers: readonly string[] | null = null,
): MailDomainCommand => ({
  type: 'UpdateMailDomain',
  id: '7',
  changes,
  backendServers,
});
const remove: MailDomainCommand = { type: 'DeleteMailDomain', id: '7' };
const unsound = { quarantine_threshold: 18.5 };
const issues = [{ path: 'quarantine_threshold', message: 'must not be above reject_threshold' }];

describe('CreateMailDomain', () => {
  it('registers a name, which like its backends stands outside the line', () =>
    domain()
      .when(create)
      .records({ ...created, personal: [backend], names: { name: 'example.com' } }));
  it('commits to its backends also when there are none', () =>
    domain()
      .when({ ...create, backendServers: [] })
      .records({
        ...created,
        personal: [{ ...backend, value: [] }],
        names: { name: 'example.com' },
      }));
  it('makes another mail domain of a name that was given up', () =>
    domain(created, deleted)
      .when({ ...create, id: '8' })
      .records({
        type: 'mail_domain.created',
        data: { id: '8', settings },
        personal: [backend],
        names: { name: 'example.com' },
      }));
  it('refuses a name that is taken', () =>
    domain(created)
      .when({ ...create, id: '8' })
      .refuses('already_exists'));
  it('refuses to reject before it quarantines', () =>
    domain()
      .when({ ...create, settings: { ...settings, ...unsound } })
      .refuses('validation_failed', { issues }));
  it('takes equal thresholds', () =>
    domain()
      .when({ ...create, settings: { ...settings, quarantine_threshold: 18 } })
      .records({
        type: 'mail_domain.created',
        data: { id: '7', settings: { ...settings, quarantine_threshold: 18 } },
        personal: [backend],
        names: { name: 'example.com' },
      }));
});

describe('UpdateMailDomain', () => {
  it.each<[string, Partial<MailDomainSettings>]>([
    ['direction', { direction: 'outbound' }],
    ['active', { active: false }],
    ['quarantine_threshold', { quarantine_threshold: 8 }],
    ['reject_threshold', { reject_threshold: 20 }],
    ['dkim_active', { dkim_active: true }],
    ['dmarc_reporting', { dmarc_reporting: true }],
    ['tenant_id', { tenant_id: 'acme' }],
    ['quarantine_retention_days', { quarantine_retention_days: 7 }],
  ])('sets %s and leaves the backends out', (_, changes) =>
    domain(created).when(update(changes)).records(updated(changes)),
  );
  it('sets the backends', () =>
    domain(created)
      .when(update({}, ['mx2.example.com:25']))
      .records({ ...updated({}), personal: [{ ...backend, value: ['mx2.example.com:25'] }] }));
  it('records nothing when nothing changes', () =>
    domain(created).when(update({})).recordsNothing());
  it('compares with the last update, not with the creation', () => {
    domain(created, updated({ active: false }))
      .when(update({ active: false }))
      .recordsNothing();
    domain(created, updated({ active: false }))
      .when(update({ active: true }))
      .records(updated({}));
    domain(created, updated({ active: false }))
      .when(update({ dkim_active: true }))
      .records(updated({ active: false, dkim_active: true }));
  });
  it('refuses to reject before it quarantines', () =>
    domain(created).when(update(unsound)).refuses('validation_failed', { issues }));
});

describe('DeleteMailDomain', () => {
  it('deletes it', () => domain(created).when(remove).records(deleted));
});

describe('a mail domain that is not there', () => {
  it.each([
    ['UpdateMailDomain', update({ active: false })],
    ['DeleteMailDomain', remove],
  ])('refuses %s', (_, command) => {
    domain().when(command).refuses('not_found');
    domain(created, deleted).when(command).refuses('not_found');
    // The name has another mail domain now, and this command means the one before.
    domain(created, deleted, { type: 'mail_domain.created', data: { id: '8', settings } })
      .when(command)
      .refuses('not_found');
  });
});
