import type { MailDomainSettings } from '../../src/domain/mail-domain.ts';

/** A mail domain as it is made without a word of its settings, for tests that are about something else. */
export const settings: MailDomainSettings = {
  direction: 'inbound',
  active: true,
  quarantine_threshold: 12,
  reject_threshold: 18,
  dkim_active: false,
  dmarc_reporting: false,
  tenant_id: null,
  quarantine_retention_days: 30,
};
