import type { Decider, PersonalMember } from './decider.ts';
import { DomainError } from './errors.ts';
import type { QuarantineCommand, QuarantineEvent } from './quarantine-language.ts';
import { finishTransfer, outstanding, startTransfer, withResults } from './quarantine-transfers.ts';

export const STATES = [
  'held',
  'release_requested',
  'release_failed',
  'released',
  'undelivered',
  'discard_requested',
  'discarded',
  'reject_requested',
  'rejected',
  'expired',
  'vanished',
] as const;
export type QuarantineState = (typeof STATES)[number];

/** States in which the message is still in the quarantine. */
export const OPEN_STATES: readonly QuarantineState[] = [
  'held',
  'release_requested',
  'release_failed',
  'discard_requested',
  'reject_requested',
];

/** A held message as its decisions need it. Recipients are numbers, as in its events. */
export type QuarantinedMessage = Readonly<{
  state: QuarantineState | 'absent';
  recipients: number;
  /** Who has it already, so that no repeat sends it again. */
  delivered: readonly number[];
  /** Whom the release under way is for. */
  wanted: readonly number[];
  /** Refused for good in the release under way. */
  refused: readonly number[];
  /** Tries of the transfer under way, and whether the last one has no end yet. */
  attempt: number;
  isStarted: boolean;
  /** Whether the mail server that held it has let it go: it cannot be held again by a failure. */
  hasLeft: boolean;
  /** Whether a filter's findings are known. */
  isScanned: boolean;
}>;

const initialState: QuarantinedMessage = {
  state: 'absent',
  recipients: 0,
  delivered: [],
  wanted: [],
  refused: [],
  attempt: 0,
  isStarted: false,
  hasLeft: false,
  isScanned: false,
};

function evolve(state: QuarantinedMessage, event: QuarantineEvent): QuarantinedMessage {
  switch (event.type) {
    case 'quarantine.added': {
      const recipients = event.data.recipients_of.reduce((sum, { count }) => sum + count, 0);
      const isScanned = event.data.reason !== 'unscanned';
      return { ...state, state: 'held', recipients, isScanned };
    }
    case 'quarantine.release_requested':
      return { ...begun(state, event.data.recipients), state: 'release_requested' };
    case 'quarantine.reject_requested':
      return { ...begun(state, null), state: 'reject_requested' };
    case 'quarantine.release_started':
    case 'quarantine.reject_started':
      return { ...state, attempt: event.data.attempt, isStarted: true };
    case 'quarantine.release_interrupted':
    case 'quarantine.reject_interrupted':
      return { ...state, isStarted: false };
    case 'quarantine.release_deferred':
      return { ...withResults(state, event.data.results), hasLeft: leftAfter(state, event) };
    case 'quarantine.reject_deferred':
      return { ...state, isStarted: false, hasLeft: leftAfter(state, event) };
    case 'quarantine.released':
      return { ...withResults(state, event.data.results), state: 'released' };
    case 'quarantine.undelivered':
      return { ...withResults(state, event.data.results), state: 'undelivered' };
    case 'quarantine.partly_released':
      return { ...withResults(state, event.data.results), state: 'held' };
    case 'quarantine.release_failed':
      return { ...withResults(state, event.data.results), state: 'release_failed' };
    case 'quarantine.discard_requested':
      return { ...state, state: 'discard_requested' };
    case 'quarantine.discarded':
      return { ...state, state: 'discarded' };
    case 'quarantine.rejected':
      return { ...state, isStarted: false, state: 'rejected' };
    case 'quarantine.reject_failed':
      return { ...state, isStarted: false, state: 'held' };
    case 'quarantine.scanned':
      return { ...state, isScanned: event.data.reason !== 'unscanned' };
    case 'quarantine.expired':
      return { ...state, state: 'expired' };
    case 'quarantine.vanished':
      return { ...state, state: 'vanished' };
    default:
      return state;
  }
}

const leftAfter = (
  { hasLeft }: QuarantinedMessage,
  { data }: Readonly<{ data: Readonly<{ has_left?: true }> }>,
): boolean => hasLeft || data.has_left === true;

const begun = (state: QuarantinedMessage, wanted: readonly number[] | null) => ({
  ...state,
  wanted: wanted ?? Array.from({ length: state.recipients }, (_, index) => index),
  refused: [],
  attempt: 0,
  isStarted: false,
});

