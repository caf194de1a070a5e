import fc from 'fast-check';
import { branchesOf, type Document, type Schema } from './narrowed.ts';

/** Values that are known to mean something, by the name of the member or parameter that takes them. */
export type Hints = Readonly<Record<string, readonly unknown[]>>;
type Source = Readonly<{ document: Document; hints: Hints }>;
type Values = fc.Arbitrary<unknown>;

/** Text that has broken programs: what a column, a header, a log line or a terminal may not take. */
export const ODD_TEXT: readonly string[] = [
  '',
  ' ',
  '\0',
  'a\0b',
  '\ud800',
  '\u202egnp.exe',
  'e\u0301',
  'ﷺ'.repeat(50),
  '👩‍👩‍👧‍👦',
  '\ufeffx',
  "' or '1'='1",
  '%',
  '\\',
  '../../etc/passwd',
  'null',
  '__proto__',
  'a'.repeat(254),
  'ä'.repeat(1_001),
  'x'.repeat(5_000),
  `nmg_${'0'.repeat(64)}`,
  '\r\nX-Evil: 1',
  '2027-02-30T00:00:00Z',
  '9223372036854775808',
  'NaN',
];

const ODD_VALUES: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  0.5,
  -0,
  1e308,
  2 ** 31,
  2 ** 53,
  [],
  {},
  [null],
  [[[[]]]],
  { length: 1 },
  { constructor: { prototype: {} } },
  Array.from({ length: 40 }).reduce<unknown>((inner) => [inner], 'deep'),
  ...ODD_TEXT,
];

/** Values that a schema takes. */
export function valid(source: Source, schema: Schema, name = ''): Values {
  const own = fc.oneof(...branchesOf(source.document, schema).map((one) => branch(source, one)));
  const hinted = source.hints[name];
  if (hinted === undefined) return own;
  return fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...hinted) },
    { weight: 1, arbitrary: own },
  );
}

function branch(source: Source, schema: Schema): Values {
  if (schema['const'] !== undefined) return fc.constant(schema['const']);
  if (schema['enum'] !== undefined) return fc.constantFrom(...(schema['enum'] as unknown[]));
  switch (schema['type']) {
    case 'string':
      return text(schema);
    case 'integer':
      return fc.integer(boundsOf(schema));
    case 'number':
      return fc.double({ ...boundsOf(schema), noNaN: true, noDefaultInfinity: true });
    case 'boolean':
      return fc.boolean();
    case 'null':
      return fc.constant(null);
    case 'array':
      return fc.array(valid(source, schema['items'] ?? {}), {
        minLength: schema['minItems'] ?? 0,
        maxLength: Math.min(schema['maxItems'] ?? 3, (schema['minItems'] ?? 0) + 3),
      });
    case 'object':
      return members(source, schema);
    default:
      return fc.jsonValue({ maxDepth: 2 }) as Values;
  }
}

/** Integers by default up to 2^53, the greatest that JSON's readers agree on. */
function boundsOf(schema: Schema): { min: number; max: number } {
  const min = schema['minimum'] ?? (schema['exclusiveMinimum'] ?? -Number.MAX_SAFE_INTEGER - 1) + 1;
  return { min, max: schema['maximum'] ?? Number.MAX_SAFE_INTEGER };
}

function text(schema: Schema): fc.Arbitrary<string> {
  if (schema['pattern'] !== undefined) return fc.stringMatching(new RegExp(schema['pattern']));
  if (schema['format'] === 'uuid') return fc.uuid();
  if (schema['format'] === 'date-time') {
    const within = { min: new Date(0), max: new Date('9998-12-31'), noInvalidDate: true } as const;
    return fc.date(within).map((date) => date.toISOString());
  }
  const minLength = schema['minLength'] ?? 0;
  const maxLength = Math.min(schema['maxLength'] ?? 40, minLength + 40);
  return fc.string({ minLength, maxLength, unit: fc.constantFrom(...'abcXYZ019 -_.@ä€😀') });
}

function members(source: Source, schema: Schema): Values {
  const known: Record<string, Schema> = schema['properties'] ?? {};
  const rest = schema['additionalProperties'];
  if (Object.keys(known).length === 0 && typeof rest === 'object') {
    return fc.dictionary(fc.string({ maxLength: 20 }), valid(source, rest), { maxKeys: 3 });
  }
  const values: Record<string, Values> = Object.fromEntries(
    Object.entries(known).map(([name, one]) => [name, valid(source, one, name)]),
  );
  return fc.record(values, { requiredKeys: schema['required'] ?? [] });
}

/** Values that a schema does not take, or hardly: each is spoilt in one place. */
export function spoilt(source: Source, schema: Schema): Values {
  const odd = fc.constantFrom(...ODD_VALUES);
  const branches = branchesOf(source.document, schema);
  return fc.oneof(odd, ...branches.map((one) => spoiltBranch(source, one, odd)));
}

function spoiltBranch(source: Source, schema: Schema, odd: Values): Values {
  const beyond = Object.entries(schema).flatMap(([name, bound]) => beyondBound(name, bound));
  const edges = beyond.length === 0 ? [] : [fc.constantFrom(...beyond)];
  if (schema['type'] === 'array') {
    const one = fc.array(spoilt(source, schema['items'] ?? {}), { minLength: 1, maxLength: 3 });
    return fc.oneof(odd, one, ...edges);
  }
  if (schema['type'] !== 'object') return fc.oneof(odd, ...edges);
  const whole = members(source, schema) as fc.Arbitrary<Record<string, unknown>>;
  const names = Object.entries<Schema>(schema['properties'] ?? {});
  const unknown = fc.tuple(fc.constantFrom('surprise', 'Name', 'a\0b', 'constructor'), odd);
  const wrong = names.map(([name, one]) => fc.tuple(fc.constant(name), spoilt(source, one)));
  const added = fc.oneof(unknown, ...wrong).map(([name, value]) => ({ [name]: value }));
  const lacking = names.map(([name]) => fc.constant({ [name]: undefined }));
  // What is undefined does not get into the JSON.
  return fc.tuple(whole, fc.oneof(added, ...lacking)).map(([all, one]) => ({ ...all, ...one }));
}

/** The last that a bound lets in, and the first that it does not. */
function beyondBound(name: string, bound: unknown): unknown[] {
  if (typeof bound !== 'number') return [];
  const fill = (length: number): string => 'a'.repeat(Math.min(Math.max(length, 0), 100_000));
  if (/imum$/i.test(name)) return [bound - 1, bound, bound + 1, bound + 0.5];
  if (/Length$/.test(name)) return [fill(bound - 1), fill(bound), fill(bound + 1)];
  if (!/Items$/.test(name)) return [];
  const list = (length: number) => new Array<string>(Math.max(length, 0)).fill('a');
  return [list(bound), list(bound + 1), list(bound - 1)];
}
