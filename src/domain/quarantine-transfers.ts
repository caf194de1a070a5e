import type { PersonalMember } from './decider.ts';
import { DomainError } from './errors.ts';
import type { QuarantineCommand, QuarantineEvent, TransferResult } from './quarantine-language.ts';
import type { QuarantinedMessage } from './quarantined-message.ts';

/** Seconds until the next try after each one that was put off; after the last the action has failed. */
export const RETRY_SECONDS: readonly number[] = [
  5, 30, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 28_800,
];

/** Whom the next try is for: those who asked, have not got it and were not refused for good. */
export const outstanding = ({ wanted, delivered, refused }: QuarantinedMessage): number[] =>
  wanted.filter((recipient) => !delivered.includes(recipient) && !refused.includes(recipient));

/** A message after a try, with what came of it. */
export function withResults(
  state: QuarantinedMessage,
  results: readonly TransferResult[],
): QuarantinedMessage {
  const of = (outcome: TransferResult['outcome']) =>
    results.filter((result) => result.outcome === outcome).map(({ recipient }) => recipient);
  return {
    ...state,
    delivered: [...new Set([...state.delivered, ...of('accepted')])],
    refused: [...new Set([...state.refused, ...of('refused')])],
    isStarted: false,
  };
}

/** A try is about to begin; of one that a crash cut off, the history says so first. */
export function startTransfer(state: QuarantinedMessage): readonly QuarantineEvent[] {
  const verb = verbOf(state);
  const recipients = outstanding(state);
  const started = { attempt: state.attempt + 1, recipients };
  const event: QuarantineEvent = { type: `quarantine.${verb}_started`, data: started };
  if (!state.isStarted) return [event];
  // A try that has no end was cut off by a crash: it may have been delivered, and the history says so.
  const cut = { attempt: state.attempt, recipients };
  return [{ type: `quarantine.${verb}_interrupted`, data: cut }, event];
}

function verbOf({ state }: QuarantinedMessage): 'release' | 'reject' {
  if (state === 'release_requested') return 'release';
  if (state === 'reject_requested') return 'reject';
  throw new DomainError('state_conflict', 'No release and no rejection is under way.');
}

/** A try has ended: what it comes to, and when the next one is due. */
export function finishTransfer(
  command: Extract<QuarantineCommand, { type: 'FinishTransfer' }>,
  state: QuarantinedMessage,
): readonly QuarantineEvent[] {
  const verb = verbOf(state);
  if (!state.isStarted || state.attempt !== command.attempt) {
    throw new DomainError('state_conflict', 'This try has ended already.');
  }
  const { attempt, results, replies, now, cause } = command;
  const hasLeft = command.hasLeft === true || state.hasLeft;
  const personal: PersonalMember[] = [{ name: 'replies', value: replies, class: 'content' }];
  const ended = { attempt, results };
  const after = withResults(state, results);
  const left = verb === 'release' ? leftOfRelease(after) : leftOfBounce(results);
  // A mail server that goes on by itself comes to an end by itself, too: it is looked at until then.
  const seconds = RETRY_SECONDS[attempt - 1] ?? (hasLeft ? RETRY_SECONDS.at(-1) : undefined);
  if (cause === null && left === 'open' && seconds !== undefined) {
    const at = new Date(Date.parse(now) + seconds * 1_000).toISOString();
    // Six digits, as every time in the log.
    const retryAt = `${at.slice(0, -1)}000Z`;
    const data = { ...ended, retry_at: retryAt, ...(hasLeft ? { has_left: true as const } : {}) };
    return [{ type: `quarantine.${verb}_deferred`, data, personal }];
  }
  if (cause === null && left === 'refused' && hasLeft && verb === 'release') {
    return [{ type: 'quarantine.undelivered', data: ended, personal }];
  }
  if (cause !== null || left !== 'nothing') {
    const data = { ...ended, cause: cause ?? (left === 'open' ? 'gave_up' : 'refused') };
    return [{ type: `quarantine.${verb}_failed`, data, personal }];
  }
  if (verb === 'reject') return [{ type: 'quarantine.rejected', data: ended, personal }];
  const isWhole = after.delivered.length === after.recipients;
  return [
    { type: isWhole ? 'quarantine.released' : 'quarantine.partly_released', data: ended, personal },
  ];
}

type Left = 'nothing' | 'open' | 'refused';

function leftOfRelease(after: QuarantinedMessage): Left {
  if (outstanding(after).length > 0) return 'open';
  return after.wanted.every((recipient) => after.delivered.includes(recipient))
    ? 'nothing'
    : 'refused';
}

/** A rejection has one result, for its bounce to the sender. */
function leftOfBounce([bounce]: readonly TransferResult[]): Left {
  if (bounce?.outcome === 'accepted') return 'nothing';
  return bounce?.outcome === 'refused' ? 'refused' : 'open';
}