function decide(command: QuarantineCommand, state: QuarantinedMessage): readonly QuarantineEvent[] {
  if (command.type === 'AddMessage') {
    // The same message under the same id is one that was announced twice.
    if (state.state !== 'absent') return [];
    return [{ type: 'quarantine.added', data: command.data, personal: command.personal }];
  }
  if (state.state === 'absent') throw new DomainError('not_found', 'No such message');
  switch (command.type) {
    case 'RequestRelease':
      return requestRelease(command, state);
    case 'RequestDiscard':
      if (state.state === 'discarded' || state.state === 'discard_requested') return [];
      requireIdle(state, 'discarded');
      return [
        {
          type: 'quarantine.discard_requested',
          data: { block_sender: command.blockSender },
          personal: [reasonOf(command.reason)],
        },
      ];
    case 'RequestReject':
      if (state.state === 'rejected' || state.state === 'reject_requested') return [];
      requireIdle(state, 'rejected');
      return [
        { type: 'quarantine.reject_requested', data: {}, personal: [reasonOf(command.reason)] },
      ];
    case 'RequestRetrain':
      return [{ type: 'quarantine.retrain_requested', data: { class: command.class } }];
    case 'StartTransfer':
      return startTransfer(state);
    case 'FinishTransfer':
      return finishTransfer(command, state);
    case 'FinishDiscard':
      return state.state === 'discard_requested'
        ? [{ type: 'quarantine.discarded', data: {} }]
        : [];
    case 'FinishRetrain':
      return [finishRetrain(command)];
    case 'Expire':
      return isIdle(state) ? [{ type: 'quarantine.expired', data: {} }] : [];
    case 'NoteScan':
      return OPEN_STATES.includes(state.state) && !state.isScanned
        ? [{ type: 'quarantine.scanned', data: command.scan }]
        : [];
    case 'Vanish':
      return OPEN_STATES.includes(state.state)
        ? [{ type: 'quarantine.vanished', data: command.how ? { how: command.how } : {} }]
        : [];
  }
}

export const quarantinedMessage: Decider<QuarantinedMessage, QuarantineCommand, QuarantineEvent> = {
  initialState,
  evolve,
  decide,
};

export const quarantinedMessageStream = (id: string): string => `quarantined_message-${id}`;
/** Looks at the content change nothing of the message, so they stand apart. */
export const messageReadsStream = (id: string): string => `quarantined_message_reads-${id}`;

const isIdle = ({ state }: QuarantinedMessage): boolean =>
  state === 'held' || state === 'release_failed';

function requireIdle(state: QuarantinedMessage, what: string): void {
  if (isIdle(state)) return;
  throw new DomainError('state_conflict', `The message is ${state.state}; it cannot be ${what}.`, {
    state: state.state,
  });
}

function requestRelease(
  command: Extract<QuarantineCommand, { type: 'RequestRelease' }>,
  state: QuarantinedMessage,
): readonly QuarantineEvent[] {
  // A repeat finds the message on its way, or there; its caller is told how that went.
  if (state.state === 'released') return [];
  const wanted = begun(state, command.recipients);
  // Those who are not on its way must not hear that they were released.
  const isOnItsWay = outstanding(wanted).every((recipient) => state.wanted.includes(recipient));
  if (state.state === 'release_requested' && isOnItsWay) return [];
  requireIdle(state, 'released');
  if (outstanding(wanted).length === 0) return [];
  return [
    {
      type: 'quarantine.release_requested',
      data: { recipients: command.recipients, allow_sender: command.allowSender },
      personal: [reasonOf(command.reason)],
    },
  ];
}

const reasonOf = (reason: string | null): PersonalMember => ({
  name: 'reason',
  value: reason,
  class: 'content',
});

function finishRetrain(
  command: Extract<QuarantineCommand, { type: 'FinishRetrain' }>,
): QuarantineEvent {
  const { outcome, status } = command;
  const isLearned = outcome === 'learned' || outcome === 'already_known';
  return {
    type: isLearned ? 'quarantine.retrained' : 'quarantine.retrain_failed',
    data: { class: command.class, outcome, status },
  };
}
