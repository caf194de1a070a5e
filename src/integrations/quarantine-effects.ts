import { type Clock, toTimestamp } from '../clock.ts';
import { DomainError } from '../domain/errors.ts';
import type { MessageStore } from '../domain/message-store.ts';
import type { QuarantineCommand, VanishedHow } from '../domain/quarantine-language.ts';
import { type QuarantinedMessage, quarantinedMessage } from '../domain/quarantined-message.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { handleCommand, newCommandId } from '../eventlog/handle-command.ts';
import { isConnectionError } from '../eventlog/unavailable.ts';
import type { Outlet } from './outlet.ts';
import { makeWishedFilters } from './quarantine-filters.ts';
import { metaAfter, type OpenedHistory, readHistory } from './quarantine-history.ts';
import type { Rspamd } from './rspamd.ts';

export type EffectDeps = Readonly<{
  log: EventLog;
  store: MessageStore;
  clock: Clock;
  nodeId: string;
  outlet: Outlet;
  /** Null: nothing can be taught. */
  rspamd: Rspamd | null;
}>;

/** Runs work when both the whole and the route have a free slot. */
export type InSlot = (route: string, work: () => Promise<void>) => Promise<void>;

export type Transfer = Readonly<{ signal: AbortSignal; inSlot: InSlot }>;

const FINISH_RETRY_MS = 500;

/** Releases a message, or bounces it: whichever is asked for. Does nothing when neither is, or none is due. */
export async function transfer(deps: EffectDeps, id: string, how: Transfer): Promise<void> {
  const history = await readHistory(deps.log, id);
  const { state } = history.state;
  if (state !== 'release_requested' && state !== 'reject_requested') return;
  // Whoever asks again is told how it stands: tries that come early would use up those that come late.
  if (history.retryAt !== null && Date.parse(history.retryAt) > deps.clock.nowMs()) return;
  await makeWishedFilters(deps, history);
  const route = state === 'reject_requested' ? 'relay' : history.mailDomains.join();
  await how.inSlot(route, async () => {
    if (how.signal.aborted) return;
    const started = await tell(deps, history, { type: 'StartTransfer' });
    const send = state === 'reject_requested' ? deps.outlet.reject : deps.outlet.release;
    const { how: vanishedHow, ...tried } = await send(history, started, how.signal);
    const finish = { type: 'FinishTransfer', attempt: started.attempt, ...tried } as const;
    const finished = await untilRecorded(how.signal, (commandId) => {
      const command = { ...finish, now: toTimestamp(deps.clock.now()) };
      return record(deps, history, { command, commandId });
    });
    if (tried.cause === 'content_gone') await tell(deps, history, vanish(vanishedHow));
    if (finished.state === 'rejected') await deps.store.remove(id);
  });
}

/** Removes the bytes of a message whose discard is asked for, and records it. */
export async function discard(deps: EffectDeps, id: string): Promise<void> {
  const history = await readHistory(deps.log, id);
  if (history.state.state !== 'discard_requested') return;
  await makeWishedFilters(deps, history);
  const before = await deps.outlet.discard(history);
  await tell(deps, history, before === null ? { type: 'FinishDiscard' } : vanish(before));
}

const vanish = (how: VanishedHow | undefined): QuarantineCommand =>
  how === undefined ? { type: 'Vanish' } : { type: 'Vanish', how };

/** Teaches rspamd what was asked for, one request after another, and records what came of each. */
export async function retrain(deps: EffectDeps, id: string, signal: AbortSignal): Promise<void> {
  for (;;) {
    const history = await readHistory(deps.log, id);
    const open = history.trainings.find(({ outcome }) => outcome === null);
    if (open === undefined || signal.aborted) return;
    const { asked, class: kind } = open;
    const opened = deps.rspamd === null ? null : await deps.store.open(id);
    const learned =
      deps.rspamd === null || opened === null
        ? ({ outcome: 'unavailable', status: null } as const)
        : await deps.rspamd.learn(kind, opened.bytes, opened.sizeBytes);
    const { outcome, status } = learned;
    const command = { type: 'FinishRetrain', class: kind, outcome, status } as const;
    await untilRecorded(signal, (commandId) =>
      record(deps, { ...history, asked }, { command, commandId }),
    );
  }
}

/** What was done must be recorded however long that takes; only stopping leaves it to the next start. */
async function untilRecorded<Recorded>(
  signal: AbortSignal,
  work: (commandId: string) => Promise<Recorded>,
): Promise<Recorded> {
  // One for all tries: what is in the log, though its answer was lost, is found there and not recorded twice.
  const commandId = newCommandId();
  for (;;) {
    try {
      return await work(commandId);
    } catch (error) {
      const isPassing =
        isConnectionError(error) || (error instanceof DomainError && error.code === 'unavailable');
      if (!isPassing || signal.aborted) throw error;
      await new Promise((resolve) => setTimeout(resolve, FINISH_RETRY_MS));
    }
  }
}

const tell = (deps: EffectDeps, history: OpenedHistory, command: QuarantineCommand) =>
  record(deps, history, { command, commandId: newCommandId() });

async function record(
  deps: EffectDeps,
  history: OpenedHistory,
  { command, commandId }: Readonly<{ command: QuarantineCommand; commandId: string }>,
): Promise<QuarantinedMessage> {
  const { state } = await handleCommand(deps.log, quarantinedMessage, {
    stream: history.stream,
    resource: { type: 'quarantined_message', id: history.id },
    mailDomains: history.mailDomains,
    command,
    meta: metaAfter(history, deps),
    commandId,
  });
  return state;
}
