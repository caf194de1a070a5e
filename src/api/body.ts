import { isUtf8 } from 'node:buffer';
import type { IncomingMessage, ServerResponse } from 'node:http';
import express from 'express';
import { DomainError } from '../domain/errors.ts';
import type { AnyRoute } from './route.ts';

const BODY_BYTES_MAX = 262_144;
const MERGE_PATCH = 'application/merge-patch+json';

type Parse = (
  request: IncomingMessage,
  response: ServerResponse,
  next: (error?: unknown) => void,
) => void;

/** The server makes its requests with Express's own prototype, which is all that this needs. */
const parseJson: Parse = express.json({
  limit: BODY_BYTES_MAX,
  strict: false,
  type: () => true,
  reviver: refusePrototype,
  verify: requireUtf8,
}) as Parse;

/** Whether a request announces a body (RFC 9112 section 6.3). */
export const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;

/** The JSON body of a request, or the documented refusal of what is not one. */
export async function readBody(
  route: AnyRoute,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<unknown> {
  if (route.body === undefined) return undefined;
  if (!hasBody(request)) {
    if (route.bodyOptional) return {};
    throw new DomainError('bad_request', 'A JSON body is needed.');
  }
  requireMediaType(route, request);
  await new Promise<void>((resolve, reject) => {
    parseJson(request, response, (error) => {
      if (error === undefined) resolve();
      else reject(toRefusal(error));
    });
  });
  return (request as IncomingMessage & { body?: unknown }).body;
}

function requireMediaType(route: AnyRoute, request: IncomingMessage): void {
  const [type = '', ...parameters] = (request.headers['content-type'] ?? '')
    .toLowerCase()
    .split(';');
  const accepted = route.mergePatch ? ['application/json', MERGE_PATCH] : ['application/json'];
  const charset = parameters.map((p) => p.trim()).find((p) => p.startsWith('charset='));
  const isUtf8 = charset === undefined || /^charset="?utf-?8"?$/.test(charset);
  if (accepted.includes(type.trim()) && isUtf8) return;
  throw new DomainError('unsupported_media_type', `Send ${accepted.join(' or ')} in UTF-8.`);
}

/** `__proto__` is an ordinary member to JSON and a trap to whoever copies it. */
function refusePrototype(name: string, value: unknown): unknown {
  if (name === '__proto__') throw new SyntaxError('a member may not be called __proto__');
  return value;
}

/** What is not UTF-8 would be read as something else; RFC 8259 section 8.1 allows nothing else. */
function requireUtf8(_request: unknown, _response: unknown, bytes: Buffer): void {
  if (!isUtf8(bytes)) throw new SyntaxError('not UTF-8');
}

function toRefusal(error: unknown): DomainError {
  const { type, status } = error as { type?: string; status?: number };
  if (type === 'entity.too.large') {
    return new DomainError('payload_too_large', `A body takes at most ${BODY_BYTES_MAX} bytes.`);
  }
  if (status === 415) return new DomainError('unsupported_media_type', 'Unsupported encoding.');
  return new DomainError('bad_request', 'The body is not valid JSON.');
}
