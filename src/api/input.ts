import type { IncomingMessage } from 'node:http';
import type { z } from 'zod';
import { DomainError } from '../domain/errors.ts';
import { withoutApiKeys } from '../secret-text.ts';
import type { AnyRoute } from './route.ts';

type Issue = Readonly<{ path: string; message: string }>;

/** A refusal that names each problem and where it is. */
export const invalid = (issues: readonly Issue[]): DomainError =>
  new DomainError('validation_failed', 'The request is not valid; see data.issues.', {
    // A member's name is the caller's, and goes back and into logs.
    issues: issues.map(({ path, message }) => ({ path: withoutApiKeys(path), message })),
  });

/** Query parameters by name. A name that is given twice, or is a prototype's, is refused. */
export function parseQuery(request: IncomingMessage): Record<string, string> {
  const url = request.url ?? '';
  const start = url.indexOf('?');
  const query: Record<string, string> = Object.create(null) as Record<string, string>;
  if (start === -1) return query;
  const raw = url.slice(start + 1);
  requireDecodable(raw);
  for (const [name, value] of new URLSearchParams(raw)) {
    if (name in query) throw invalid([{ path: name, message: 'is given twice' }]);
    query[name] = value;
  }
  return query;
}

/** `URLSearchParams` replaces what is not UTF-8; a filter that silently became another is worse. */
function requireDecodable(raw: string): void {
  try {
    decodeURIComponent(raw.replaceAll('+', ' '));
  } catch {
    throw invalid([{ path: 'query', message: 'is not valid percent-encoded UTF-8' }]);
  }
}

/** The input through the route's schemas; strings are checked for what no column can hold. */
export function parseInput(
  route: AnyRoute,
  raw: Readonly<{ params: unknown; query: Record<string, string>; body: unknown }>,
): { params: unknown; query: unknown; body: unknown } {
  requireStorableText('', raw.params);
  requireStorableText('', raw.query);
  requireStorableText('', raw.body);
  const known = Object.keys(route.query?.shape ?? {});
  const unknown = Object.keys(raw.query).filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    throw invalid(unknown.map((name) => ({ path: name, message: 'is not a parameter here' })));
  }
  return {
    params: route.params === undefined ? {} : parse(route.params, raw.params),
    query: route.query === undefined ? {} : parse(route.query, { ...raw.query }),
    body: route.body === undefined ? undefined : parse(route.body, raw.body),
  };
}

function parse(schema: z.ZodType, value: unknown): unknown {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw invalid(result.error.issues.flatMap(toIssues));
}

function toIssues(issue: z.core.$ZodIssue): Issue[] {
  const path = issue.path.map(String).join('.');
  if (issue.code === 'invalid_union') return toUnionIssues(path, issue.errors);
  if (issue.code !== 'unrecognized_keys') return [{ path, message: issue.message }];
  return issue.keys.map((key) => ({ path: joined(path, key), message: 'is not a member here' }));
}

/** A value that is none of several: what is wrong inside the one that it comes nearest to, or else what it may be. */
function toUnionIssues(path: string, tried: readonly (readonly z.core.$ZodIssue[])[]): Issue[] {
  const options = tried.map((issues) => issues.flatMap(toIssues));
  const inside = options.filter((issues) => issues.every((issue) => issue.path !== ''));
  const nearest = inside.toSorted((a, b) => a.length - b.length)[0];
  if (nearest !== undefined) {
    return nearest.map((issue) => ({ ...issue, path: joined(path, issue.path) }));
  }
  const messages = new Set(options.flat().map(({ message }) => message));
  return [{ path, message: [...messages].join('; or: ') }];
}

const joined = (path: string, member: string): string =>
  path === '' ? member : `${path}.${member}`;

const DEPTH_MAX = 32;

/**
 * Refuses NUL, which PostgreSQL's text cannot hold, lone surrogates, which UTF-8 cannot, and nesting
 * that no request needs. Walks by hand, so that depth cannot exhaust the stack.
 */
function requireStorableText(at: string, root: unknown): void {
  const queue: { path: string; value: unknown; depth: number }[] = [
    { path: at, value: root, depth: 0 },
  ];
  for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
    const { path, value, depth } = next;
    if (typeof value === 'string') requireText(path, value);
    if (typeof value !== 'object' || value === null) continue;
    if (depth >= DEPTH_MAX) throw invalid([{ path, message: 'is nested too deeply' }]);
    for (const [name, inner] of Object.entries(value)) {
      requireText(path, name);
      queue.push({ path: path === '' ? name : `${path}.${name}`, value: inner, depth: depth + 1 });
    }
  }
}

function requireText(path: string, text: string): void {
  if (text.includes('\0') || !isWellFormed(text)) {
    throw invalid([{ path, message: 'holds text that cannot be stored' }]);
  }
}

/** ES2024's `String.prototype.isWellFormed`, which Node has had since 20. */
const isWellFormed = (text: string): boolean =>
  (text as string & { isWellFormed: () => boolean }).isWellFormed();
