import { isDeepStrictEqual } from 'node:util';
import { type Change, type Comparison, type Document, resolve, schemaChanges } from './narrowed.ts';

/**
 * What a client of the released contract, or a receiver of its webhooks, would trip over in the current one.
 * Stands beside `redocly diff`, which is experimental and rates as less than major: an error code that is gone,
 * from the contract or from one operation, another default, a required body where there was none, and a header
 * of a delivery that may be absent now.
 */
export function contractChanges(released: Document, current: Document): Change[] {
  const at = (way: Comparison['way']): Comparison => ({ released, current, way });
  return [
    ...itemsChanges([released['paths'], current['paths']], { taken: at('in'), given: at('out') }),
    // What is sent to a receiver is our answer, and what it says is its request.
    ...itemsChanges([released['webhooks'], current['webhooks']], {
      taken: at('out'),
      given: at('in'),
    }),
    ...schemeChanges(released, current),
  ];
}

/** Whether a release may break: only a new major version may, and below 1.0.0 a new minor one (semver.org, 4). */
export function mayBreak(released: string, current: string): boolean {
  const [major = 0, minor = 0] = released.split('.').map(Number);
  const [nowMajor = 0, nowMinor = 0] = current.split('.').map(Number);
  return nowMajor > major || (nowMajor === 0 && major === 0 && nowMinor > minor);
}

/** Ways of what the other side writes (`taken`) and of what it is told (`given`). */
type Ways = Readonly<{ taken: Comparison; given: Comparison }>;
type Node = Readonly<Record<string, any>>;
type Pair<T = Node> = readonly [released: T, current: T];

const breaking = (at: string, what: string): Change => ({ level: 'breaking', at, what });

/** Compares what two objects have under the same names; a name that is gone is breaking. */
function byName(
  [released = {}, current = {}]: readonly [Node | undefined, Node | undefined],
  at: (name: string) => string,
  compare: (pair: Pair, at: string) => Change[],
): Change[] {
  return Object.entries(released).flatMap(([name, before]) => {
    const after = current[name];
    if (after === undefined) return [breaking(at(name), 'was removed')];
    return compare([before as Node, after as Node], at(name));
  });
}

const METHODS = ['get', 'put', 'post', 'delete', 'options', 'head', 'patch', 'trace'];

function itemsChanges(items: readonly [Node | undefined, Node | undefined], ways: Ways): Change[] {
  const operationsOf = (item: Node): Node =>
    Object.fromEntries(METHODS.filter((name) => name in item).map((name) => [name, item[name]]));
  return byName(
    items,
    (path) => path,
    ([before, after], path) =>
      byName(
        [operationsOf(before), operationsOf(after)],
        (method) => `${method.toUpperCase()} ${path}`,
        (pair, at) => operationChanges(ways, pair, at),
      ),
  );
}

function operationChanges(ways: Ways, [before, after]: Pair, at: string): Change[] {
  const { released, current } = ways.taken;
  const renamed =
    before['operationId'] === after['operationId']
      ? []
      : [breaking(at, `operationId is ${after['operationId']}, was ${before['operationId']}`)];
  const responsesOf = (document: Document, operation: Node): Node =>
    Object.fromEntries(
      Object.entries(operation['responses']).map(([status, response]) => [
        status,
        resolved(document, response as Node),
      ]),
    );
  const [answered, answers] = [responsesOf(released, before), responsesOf(current, after)];
  const added = Object.keys(answers).filter((status) => !(status in answered));
  return [
    ...renamed,
    ...securityChanges([before, after], at),
    ...parameterChanges(ways, [before, after], at),
    ...bodyChanges(ways.taken, [before['requestBody'], after['requestBody']], `${at} body`),
    ...byName(
      [answered, answers],
      (status) => `${at} ${status}`,
      (pair, place) => responseChanges(ways.given, pair, place),
    ),
    ...added.map((status) => ({
      level: 'notice' as const,
      at: `${at} ${status}`,
      what: 'is a new status',
    })),
  ];
}

const resolved = (document: Document, node: Node): Node =>
  node['$ref'] === undefined ? node : resolve(document, node['$ref']);

