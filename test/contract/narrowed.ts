import { isDeepStrictEqual } from 'node:util';

/** A JSON Schema of the contract (2020-12, as OpenAPI 3.1 has it). */
export type Schema = Readonly<Record<string, any>>;
/** A document, which `$ref`s are followed in. */
export type Document = Readonly<Record<string, any>>;

/** What changed where; a notice is told to the one who releases, and holds nothing up. */
export type Change = Readonly<{ level: 'breaking' | 'notice'; at: string; what: string }>;

/** Both sides of a comparison, and who writes what the schema is of. */
export type Comparison = Readonly<{
  released: Document;
  current: Document;
  /** `in`: our callers write it, and we must take all we took. `out`: we write it, and must keep all we promised. */
  way: 'in' | 'out';
}>;

const breaking = (at: string, what: string): Change => ({ level: 'breaking', at, what });
const notice = (at: string, what: string): Change => ({ level: 'notice', at, what });

/**
 * What of the released schema the current one no longer keeps. What is taken may grow and what is given may
 * shrink, so both are one question: is the one side (`inner`) within the other (`outer`)? No schema of ours holds
 * itself; one that did would exhaust the stack, which nobody overlooks.
 */
export function schemaChanges(
  comparison: Comparison,
  [released, current]: readonly [Schema | undefined, Schema | undefined],
  at: string,
): Change[] {
  const before = branchesOf(comparison.released, released ?? {});
  const after = branchesOf(comparison.current, current ?? {});
  const [inner, outer] = comparison.way === 'in' ? [before, after] : [after, before];
  return inner.flatMap((branch) => {
    const tries = outer
      .filter((candidate) => isTypeWithin(branch, candidate))
      .map((candidate) =>
        comparison.way === 'in'
          ? branchChanges(comparison, [branch, candidate], at)
          : branchChanges(comparison, [candidate, branch], at),
      );
    // Of several that it may be, it is the one that it differs from least.
    const [nearest] = tries.toSorted((a, b) => countBreaking(a) - countBreaking(b));
    if (nearest !== undefined) return nearest;
    const type = String(branch['type'] ?? 'anything');
    return [breaking(at, comparison.way === 'in' ? `${type} is not taken` : `may be ${type}`)];
  });
}

const countBreaking = (changes: readonly Change[]): number =>
  changes.filter(({ level }) => level === 'breaking').length;

/** An integer is a number; everything is anything. */
const isTypeWithin = (inner: Schema, outer: Schema): boolean =>
  outer['type'] === undefined ||
  inner['type'] === outer['type'] ||
  (inner['type'] === 'integer' && outer['type'] === 'number');

/** The alternatives that a schema stands for, each of one type, with `$ref` and `allOf` put in their place. */
export function branchesOf(document: Document, schema: Schema): Schema[] {
  const { $ref, allOf, anyOf, oneOf, ...own } = schema;
  if ($ref !== undefined) {
    return branchesOf(document, {
      ...own,
      ...group(allOf, anyOf, oneOf, [resolve(document, $ref)]),
    });
  }
  if (allOf !== undefined) {
    const [first = {}, ...rest] = allOf as Schema[];
    const others = [...rest, { ...own, ...group(undefined, anyOf, oneOf, []) }];
    return others.reduce<Schema[]>(
      (joined, part) =>
        branchesOf(document, part).flatMap((more) => joined.map((branch) => merge(branch, more))),
      branchesOf(document, first),
    );
  }
  const either = (anyOf ?? oneOf) as Schema[] | undefined;
  if (either !== undefined) {
    return either.flatMap((part) => branchesOf(document, part)).map((branch) => merge(own, branch));
  }
  if (!Array.isArray(own['type'])) return [own];
  return own['type'].map((type: string) => ({
    ...own,
    type,
    ...(own['enum'] === undefined
      ? {}
      : { enum: own['enum'].filter((value: unknown) => (value === null) === (type === 'null')) }),
  }));
}

const group = (allOf: unknown, anyOf: unknown, oneOf: unknown, more: Schema[]): Schema => ({
  ...(anyOf === undefined ? {} : { anyOf }),
  ...(oneOf === undefined ? {} : { oneOf }),
  ...(allOf === undefined && more.length === 0
    ? {}
    : { allOf: [...((allOf as Schema[]) ?? []), ...more] }),
});

const merge = (a: Schema, b: Schema): Schema => ({
  ...a,
  ...b,
  ...(a['properties'] === undefined && b['properties'] === undefined
    ? {}
    : { properties: { ...a['properties'], ...b['properties'] } }),
  ...(a['required'] === undefined && b['required'] === undefined
    ? {}
    : { required: [...new Set([...(a['required'] ?? []), ...(b['required'] ?? [])])] }),
});

/** What stands at `#/…`. */
export function resolve(document: Document, pointer: string): any {
  const names = pointer.slice(2).split('/');
  const found = names.reduce(
    (at: any, name) => at?.[name.replaceAll('~1', '/').replaceAll('~0', '~')],
    document,
  );
  if (found === undefined) throw new Error(`nothing stands at ${pointer}`);
  return found;
}

type Pair = readonly [released: Schema, current: Schema];

