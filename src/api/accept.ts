import type { IncomingMessage } from 'node:http';
import { DomainError } from '../domain/errors.ts';
import type { AnyRoute } from './route.ts';

/** Refuses a request whose `Accept` wants nothing that the route has. */
export function requireAcceptable(route: AnyRoute, request: IncomingMessage): void {
  const { accept } = request.headers;
  if (accept === undefined || accept === '*/*') return;
  const offered = ['application/json', ...Object.keys(route.produces ?? {})];
  const isOffered = acceptedTypes(accept).some((type) =>
    offered.some((own) => type === '*/*' || type === own || type === own.replace(/\/.*/, '/*')),
  );
  if (isOffered) return;
  throw new DomainError('not_acceptable', `This can be had as ${offered.join(', ')}.`);
}

/** Media types that an `Accept` header wants, without those that it refuses (RFC 9110 12.5.1). */
export const acceptedTypes = (accept: string): string[] =>
  accept
    .toLowerCase()
    .split(',')
    .map((part) => part.split(';').map((piece) => piece.trim()))
    .filter(([, ...parameters]) => !parameters.some((text) => /^q=0(\.0*)?$/.test(text)))
    .map(([type = '']) => type);

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
