import type { IncomingMessage, ServerResponse } from 'node:http';
import { constants, gzip } from 'node:zlib';
import { DomainError } from '../domain/errors.ts';
import { acceptsGzip } from './accept.ts';
import { STATUS } from './error-status.ts';
import { addHeader } from './headers.ts';

/** The three members of every JSON answer. */
export type Envelope = Readonly<{
  data: unknown;
  error: string | null;
  message: string;
  /** The data as text that goes out untouched, instead of `data`. */
  dataText?: string;
}>;

export const JSON_TYPE = 'application/json; charset=utf-8';
const GZIP_BYTES_MIN = 1_024;

/** Ends the response with an envelope; gzip when asked for and worth it. */
export function sendEnvelope(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  envelope: Envelope,
): void {
  sendText(request, response, status, { text: textOf(envelope), contentType: JSON_TYPE });
}

/** An envelope as JSON. */
export const textOf = ({ data, error, message, dataText }: Envelope): string =>
  dataText === undefined
    ? JSON.stringify({ data, error, message })
    : `{"data":${dataText},"error":null,"message":${JSON.stringify(message)}}`;

const isLong = (text: string): boolean => text.length >= GZIP_BYTES_MIN;

/** Whether a text goes out packed: its client takes that, and it is worth it. */
const isGzipped = (request: IncomingMessage, text: string): boolean =>
  isLong(text) && acceptsGzip(request);

/** Ends the response with a text; a 304 with the headers of its 200 alone (RFC 9110 15.4.5). */
export function sendText(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  { text, contentType }: Readonly<{ text: string; contentType: string }>,
): void {
  if (response.headersSent || response.destroyed) return;
  response.statusCode = status;
  if (isLong(text)) addHeader(response, 'Vary', 'Accept-Encoding');
  if (status === 304) {
    response.end();
    return;
  }
  response.setHeader('Content-Type', contentType);
  if (isGzipped(request, text)) {
    gzip(text, { level: constants.Z_BEST_SPEED }, (error, packed) => {
      if (error !== null) {
        response.destroy(error);
        return;
      }
      response.setHeader('Content-Encoding', 'gzip');
      response.setHeader('Content-Length', packed.length);
      response.end(request.method === 'HEAD' ? undefined : packed);
    });
    return;
  }
  response.setHeader('Content-Length', Buffer.byteLength(text));
  response.end(request.method === 'HEAD' ? undefined : text);
}

/** A refusal as its envelope and status. What is not a refusal is a bug: nothing of it is told. */
export function describeError(error: unknown): { status: number; envelope: Envelope } {
  if (error instanceof DomainError) {
    const {
      retry_after_seconds: _,
      accepted_scopes: _scopes,
      ...rest
    } = (error.details ?? {}) as Record<string, unknown>;
    return {
      status: STATUS[error.code],
      envelope: {
        data: Object.keys(rest).length === 0 ? null : rest,
        error: error.code,
        message: error.message,
      },
    };
  }
  return {
    status: 500,
    envelope: {
      data: null,
      error: 'internal',
      message: 'Something went wrong here. The request id tells the operator what.',
    },
  };
}

/** Seconds for `Retry-After`, where a refusal knows them. */
export function retryAfterOf(error: unknown): number | null {
  if (!(error instanceof DomainError)) return null;
  const details = error.details as { retry_after_seconds?: number } | null;
  return details?.retry_after_seconds ?? (error.code === 'unavailable' ? 1 : null);
}
