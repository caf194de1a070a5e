/** A JSON value as the log can hold it: 64-bit integers are strings, numbers are finite. */
export type Json =
  | null
  | boolean
  | number
  | string
  | readonly Json[]
  | Readonly<{ [member: string]: Json | undefined }>;

type ActorType = 'api_key' | 'operator' | 'system' | 'node' | 'recipient' | 'anonymous';

/** Who did it, as an event records it. */
export type Actor = Readonly<{ type: ActorType; id: string }>;

/** What an event is about: its audit subject. */
export type ResourceRef = Readonly<{ type: string; id: string }>;

export type Outcome = 'success' | 'failure' | 'denied';

/** How long a personal value lives: identity until its subject is erased, the others by retention. */
export type PersonalClass = 'identity' | 'network' | 'content';

/**
 * A member of `data` that never stands in the committed line; the line holds its salted digest.
 * All personal members of an event type are given or none, so that an erased one can be named.
 */
export type PersonalMember = Readonly<{ name: string; value: Json; class: PersonalClass }>;

/** The names of a resource that an event sets; they live in one erasable row per subject. */
export type SubjectNames = Readonly<{ name: string; key_prefix?: string }>;

/** A fact as a decider states it, before the log gives it place and time. */
export type DomainEvent<
  Type extends string = string,
  Data = Readonly<Record<string, Json>>,
> = Readonly<{
  type: Type;
  data: Data;
  personal?: readonly PersonalMember[];
  names?: SubjectNames;
}>;

/** The pure core of one aggregate. `decide` returns the new facts, or throws a `DomainError`. */
export type Decider<State, Command, Event extends DomainEvent> = Readonly<{
  initialState: State;
  evolve: (state: State, event: Event) => State;
  decide: (command: Command, state: State) => readonly Event[];
}>;
