import { DomainError } from '../domain/errors.ts';
import type { MessageStore } from '../domain/message-store.ts';
import { OPEN_STATES } from '../domain/quarantined-message.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import type { HoldQueue } from './hold-queue.ts';
import { HelperUnavailableError } from './postfix-helper.ts';
import { readHistory } from './quarantine-history.ts';

/** What the last look at the hold queue has found. */
export type HoldUsage = Readonly<{ messages: number; bytes: number }>;

/**
 * Held mail where the mail server holds it. Its bytes are those of the message with CRLF, as they are held: with what
 * the filter has added to them. Rejects with `unavailable` when the mail server cannot be asked.
 */
export function postfixStore(
  deps: Readonly<{ log: EventLog; queue: HoldQueue; usage: () => HoldUsage }>,
): MessageStore {
  const { log, queue } = deps;
  return {
    async open(id) {
      const { state, held, sizeBytes } = await readHistory(log, id);
      if (held === null || !OPEN_STATES.some((open) => open === state.state)) return null;
      const bytes = await queue.open(held).catch(asUnavailable);
      return bytes === null ? null : { sizeBytes, bytes };
    },
    async remove(id) {
      const { held } = await readHistory(log, id);
      if (held === null) return false;
      const outcome = await queue.act('discard', held).catch(asUnavailable);
      if (outcome === 'unsaid') throw asUnavailableError();
      return outcome === 'done';
    },
    usage: () => ({ ...deps.usage(), bytesMax: null }),
  };
}

const asUnavailableError = (): DomainError =>
  new DomainError('unavailable', 'The mail server cannot be asked now; try again.');

function asUnavailable(error: unknown): never {
  throw error instanceof HelperUnavailableError ? asUnavailableError() : error;
}
