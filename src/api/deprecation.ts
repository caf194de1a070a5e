import type { ServerResponse } from 'node:http';
import type { Context } from './context.ts';
import { addHeader } from './headers.ts';
import { BASE_PATH } from './paths.ts';

/** That a route will go: days in UTC, what to call instead (a path of the table), and why, in a sentence. */
export type Deprecation = Readonly<{
  since: string;
  sunset: string;
  successor?: string;
  note: string;
}>;

const NOTICE_MONTHS_MIN = 6;

/** Throws for days that are none, and for a sunset that leaves its callers less than six calendar months. */
export function requireNotice({ since, sunset }: Deprecation): void {
  const [from, until] = [dayOf(since), dayOf(sunset)];
  const month = from.getUTCMonth() + NOTICE_MONTHS_MIN;
  // The sixth month may be shorter: its last day then stands for the day that it does not have.
  const lastDay = new Date(Date.UTC(from.getUTCFullYear(), month + 1, 0)).getUTCDate();
  const day = Math.min(from.getUTCDate(), lastDay);
  if (until.getTime() >= Date.UTC(from.getUTCFullYear(), month, day)) return;
  throw new Error(`${since} to ${sunset} is a notice of less than ${NOTICE_MONTHS_MIN} months`);
}

type Told = Readonly<{ id: string; deprecated?: Deprecation }>;

/**
 * Tells in every answer of a route that will go that it will (RFC 9745, RFC 8594), and where to read of it;
 * counts that it was called. Of any other route it says nothing.
 */
export function announceDeprecation(
  { metrics }: Pick<Context, 'metrics'>,
  { id, deprecated }: Told,
  response: ServerResponse,
): void {
  if (deprecated === undefined) return;
  const { since, sunset, successor } = deprecated;
  metrics.deprecatedRequests.inc({ route: id });
  response.setHeader('Deprecation', `@${dayOf(since).getTime() / 1_000}`);
  setSunset(response, dayOf(sunset).getTime());
  addHeader(response, 'Link', `<${BASE_PATH}/openapi.yaml>; rel="deprecation"`);
  if (successor === undefined) return;
  addHeader(response, 'Link', `<${BASE_PATH}${successor}>; rel="successor-version"`);
}

/** Says when what was asked will not work any more; of a key and a route that end, the earlier counts. */
export function setSunset(response: ServerResponse, atMs: number): void {
  const before = response.getHeader('Sunset');
  if (before !== undefined && Date.parse(String(before)) <= atMs) return;
  response.setHeader('Sunset', new Date(atMs).toUTCString());
}

/** The sentence of the contract. */
export const describeDeprecation = ({ since, sunset, successor, note }: Deprecation): string =>
  `Deprecated since ${since}, and gone on ${sunset}: ${note}` +
  (successor === undefined ? '' : ` Use \`${BASE_PATH}${successor}\` instead.`);

function dayOf(text: string): Date {
  const day = new Date(`${text}T00:00:00Z`);
  const isDay = !Number.isNaN(day.getTime()) && day.toISOString().startsWith(`${text}T`);
  if (isDay) return day;
  throw new Error(`${text} is no day`);
}
