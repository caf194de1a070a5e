import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DomainError } from '../../src/domain/errors.ts';
import type {
  FailureCause,
  QuarantineCommand,
  QuarantineEvent,
} from '../../src/domain/quarantine-language.ts';
import {
  OPEN_STATES,
  type QuarantinedMessage,
  quarantinedMessage,
} from '../../src/domain/quarantined-message.ts';
import { added, type Fared, NOW, results } from '../support/held-message.ts';

describe('any sequence of commands', () => {
  const recipients = fc.option(fc.uniqueArray(fc.integer({ min: 0, max: 2 }), { minLength: 1 }));
  const outcome = fc.constantFrom<Fared>('accepted', 'accepted', 'deferred', 'refused', 'unknown');
  /** For `finish`: how each recipient of the try fares (null: nothing is said), and which try is meant. */
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ do: fc.constant('release' as const), recipients }) },
    { weight: 10, arbitrary: fc.record({ do: fc.constant('start' as const) }) },
    {
      weight: 12,
      arbitrary: fc.record({
        do: fc.constant('finish' as const),
        outcomes: fc.tuple(fc.option(outcome), fc.option(outcome), fc.option(outcome)),
        cause: fc.oneof(
          { weight: 12, arbitrary: fc.constant(null) },
          { weight: 1, arbitrary: fc.constantFrom<FailureCause>('no_route', 'content_gone') },
        ),
        isStale: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.constantFrom<QuarantineCommand>(
        { type: 'RequestDiscard', blockSender: null, reason: null },
        { type: 'RequestReject', reason: null },
        { type: 'FinishDiscard' },
        { type: 'Expire' },
        { type: 'Vanish' },
        { type: 'RequestRetrain', class: 'spam' },
      ),
    },
  );
  type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

  function toCommand(made: Step, state: QuarantinedMessage, tried: readonly number[]) {
    if ('type' in made) return made;
    if (made.do === 'start') return { type: 'StartTransfer' } as const;
    if (made.do === 'release') {
      const { recipients: wanted } = made;
      return {
        type: 'RequestRelease',
        recipients: wanted,
        allowSender: null,
        reason: null,
      } as const;
    }
    const isBounce = state.state === 'reject_requested';
    const said = (isBounce ? [0] : tried).flatMap((recipient) => {
      const fared = made.outcomes[recipient] ?? null;
      return fared === null ? [] : [[recipient, fared] as const];
    });
    const { cause, isStale } = made;
    return {
      type: 'FinishTransfer',
      attempt: state.attempt + (isStale ? 1 : 0),
      // A cause that is known without a server goes with nobody accepted.
      results: cause === null ? results(Object.fromEntries(said)) : [],
      replies: [],
      now: NOW,
      cause,
    } as const;
  }

  /** Lives through the steps; a refusal changes nothing. */
  function live(steps: readonly Step[]): QuarantineEvent[] {
    const events: QuarantineEvent[] = [added];
    for (const made of steps) {
      const state = events.reduce(quarantinedMessage.evolve, quarantinedMessage.initialState);
      const last = events.findLast(({ type }) => type === 'quarantine.release_started');
      const tried = (last?.data as { recipients?: number[] } | undefined)?.recipients ?? [];
      try {
        events.push(...quarantinedMessage.decide(toCommand(made, state, tried), state));
      } catch (error) {
        if (!(error instanceof DomainError)) throw error;
      }
    }
    return events;
  }

  const acceptedIn = (events: readonly QuarantineEvent[]): Set<number> =>
    new Set(
      events.flatMap(({ type, data }) =>
        type.startsWith('quarantine.reject') || !('results' in data)
          ? []
          : data.results.flatMap((r) => (r.outcome === 'accepted' ? [r.recipient] : [])),
      ),
    );
  const lives = fc.array(step, { minLength: 15, maxLength: 40 }).map(live);

  it('sends nobody what he has', () => {
    fc.assert(
      fc.property(lives, (events) => {
        for (const [index, event] of events.entries()) {
          if (!('recipients' in event.data) || event.type.endsWith('_requested')) continue;
          const have = acceptedIn(events.slice(0, index));
          const tried = event.data.recipients ?? [];
          expect(tried.filter((recipient) => have.has(recipient))).toEqual([]);
          expect(tried.length).toBeGreaterThan(0);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  it('is released once, when every recipient has it, and not otherwise', () => {
    let releases = 0;
    fc.assert(
      fc.property(lives, (events) => {
        const ends = events.flatMap(({ type }, index) =>
          type === 'quarantine.released' ? [index] : [],
        );
        expect(ends.length).toBeLessThanOrEqual(1);
        for (const index of ends) expect(acceptedIn(events.slice(0, index + 1)).size).toBe(3);
        const { state } = events.reduce(quarantinedMessage.evolve, quarantinedMessage.initialState);
        if (acceptedIn(events).size === 3) expect(state).toBe('released');
        releases += ends.length;
      }),
      { numRuns: 2_000 },
    );
    // Some of these lives must get there, or nothing was shown.
    expect(releases).toBeGreaterThan(50);
  });

  it('ends once: afterwards there is only training', () => {
    fc.assert(
      fc.property(lives, (events) => {
        let state = quarantinedMessage.initialState;
        for (const event of events) {
          const before = state.state;
          state = quarantinedMessage.evolve(state, event);
          const isOpen = before === 'absent' || OPEN_STATES.some((open) => open === before);
          if (!isOpen) expect(event.type).toBe('quarantine.retrain_requested');
        }
      }),
      { numRuns: 1_000 },
    );
  });

  it('has an end, or a word of its interruption, for every try before the next', () => {
    fc.assert(
      fc.property(lives, (events) => {
        let open = false;
        for (const { type } of events) {
          if (/_started$/.test(type)) {
            expect(open).toBe(false);
            open = true;
          } else if (
            /_(deferred|failed|interrupted)$|\.(released|partly_released|rejected)$/.test(type)
          ) {
            expect(open).toBe(true);
            open = false;
          }
        }
      }),
      { numRuns: 1_000 },
    );
  });
});
