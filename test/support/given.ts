import { expect } from 'vitest';
import type { Decider, DomainEvent } from '../../src/domain/decider.ts';
import { DomainError, type ErrorCode } from '../../src/domain/errors.ts';

/** A decider's rules as sentences: `given(decider)(past).when(command).records(events)`. */
export function given<State, Command, Event extends DomainEvent>(
  decider: Decider<State, Command, Event>,
) {
  return (...past: readonly Event[]) => ({
    when(command: Command) {
      const decide = () =>
        decider.decide(
          command,
          past.reduce((state, event) => decider.evolve(state, event), decider.initialState),
        );
      return {
        records: (...events: readonly Event[]) => expect(decide()).toEqual(events),
        recordsNothing: () => expect(decide()).toEqual([]),
        /** In a sentence for its caller; with `details` when they are what he mends it by. */
        refuses(code: ErrorCode, details: unknown = null) {
          const refusal = thrownBy(decide);
          expect(refusal).toBeInstanceOf(DomainError);
          const { message } = refusal as DomainError;
          expect(message).toMatch(/^[A-Z0-9].*[a-z]\.?$/);
          expect(refusal).toMatchObject({ code, details });
        },
      };
    },
  });
}

function thrownBy(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  return null;
}
