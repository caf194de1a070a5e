import type { Decider, DomainEvent } from './decider.ts';
import { DomainError } from './errors.ts';

export const FILTER_KINDS = ['allow', 'block'] as const;
export const FILTER_SCOPES = ['recipient', 'mail_domain', 'global'] as const;

type FilterData = Readonly<{
  kind: (typeof FILTER_KINDS)[number];
  scope: (typeof FILTER_SCOPES)[number];
  /** Null for a global one. */
  mail_domain: string | null;
  expires_at: string | null;
  /** The quarantined message whose release or discard made it; null when it was made by itself. */
  made_by: string | null;
}>;

export type SenderFilterEvent =
  /** `sender` (an address, or `@` and a domain) and `recipient` are personal members. */
  | DomainEvent<'sender_filter.created', FilterData>
  | DomainEvent<'sender_filter.deleted' | 'sender_filter.expired', Readonly<Record<string, never>>>;

export type SenderFilterCommand =
  | Readonly<{
      type: 'CreateSenderFilter';
      data: FilterData;
      sender: string;
      recipient: string | null;
    }>
  | Readonly<{ type: 'DeleteSenderFilter' }>
  | Readonly<{ type: 'ExpireSenderFilter'; now: string }>;

type SenderFilter = Readonly<{ status: 'absent' | 'active' | 'ended'; expiresAt: string | null }>;

const initialState: SenderFilter = { status: 'absent', expiresAt: null };

function evolve(state: SenderFilter, event: SenderFilterEvent): SenderFilter {
  if (event.type !== 'sender_filter.created') return { ...state, status: 'ended' };
  return { status: 'active', expiresAt: event.data.expires_at };
}

function decide(command: SenderFilterCommand, state: SenderFilter): readonly SenderFilterEvent[] {
  switch (command.type) {
    case 'CreateSenderFilter':
      // Made by an action that is carried on after a crash: it is there already, or was ended since.
      if (state.status !== 'absent') return [];
      return [
        {
          type: 'sender_filter.created',
          data: command.data,
          personal: [
            { name: 'sender', value: command.sender, class: 'identity' },
            { name: 'recipient', value: command.recipient, class: 'identity' },
          ],
        },
      ];
    case 'DeleteSenderFilter':
      if (state.status !== 'active') throw new DomainError('not_found', 'No such sender filter');
      return [{ type: 'sender_filter.deleted', data: {} }];
    case 'ExpireSenderFilter':
      if (state.status !== 'active' || state.expiresAt === null) return [];
      return state.expiresAt <= command.now ? [{ type: 'sender_filter.expired', data: {} }] : [];
  }
}

/** An address or a domain whose mail is let through, or is not. */
export const senderFilter: Decider<SenderFilter, SenderFilterCommand, SenderFilterEvent> = {
  initialState,
  evolve,
  decide,
};

export const senderFilterStream = (id: string): string => `sender_filter-${id}`;
