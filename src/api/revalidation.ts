import { hash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { isGzipped } from './envelope.ts';
import { addHeader } from './headers.ts';
import { invalid } from './input.ts';
import type { AnyRoute } from './route.ts';

type Open = Readonly<{ request: IncomingMessage; response: ServerResponse }>;

/**
 * The status of an answer whose headers are set: 304 instead of 200 where `If-None-Match` has its `ETag` (RFC 9110
 * 13.1.2). Throws for a field that cannot be read.
 */
export function statusFor(route: AnyRoute, { request, response }: Open, status: number): number {
  if (route.revalidated !== true || status !== 200) return status;
  // Which recipients of a message are shown, for one, depends on whose key asks.
  if (route.permission.operation !== 'public') addHeader(response, 'Vary', 'X-API-Key');
  const field = request.headers['if-none-match'];
  if (field === undefined) return status;
  const isNamed = namesTag(field, String(response.getHeader('ETag')));
  if (isNamed !== null) return isNamed ? 304 : status;
  const message = 'must be ETags as they were answered, or *';
  throw invalid([{ path: 'If-None-Match', message }]);
}

/** A strong tag for a text: of its bytes, and of the coding that they go out in (RFC 9110 8.8.3.3). */
export function tagOf(request: IncomingMessage, text: string): string {
  const coding = isGzipped(request, text) ? '-gzip' : '';
  return `"${hash('sha256', text, 'base64url')}${coding}"`;
}

/** One member of the list, which may be empty, and what ends it. */
const MEMBER = /[ \t]*(?:W\/)?("[\x21\x23-\x7e\x80-\xff]*")?[ \t]*(,|$)/y;

/**
 * Whether a field names a tag, by weak comparison: a proxy that packed the answer weakened its tag. Null for a field
 * that cannot be read.
 */
export function namesTag(field: string, tag: string): boolean | null {
  if (field.trim() === '*') return true;
  const tags: string[] = [];
  MEMBER.lastIndex = 0;
  for (let hasMore = true; hasMore; ) {
    const match = MEMBER.exec(field);
    if (match === null) return null;
    if (match[1] !== undefined) tags.push(match[1]);
    hasMore = match[2] === ',';
  }
  return tags.includes(tag);
}
