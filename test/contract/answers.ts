import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { branchesOf, type Document, type Schema } from './narrowed.ts';

/** One answer, unpacked. */
export type Answered = Readonly<{
  status: number;
  headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  text: string;
}>;

/** Says what is wrong with an answer to an operation; empty when the contract has it so. */
export type Judge = (operation: Operation, answer: Answered) => string[];
export type Operation = Readonly<{
  id: string;
  method: string;
  path: string;
  /** As the document has it. */
  spec: Readonly<Record<string, any>>;
}>;

/** Every operation of a document. */
export function operationsOf(document: Document): Operation[] {
  const items = Object.entries<Record<string, any>>(document['paths']);
  return items.flatMap(([path, item]) =>
    Object.entries(item).map(([method, spec]) => ({ id: spec.operationId, method, path, spec })),
  );
}

const FORMATS = {
  'date-time': /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/,
  uuid: /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
  binary: true,
} as const;

/** Judges by the document alone: status, media type, schema, members that it does not name. */
export function judgeOf(document: Document): Judge {
  const ajv = new Ajv2020({ strict: false, validateSchema: false, formats: FORMATS });
  ajv.addSchema(document, 'contract');
  const compiled = new Map<string, ValidateFunction>();
  const checkerOf = (pointer: string): ValidateFunction => {
    const known = compiled.get(pointer) ?? ajv.compile({ $ref: `contract#${pointer}` });
    compiled.set(pointer, known);
    return known;
  };
  return ({ method, path, spec }, { status, headers, text }) => {
    const response = spec['responses'][String(status)];
    if (response === undefined)
      return [`status ${status} is not documented: ${text.slice(0, 300)}`];
    const wrong = isServerError(status) ? [`status ${status}`] : [];
    if (headers['x-request-id'] === undefined) wrong.push('no X-Request-Id');
    if (status === 503 && headers['retry-after'] === undefined) wrong.push('no Retry-After');
    const [type = ''] = String(headers['content-type']).split(';');
    const media = response.content?.[type];
    if (media === undefined) return [...wrong, `${status} as ${type} is not documented`];
    const steps = ['paths', path, method, 'responses', status, 'content', type, 'schema'];
    const check = checkerOf(steps.map((step) => `/${pointerStep(String(step))}`).join(''));
    const value: unknown = type === 'application/json' ? JSON.parse(text) : text;
    if (!check(value)) wrong.push(`${status}: ${ajv.errorsText(check.errors)}`);
    return [...wrong, ...undocumented(document, [media.schema], value, String(status))];
  };
}

const isServerError = (status: number): boolean => status >= 500 && status !== 503;

/** A step of a JSON pointer that stands in a URI (RFC 6901, sections 3 and 6). */
const pointerStep = (step: string): string =>
  encodeURIComponent(step.replaceAll('~', '~0').replaceAll('/', '~1'));

/** Members that no schema names: a schema of an answer is not closed, but an integrator must know all of it. */
function undocumented(
  document: Document,
  schemas: readonly Schema[],
  value: unknown,
  at: string,
): string[] {
  if (typeof value !== 'object' || value === null) return [];
  const branches = schemas.flatMap((schema) => branchesOf(document, schema));
  if (Array.isArray(value)) {
    const items = branches.flatMap(({ items: item }) => (item === undefined ? [] : [item]));
    return value.flatMap((one) => undocumented(document, items, one, `${at}[]`));
  }
  const objects = branches.filter(({ type }) => type === 'object' || type === undefined);
  const isOpen = ({ properties = {}, additionalProperties }: Schema) =>
    Object.keys(properties).length === 0 || (additionalProperties ?? false) !== false;
  if (objects.some(isOpen)) return [];
  return Object.entries(value).flatMap(([name, member]) => {
    const known = objects.flatMap(({ properties }) => properties[name] ?? []);
    if (known.length === 0) return [`${at}.${name} is not documented`];
    return undocumented(document, known, member, `${at}.${name}`);
  });
}
