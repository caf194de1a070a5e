import { hash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { addHeader } from './headers.ts';
import { invalid } from './input.ts';
import type { AnyRoute } from './route.ts';

type Open = Readonly<{ request: IncomingMessage; response: ServerResponse }>;
type Shown = Readonly<{ status: number; text: string; revision: bigint | null }>;

/** Whether what a route answers has an `ETag` to be asked for with `If-None-Match`. */
export const isTagged = (route: AnyRoute): boolean =>
  route.method === 'get' && route.untagged !== true;

/** Refuses an `If-None-Match` that cannot be read, on every read alike and before anything is done for it. */
export function requireReadableTags(request: IncomingMessage): void {
  const field = request.headers['if-none-match'];
  if (field === undefined || readTags(field) !== null) return;
  const message = 'must be ETags as they were answered, or *';
  throw invalid([{ path: 'If-None-Match', message }]);
}

/**
 * Gives the 200 of a read its `ETag`, and returns its status: 304 where the caller has it (RFC 9110 13.1.2). The tag is
 * of the text and nothing else, since `X-Request-Id` and the bucket's fields differ in every answer.
 */
export function revalidate(route: AnyRoute, { request, response }: Open, shown: Shown): number {
  if (!isTagged(route) || shown.status !== 200) return shown.status;
  // Which recipients of a message are shown, for one, depends on whose key asks.
  if (route.permission.operation !== 'public') addHeader(response, 'Vary', 'X-API-Key');
  const tag = tagOf(route, shown);
  response.setHeader('ETag', tag);
  return isUnchanged(request, tag) ? 304 : shown.status;
}

/** Whether `If-None-Match` names a tag, so that its caller needs no body. */
export function isUnchanged(request: IncomingMessage, tag: string): boolean {
  const tags = readTags(request.headers['if-none-match'] ?? '');
  return tags === 'any' || (tags ?? []).includes(tag.replace(/^W\//, ''));
}

/** 128 bits: nobody can make two texts of which one hides behind the other's tag. */
const DIGEST_LENGTH = 22;

/**
 * The revision, where all that is shown moves with it; with a digest of the text behind it, where use, limits or the
 * clock are shown as well; the digest alone, where there is no revision. That one is weak (RFC 9110 8.8.3), as it
 * is the same for the packed text.
 */
function tagOf(route: AnyRoute, { text, revision }: Shown): string {
  if (revision !== null && route.changesWithRevision === true) return `"${revision}"`;
  const digest = hash('sha256', text, 'base64url').slice(0, DIGEST_LENGTH);
  return revision === null ? `W/"${digest}"` : `"${revision}-${digest}"`;
}

/** The revision in a tag that was answered, whatever else moves it; null for what is no such tag. */
export function revisionIn(tag: string): bigint | null {
  const revision = /^"(\d{1,18})(?:-[\w-]{22})?"$/.exec(tag)?.[1];
  return revision === undefined ? null : BigInt(revision);
}

/** One member of the list, which may be empty, and what ends it. */
const MEMBER = /[ \t]*(?:W\/)?("[\x21\x23-\x7e\x80-\xff]*")?[ \t]*(,|$)/y;

/**
 * The tags in a field without their weakness, as they are compared weakly: a proxy that packed the answer weakened its
 * tag. Null for a field that cannot be read.
 */
function readTags(field: string): readonly string[] | 'any' | null {
  if (field.trim() === '*') return 'any';
  const tags: string[] = [];
  MEMBER.lastIndex = 0;
  for (let hasMore = true; hasMore; ) {
    const match = MEMBER.exec(field);
    if (match === null) return null;
    if (match[1] !== undefined) tags.push(match[1]);
    hasMore = match[2] === ',';
  }
  return tags;
}
