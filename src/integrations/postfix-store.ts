import { DomainError } from '../domain/errors.ts';
import type { MessageStore, OpenedMessage } from '../domain/message-store.ts';
import { OPEN_STATES } from '../domain/quarantined-message.ts';
import type { HoldQueue } from './hold-queue.ts';
import { HelperRefusedError, HelperUnavailableError } from './postfix-helper.ts';
import type { OpenedHistory } from './quarantine-history.ts';

/** What the last look at the hold queue has found. */
export type HoldUsage = Readonly<{ messages: number; bytes: number }>;

/** Held mail where the mail server holds it, for who has read the history of a message. */
export type PostfixStore = Readonly<{
  open: (history: OpenedHistory) => Promise<OpenedMessage | null>;
  remove: (history: OpenedHistory) => Promise<boolean>;
  usage: MessageStore['usage'];
}>;

/**
 * The bytes of a message are those with CRLF, as they are held: with what the filter has added to them. Rejects with
 * `unavailable` when the mail server cannot be asked.
 */
export function postfixStore({
  queue,
  usage,
}: Readonly<{ queue: HoldQueue; usage: () => HoldUsage }>): PostfixStore {
  return {
    async open({ state, held, sizeBytes }) {
      if (held === null || !OPEN_STATES.some((open) => open === state.state)) return null;
      const bytes = await queue.open(held).catch(asUnavailable);
      return bytes === null ? null : { sizeBytes, bytes };
    },
    async remove({ held }) {
      if (held === null) return false;
      const outcome = await queue.act('discard', held).catch(asUnavailable);
      if (outcome === 'unsaid') throw asUnavailableError();
      return outcome === 'done';
    },
    usage: () => ({ ...usage(), bytesMax: null }),
  };
}

const asUnavailableError = (): DomainError =>
  new DomainError('unavailable', 'The mail server cannot be asked now; try again.');

function asUnavailable(error: unknown): never {
  const isAway = error instanceof HelperUnavailableError || error instanceof HelperRefusedError;
  throw isAway ? asUnavailableError() : error;
}
