import type { Decider, DomainEvent } from './decider.ts';
import { DomainError } from './errors.ts';
import type { TrainingClass } from './quarantine-language.ts';

export const BULK_ACTIONS = ['release', 'discard', 'reject', 'retrain'] as const;
export type BulkAction = (typeof BULK_ACTIONS)[number];

type Requested = Readonly<{
  action: BulkAction;
  class: TrainingClass | null;
  dry_run: boolean;
  messages: number;
  /** How they were chosen; the filter itself is personal. */
  by: 'ids' | 'filter';
}>;

export type QuarantineBulkEvent =
  | DomainEvent<'quarantine.bulk_requested', Requested>
  | DomainEvent<'quarantine.bulk_cancelled', Readonly<Record<string, never>>>
  /** `counts`: messages by outcome. */
  | DomainEvent<'quarantine.bulk_ended', Readonly<{ counts: Readonly<Record<string, number>> }>>;

export type QuarantineBulkCommand =
  | Readonly<{
      type: 'RequestBulk';
      data: Requested;
      reason: string | null;
      filter: string | null;
    }>
  | Readonly<{ type: 'CancelBulk' }>
  | Readonly<{ type: 'EndBulk'; counts: Readonly<Record<string, number>> }>;

type QuarantineBulk = Readonly<{ status: 'absent' | 'running' | 'cancelled' | 'ended' }>;

const initialState: QuarantineBulk = { status: 'absent' };

function evolve(_state: QuarantineBulk, event: QuarantineBulkEvent): QuarantineBulk {
  switch (event.type) {
    case 'quarantine.bulk_requested':
      return { status: 'running' };
    case 'quarantine.bulk_cancelled':
      return { status: 'cancelled' };
    case 'quarantine.bulk_ended':
      return { status: 'ended' };
  }
}

function decide(
  command: QuarantineBulkCommand,
  state: QuarantineBulk,
): readonly QuarantineBulkEvent[] {
  if (command.type === 'RequestBulk') {
    if (state.status !== 'absent') return [];
    const { reason, filter } = command;
    return [
      {
        type: 'quarantine.bulk_requested',
        data: command.data,
        personal: [
          { name: 'reason', value: reason, class: 'content' },
          { name: 'filter', value: filter, class: 'content' },
        ],
      },
    ];
  }
  if (state.status === 'absent') throw new DomainError('not_found', 'No such job');
  if (command.type === 'EndBulk') {
    if (state.status === 'ended') return [];
    return [{ type: 'quarantine.bulk_ended', data: { counts: command.counts } }];
  }
  if (state.status === 'ended') throw new DomainError('state_conflict', 'The job has ended.');
  return state.status === 'cancelled' ? [] : [{ type: 'quarantine.bulk_cancelled', data: {} }];
}

/** One action on many messages; what it did to each is in that message's own history. */
export const quarantineBulk: Decider<QuarantineBulk, QuarantineBulkCommand, QuarantineBulkEvent> = {
  initialState,
  evolve,
  decide,
};

export const quarantineBulkStream = (id: string): string => `quarantine_bulk-${id}`;