function branchChanges(comparison: Comparison, pair: Pair, at: string): Change[] {
  const [released, current] = pair;
  return [
    ...boundChanges(comparison, pair, at),
    ...enumChanges(comparison, pair, at),
    ...memberChanges(comparison, pair, at),
    ...(released['items'] === undefined && current['items'] === undefined
      ? []
      : schemaChanges(comparison, [released['items'], current['items']], `${at}[]`)),
    ...(released['propertyNames'] === undefined && current['propertyNames'] === undefined
      ? []
      : schemaChanges(
          comparison,
          [released['propertyNames'], current['propertyNames']],
          `${at} (names)`,
        )),
  ];
}

const LOWER = ['minimum', 'exclusiveMinimum', 'minLength', 'minItems', 'minProperties'];
const UPPER = ['maximum', 'exclusiveMaximum', 'maxLength', 'maxItems', 'maxProperties'];
const EXACT = ['pattern', 'format', 'multipleOf', 'uniqueItems', 'contentEncoding'];

/** Bounds of the outer side that the inner one does not keep to. */
function boundChanges({ way }: Comparison, [released, current]: Pair, at: string): Change[] {
  const [inner, outer] = way === 'in' ? [released, current] : [current, released];
  const isWithin = (name: string): boolean => {
    if (outer[name] === undefined) return true;
    if (LOWER.includes(name)) return inner[name] >= outer[name];
    if (UPPER.includes(name)) return inner[name] <= outer[name];
    return isDeepStrictEqual(inner[name], outer[name]);
  };
  const crossed = [...LOWER, ...UPPER, ...EXACT].filter((name) => !isWithin(name));
  // Whoever leaves a member out gets something else than before.
  const isDefaultKept = way === 'out' || isDeepStrictEqual(released['default'], current['default']);
  return [...crossed, ...(isDefaultKept ? [] : ['default'])].map((name) =>
    breaking(at, `${name} was ${show(released[name])} and is ${show(current[name])}`),
  );
}

const show = (value: unknown): string => JSON.stringify(value) ?? 'absent';
const valuesOf = (schema: Schema): readonly unknown[] | undefined =>
  schema['const'] === undefined ? schema['enum'] : [schema['const']];

/**
 * A value taken away is breaking both ways: in an answer it is half of a renaming. A new value in an answer
 * is a notice: the intent of an enum of states or codes is to grow, and a client that knows its default branch lives on.
 */
function enumChanges({ way }: Comparison, [released, current]: Pair, at: string): Change[] {
  const before = valuesOf(released);
  const after = valuesOf(current);
  if (before === undefined && after === undefined) return [];
  if (after === undefined) return way === 'in' ? [] : [breaking(at, 'may be any value')];
  if (before === undefined) {
    return way === 'out' ? [] : [breaking(at, `takes only ${show(after)}`)];
  }
  const removed = before.filter((value) => !after.includes(value));
  const added = after.filter((value) => !before.includes(value));
  return [
    ...removed.map((value) => breaking(at, `the value ${show(value)} was removed`)),
    ...(way === 'in' ? [] : added.map((value) => notice(at, `the value ${show(value)} is new`))),
  ];
}

function memberChanges(comparison: Comparison, [released, current]: Pair, at: string): Change[] {
  const before: Record<string, Schema> = released['properties'] ?? {};
  const after: Record<string, Schema> = current['properties'] ?? {};
  const [inner, outer] = comparison.way === 'in' ? [released, current] : [current, released];
  const missing = ((outer['required'] ?? []) as string[]).filter(
    // A member that is gone altogether is told once.
    (name) => !(inner['required'] ?? []).includes(name) && !(name in before && !(name in after)),
  );
  const required = comparison.way === 'in' ? 'became required' : 'is no longer always there';
  return [
    ...missing.map((name) => breaking(`${at}.${name}`, required)),
    ...Object.entries(before).flatMap(([name, schema]) => {
      const now = after[name];
      if (now === undefined) return [breaking(`${at}.${name}`, 'was removed')];
      return schemaChanges(comparison, [schema, now], `${at}.${name}`);
    }),
    ...closingChanges(comparison, [released, current], at),
  ];
}

/** What becomes of members that are not named: closed to callers, or open where receivers were told that it is closed. */
function closingChanges(comparison: Comparison, [released, current]: Pair, at: string): Change[] {
  const [before, after] = [released['additionalProperties'], current['additionalProperties']];
  const rest = `${at}.*`;
  if (comparison.way === 'in') {
    if (after === false) return before === false ? [] : closedChange(released, rest);
    if (before === false) return [];
  } else if (before === false) {
    const names = Object.keys(current['properties'] ?? {});
    const added = names.filter((name) => !(name in (released['properties'] ?? {})));
    // A receiver that checks against the released schema, and to the letter, would refuse it.
    const told = added.map((name) => notice(`${at}.${name}`, 'is new in a closed object'));
    return after === false ? told : [...told, notice(rest, 'is open now')];
  } else if (after === false) return [];
  if (typeof before !== 'object' && typeof after !== 'object') return [];
  const schemaOf = (value: unknown) => (typeof value === 'object' ? (value as Schema) : {});
  return schemaChanges(comparison, [schemaOf(before), schemaOf(after)], rest);
}

const closedChange = ({ type }: Schema, at: string): Change[] =>
  type === 'object' || type === undefined ? [breaking(at, 'is not taken any more')] : [];