/** Each released way in must still be one: an alternative that asks for no more. Public is the one that asks for nothing. */
function securityChanges([before, after]: Pair, at: string): Change[] {
  const waysIn = ({ security }: Node): string[][] =>
    security === undefined || security.length === 0 ? [[]] : security.map(Object.keys);
  const now = waysIn(after);
  const closed = waysIn(before).filter(
    (schemes) => !now.some((asked) => asked.every((scheme) => schemes.includes(scheme))),
  );
  return closed.map((schemes) =>
    breaking(at, `cannot be called with ${schemes.join(' and ') || 'no credentials'} any more`),
  );
}

function schemeChanges(released: Document, current: Document): Change[] {
  const schemesOf = ({ components }: Document): Node => components?.securitySchemes ?? {};
  return byName(
    [schemesOf(released), schemesOf(current)],
    (name) => `security scheme ${name}`,
    ([{ description: _was, ...before }, { description: _is, ...after }], at) =>
      isDeepStrictEqual(before, after) ? [] : [breaking(at, 'is another')],
  );
}

function parameterChanges({ taken }: Ways, [before, after]: Pair, at: string): Change[] {
  const parametersOf = (document: Document, operation: Node): Node =>
    Object.fromEntries(
      ((operation['parameters'] ?? []) as Node[])
        .map((parameter) => resolved(document, parameter))
        .map((parameter) => [`${parameter['in']} ${parameter['name']}`, parameter]),
    );
  const [had, has] = [parametersOf(taken.released, before), parametersOf(taken.current, after)];
  const isSent = taken.way === 'in';
  const demanded = Object.entries(has).filter(
    ([name, { required }]) => isSent && required === true && had[name] === undefined,
  );
  return [
    ...demanded.map(([name]) => breaking(`${at} ${name}`, 'is new, and required')),
    ...byName(
      [had, has],
      (name) => `${at} ${name}`,
      ([was, is], place) => [
        ...requiredChange(taken, [was, is], place),
        ...schemaChanges(taken, [was['schema'], is['schema']], place),
      ],
    ),
  ];
}

/** Nothing more may be asked of the one who writes, and nothing be left out by us. */
function requiredChange({ way }: Comparison, [was, is]: Pair, at: string): Change[] {
  const [before, now] = [was['required'] === true, is['required'] === true];
  if (way === 'in' && !before && now) return [breaking(at, 'became required')];
  if (way === 'out' && before && !now) return [breaking(at, 'is no longer always there')];
  return [];
}

function bodyChanges(
  comparison: Comparison,
  [before, after]: readonly [Node | undefined, Node | undefined],
  at: string,
): Change[] {
  if (before === undefined) {
    const isAsked = comparison.way === 'in' && after?.['required'] === true;
    return isAsked ? [breaking(at, 'is new, and required')] : [];
  }
  if (after === undefined) return [breaking(at, 'was removed')];
  return [
    ...requiredChange(comparison, [before, after], at),
    ...contentChanges(comparison, [before, after], at),
  ];
}

const contentChanges = (comparison: Comparison, [before, after]: Pair, at: string): Change[] =>
  byName(
    [before['content'], after['content']],
    (type) => `${at} ${type}`,
    ([was, is], place) => schemaChanges(comparison, [was['schema'], is['schema']], place),
  );

function responseChanges(comparison: Comparison, [before, after]: Pair, at: string): Change[] {
  const codesOf = ({ description }: Node): string[] =>
    [...String(description).matchAll(/`([a-z_]+)`/g)].map(([, code]) => code ?? '');
  const isRefusal = /[45]\d\d$/.test(at);
  // A refusal is described by its codes, which is where an operation says which it has.
  const gone = isRefusal ? codesOf(before).filter((code) => !codesOf(after).includes(code)) : [];
  return [
    ...gone.map((code) => breaking(at, `the error code ${code} was removed`)),
    ...contentChanges(comparison, [before, after], at),
    ...byName(
      [before['headers'], after['headers']],
      (name) => `${at} header ${name}`,
      ([was, is], place) => [
        ...requiredChange(comparison, [was, is], place),
        ...schemaChanges(comparison, [was['schema'], is['schema']], place),
      ],
    ),
  ];
}
