import type { IncomingMessage } from 'node:http';
import { DomainError } from '../domain/errors.ts';
import type { AnyRoute } from './route.ts';

/** Refuses a request whose `Accept` wants nothing that the route has. */
export function requireAcceptable(route: AnyRoute, request: IncomingMessage): void {
  const offered = ['application/json', ...Object.keys(route.produces ?? {})];
  if (preferredType(request.headers.accept, offered) !== null) return;
  throw new DomainError('not_acceptable', `This can be had as ${offered.join(', ')}.`);
}

/**
 * The offered media type that an `Accept` header wants most (RFC 9110 12.5.1): by weight, then one that is named
 * before one that a range only covers, then in the order offered. Null when it wants none of them.
 */
export function preferredType(
  accept: string | undefined,
  offered: readonly string[],
): string | null {
  if (accept === undefined || accept === '*/*') return offered[0] ?? null;
  const ranges = rangesOf(accept);
  let best: Wanted & { type: string | null } = { weight: 0, precision: 0, type: null };
  for (const type of offered) {
    const { weight, precision } = wantedOf(type, ranges);
    const isBetter =
      weight > best.weight || (weight > 0 && weight === best.weight && precision > best.precision);
    if (isBetter) best = { weight, precision, type };
  }
  return best.type;
}

type Range = Readonly<{ range: string; weight: number }>;
type Wanted = { weight: number; precision: number };

function rangesOf(accept: string): readonly Range[] {
  return accept
    .toLowerCase()
    .split(',')
    .map((part) => {
      const [range = '', ...parameters] = part.split(';').map((piece) => piece.trim());
      const weight = parameters.find((text) => text.startsWith('q='))?.slice(2);
      return { range, weight: weight === undefined ? 1 : Number(weight) || 0 };
    });
}

/** The most precise range that covers a type decides of it. */
function wantedOf(type: string, ranges: readonly Range[]): Wanted {
  const levels = ['*/*', type.replace(/\/.*/, '/*'), type];
  let wanted: Wanted = { weight: 0, precision: -1 };
  for (const { range, weight } of ranges) {
    const precision = levels.indexOf(range);
    if (precision > wanted.precision) wanted = { weight, precision };
  }
  return wanted;
}

/** True when gzip, or anything, is an accepted coding and gzip itself is not refused (RFC 9110 12.5.3). */
export function acceptsGzip(request: IncomingMessage): boolean {
  const accepted = request.headers['accept-encoding'];
  if (typeof accepted !== 'string') return false;
  const codings = new Map(
    accepted.split(',').map((part) => {
      const [coding = '', ...parameters] = part
        .trim()
        .toLowerCase()
        .split(/\s*;\s*/);
      return [coding, !parameters.some((p) => /^q=0(\.0*)?$/.test(p))] as const;
    }),
  );
  return codings.get('gzip') ?? codings.get('*') ?? false;
}
