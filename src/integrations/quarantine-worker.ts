import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { Logger } from 'pino';
import { createOutage } from '../outage.ts';
import type { IntentKind } from '../projections/quarantine.ts';
import { findDueIntents } from '../projections/quarantine-work.ts';
import { type ActionPauses, createActionPauses } from './action-pauses.ts';
import {
  discard,
  type EffectDeps,
  type InSlot,
  retrain,
  type Transfer,
  transfer,
} from './quarantine-effects.ts';
import { createTurns } from './turns.ts';

export type WorkerDeps = EffectDeps & Readonly<{ pool: pg.Pool; logger: Logger }>;

export type QuarantineWorker = Readonly<{
  /**
   * Carries out what was asked of a message and has no outcome yet. Resolves when it has one, or when it
   * was put off, or when `waitMs` have passed, or at the end of a stop; in no case is a second run of it begun. Whoever
   * asks anew does not wait for the end of a pause.
   */
  act: (id: string, kind: IntentKind, waitMs: number) => Promise<void>;
  /** Begins nothing more, and waits (bounded) for what is under way. */
  stop: () => Promise<void>;
}>;

const LOOK_MS = 1_000;
const DUE_MAX = 500;
/** Actions under way or waiting for a slot; what is beyond stays in the table. */
const IN_FLIGHT_MAX = 2_000;
/** Transfers at once in all, and for messages of the same mail domains: a dead server holds up its own alone. */
const SLOTS = 32;
const SLOTS_PER_ROUTE = 6;
/** At a stop: for what is under way to end by itself; then it is cut, and what became of it is recorded. */
const DRAIN_MS = 2_000;
const STOP_MS = 5_000;

/**
 * The reactor of the quarantine: finds the actions that were asked for and have no outcome, also those that a
 * crash has left, and carries them out. What is to be done is decided by the message's own stream, so a
 * look too many changes nothing.
 */
export function startQuarantineWorker(deps: WorkerDeps): QuarantineWorker {
  const stopping = new AbortController();
  const abort = new AbortController();
  const waiting = new Set<AbortController>();
  // Each action under way listens; Node would call more than ten a leak.
  setMaxListeners(IN_FLIGHT_MAX, abort.signal);
  const inFlight = new Map<string, Promise<void>>();
  const pauses = createActionPauses(deps.clock);
  const slots = createTurns({ inAll: SLOTS, each: SLOTS_PER_ROUTE });
  const inSlot: InSlot = async (route, work) => {
    // As long as it takes: those who wait are bounded by what may be under way.
    const giveBack = await slots.take(route, null);
    try {
      stopping.signal.throwIfAborted();
      await work();
    } finally {
      giveBack?.();
    }
  };
  const run = (id: string, kind: IntentKind): Promise<void> => {
    // One transfer of a message at a time: which is asked for its stream tells, and the read model may be behind.
    const key = `${kind === 'reject' ? 'release' : kind}/${id}`;
    const running = inFlight.get(key);
    if (running !== undefined) return running;
    const action = { messageId: id, kind };
    const begun = carryOut(deps, { id, kind }, { inSlot, signal: abort.signal })
      .then(() => pauses.ended(action))
      .catch((error: unknown) => {
        if (stopping.signal.aborted) return;
        const isNews = pauses.failed(action, error);
        const level = isNews ? 'warn' : 'debug';
        deps.logger[level]({ err: error, message_id: id, kind }, 'an action is tried again');
      })
      .finally(() => inFlight.delete(key));
    inFlight.set(key, begun);
    return begun;
  };
  const looking = look(deps, { inFlight, pauses, run, signal: stopping.signal });
  const ended = (ms: number) =>
    Promise.race([Promise.all(inFlight.values()), sleep(ms, undefined, { ref: false })]);
  return {
    async act(id, kind, waitMs) {
      if (stopping.signal.aborted) return;
      const timer = new AbortController();
      waiting.add(timer);
      await Promise.race([
        run(id, kind),
        sleep(waitMs, undefined, { signal: timer.signal }).catch(() => undefined),
      ]);
      waiting.delete(timer);
      timer.abort();
    },
    async stop() {
      stopping.abort();
      await looking;
      await ended(DRAIN_MS);
      abort.abort();
      await ended(STOP_MS);
      for (const timer of waiting) timer.abort();
    },
  };
}

type Work = Readonly<{
  inFlight: ReadonlyMap<string, unknown>;
  pauses: ActionPauses;
  run: (id: string, kind: IntentKind) => Promise<void>;
  signal: AbortSignal;
}>;

/** Looks for due actions until stopped; a database that is away is asked again. */
async function look(deps: WorkerDeps, { inFlight, pauses, run, signal }: Work): Promise<void> {
  const outage = createOutage(deps.logger, {
    failing: 'the actions that are due cannot be read',
    again: 'the actions that are due can be read again',
  });
  while (!signal.aborted) {
    const room = IN_FLIGHT_MAX - inFlight.size;
    if (room > 0) {
      const busy = [...inFlight.keys()].map((key) => key.slice(key.indexOf('/') + 1));
      await findDueIntents(deps.pool, {
        now: deps.clock.now(),
        besides: [...busy, ...pauses.messages()],
        limit: Math.min(DUE_MAX, room),
      }).then((due) => {
        outage.works();
        for (const { messageId, kind } of due) void run(messageId, kind);
      }, outage.failed);
    }
    await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
  }
}

async function carryOut(
  deps: WorkerDeps,
  { id, kind }: Readonly<{ id: string; kind: IntentKind }>,
  { inSlot, signal }: Transfer,
): Promise<void> {
  switch (kind) {
    case 'discard':
      return discard(deps, id);
    case 'retrain':
      return retrain(deps, id, signal);
    case 'release':
    case 'reject':
      return transfer(deps, id, { inSlot, signal });
  }
}
