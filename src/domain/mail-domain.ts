import type { Decider, DomainEvent, PersonalMember } from './decider.ts';
import { DomainError } from './errors.ts';

export const DIRECTIONS = ['inbound', 'outbound'] as const;

/** What an operator sets on a mail domain. Thresholds are spam scores; the quarantine comes first. */
export type MailDomainSettings = Readonly<{
  direction: (typeof DIRECTIONS)[number];
  active: boolean;
  quarantine_threshold: number;
  reject_threshold: number;
  dkim_active: boolean;
  dmarc_reporting: boolean;
  tenant_id: string | null;
  quarantine_retention_days: number;
}>;

/**
 * `backend_servers` are host names and addresses, so in the log they are a personal member; a change
 * that leaves them alone does not repeat them.
 */
export type MailDomainCreated = DomainEvent<
  'mail_domain.created',
  Readonly<{ id: string; settings: MailDomainSettings }>
>;
export type MailDomainUpdated = DomainEvent<
  'mail_domain.updated',
  Readonly<{ id: string; settings: MailDomainSettings }>
>;
export type MailDomainDeleted = DomainEvent<'mail_domain.deleted', Readonly<{ id: string }>>;
export type MailDomainEvent = MailDomainCreated | MailDomainUpdated | MailDomainDeleted;

export type MailDomainCommand =
  | Readonly<{
      type: 'CreateMailDomain';
      id: string;
      name: string;
      settings: MailDomainSettings;
      backendServers: readonly string[];
    }>
  | Readonly<{
      type: 'UpdateMailDomain';
      id: string;
      /** Only what is to change: decided against the settings as they are then. */
      changes: Partial<MailDomainSettings>;
      /** Null leaves them as they are. */
      backendServers: readonly string[] | null;
    }>
  | Readonly<{ type: 'DeleteMailDomain'; id: string }>;

/** One name's history: a name that is deleted and registered again is another mail domain. */
export type MailDomain = Readonly<
  { id: null; settings: null } | { id: string; settings: MailDomainSettings }
>;

const initialState: MailDomain = { id: null, settings: null };

function evolve(_state: MailDomain, event: MailDomainEvent): MailDomain {
  switch (event.type) {
    case 'mail_domain.created':
    case 'mail_domain.updated':
      return { id: event.data.id, settings: event.data.settings };
    case 'mail_domain.deleted':
      return initialState;
  }
}

function decide(command: MailDomainCommand, state: MailDomain): readonly MailDomainEvent[] {
  if (command.type === 'CreateMailDomain') {
    if (state.id !== null) {
      throw new DomainError('already_exists', 'A mail domain of this name exists');
    }
    requireSound(command.settings);
    return [
      {
        type: 'mail_domain.created',
        data: { id: command.id, settings: command.settings },
        personal: [backends(command.backendServers)],
        names: { name: command.name },
      },
    ];
  }
  if (state.id !== command.id) throw new DomainError('not_found', 'No such mail domain');
  if (command.type === 'DeleteMailDomain') {
    return [{ type: 'mail_domain.deleted', data: { id: command.id } }];
  }
  const settings = { ...state.settings, ...command.changes };
  requireSound(settings);
  const isSame = SETTINGS.every((member) => state.settings[member] === settings[member]);
  if (isSame && command.backendServers === null) return [];
  return [
    {
      type: 'mail_domain.updated',
      data: { id: command.id, settings },
      ...(command.backendServers === null ? {} : { personal: [backends(command.backendServers)] }),
    },
  ];
}

export const mailDomain: Decider<MailDomain, MailDomainCommand, MailDomainEvent> = {
  initialState,
  evolve,
  decide,
};

const SETTINGS = [
  'direction',
  'active',
  'quarantine_threshold',
  'reject_threshold',
  'dkim_active',
  'dmarc_reporting',
  'tenant_id',
  'quarantine_retention_days',
] as const satisfies readonly (keyof MailDomainSettings)[];

const backends = (servers: readonly string[]): PersonalMember => ({
  name: 'backend_servers',
  value: servers,
  // Not by retention: a rebuild must find where this mail domain's mail goes.
  class: 'identity',
});

function requireSound(settings: MailDomainSettings): void {
  if (settings.quarantine_threshold <= settings.reject_threshold) return;
  throw new DomainError('validation_failed', 'Mail would be rejected before it is quarantined.', {
    issues: [{ path: 'quarantine_threshold', message: 'must not be above reject_threshold' }],
  });
}
