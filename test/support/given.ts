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
        refuses(code: ErrorCode) {
          const refusal = thrownBy(decide);
          expect(refusal).toBeInstanceOf(DomainError);
          expect((refusal as DomainError).code).toBe(code);
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
