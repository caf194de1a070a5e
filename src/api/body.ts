import type { IncomingMessage } from 'node:http';
import { promisify } from 'node:util';
import { brotliDecompress, gunzip, inflate } from 'node:zlib';
import { DomainError } from '../domain/errors.ts';
import type { Context } from './context.ts';
import type { AnyRoute, Taken } from './route.ts';

const BODY_BYTES_MAX = 262_144;
const MERGE_PATCH = 'application/merge-patch+json';

const UNPACK = {
  gzip: promisify(gunzip),
  deflate: promisify(inflate),
  br: promisify(brotliDecompress),
} as const;

/** Whether a request announces a body (RFC 9112 section 6.3). */
export const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;

/**
 * The JSON body of a request, or the documented refusal of what is not one. A body that is too large
 * is refused as soon as that is known; the rest of it is not read.
 */
export async function readBody(route: AnyRoute, request: IncomingMessage): Promise<unknown> {
  if (route.body === undefined) return undefined;
  if (hasBody(request)) requireMediaType(route, request);
  const bytes = hasBody(request) ? await unpack(request, await readBytes(request)) : NOTHING;
  if (bytes.length > 0) return parseJson(bytes);
  if (route.bodyOptional) return {};
  throw new DomainError('bad_request', 'A JSON body is needed.');
}

const NOTHING = Buffer.alloc(0);

/** All bytes of a body as they were sent, packed or not. */
function readBytes(request: IncomingMessage): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > BODY_BYTES_MAX) throw tooLarge();
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const settle = (refusal: DomainError | null) => {
      request.off('data', take).off('end', end).off('close', cut);
      if (refusal === null) resolve(Buffer.concat(chunks, length));
      else reject(refusal);
    };
    const take = (chunk: Buffer) => {
      chunks.push(chunk);
      length += chunk.length;
      if (length <= BODY_BYTES_MAX) return;
      request.pause();
      settle(tooLarge());
    };
    const end = () => settle(null);
    const cut = () => settle(new DomainError('bad_request', 'The body was cut short.'));
    // A connection that breaks is an error and a close; one of them is enough.
    request.on('error', () => undefined);
    request.on('data', take).on('end', end).on('close', cut);
  });
}

async function unpack(request: IncomingMessage, bytes: Buffer): Promise<Buffer> {
  const coding = (request.headers['content-encoding'] ?? 'identity').toLowerCase();
  if (coding === 'identity') return bytes;
  return UNPACK[coding as keyof typeof UNPACK](bytes, { maxOutputLength: BODY_BYTES_MAX }).catch(
    (error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw tooLarge();
      throw new DomainError('bad_request', `The body is not valid ${coding}.`);
    },
  );
}

/** What is not UTF-8 would be read as something else; RFC 8259 section 8.1 allows nothing else. */
function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes), refusePrototype);
  } catch {
    throw new DomainError('bad_request', 'The body is not valid JSON.');
  }
}

/** What a route's intake makes of the body; null where a route has none. */
export async function takeIn(
  context: Context,
  { intake }: AnyRoute,
  request: IncomingMessage,
): Promise<Taken | null> {
  if (intake === undefined) return null;
  const [type = ''] = (request.headers['content-type'] ?? '').toLowerCase().split(';');
  const encoding = request.headers['content-encoding'] ?? 'identity';
  if (!intake.mediaTypes.includes(type.trim()) || encoding !== 'identity') {
    const accepted = intake.mediaTypes.join(' or ');
    throw new DomainError('unsupported_media_type', `Send ${accepted}, not compressed.`);
  }
  return intake.receive(context, request);
}

function requireMediaType(route: AnyRoute, request: IncomingMessage): void {
  const [type = '', ...parameters] = (request.headers['content-type'] ?? '')
    .toLowerCase()
    .split(';');
  const accepted = route.mergePatch ? ['application/json', MERGE_PATCH] : ['application/json'];
  const charset = parameters.map((p) => p.trim()).find((p) => p.startsWith('charset='));
  const isUtf8 = charset === undefined || /^charset="?utf-?8"?$/.test(charset);
  if (!accepted.includes(type.trim()) || !isUtf8) {
    throw new DomainError('unsupported_media_type', `Send ${accepted.join(' or ')} in UTF-8.`);
  }
  const coding = (request.headers['content-encoding'] ?? 'identity').toLowerCase();
  if (coding === 'identity' || Object.hasOwn(UNPACK, coding)) return;
  throw new DomainError('unsupported_media_type', `Pack with ${Object.keys(UNPACK).join(', ')}.`);
}

/** `__proto__` is an ordinary member to JSON and a trap to whoever copies it. */
function refusePrototype(name: string, value: unknown): unknown {
  if (name === '__proto__') throw new SyntaxError('a member may not be called __proto__');
  return value;
}

const tooLarge = () =>
  new DomainError('payload_too_large', `A body takes at most ${BODY_BYTES_MAX} bytes.`);
