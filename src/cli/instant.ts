import type { IncomingHttpHeaders } from 'node:http';
import { CliError } from './command.ts';

const INSTANT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.(\d{6})Z$/;
const MICROS_PER_MS = 1_000n;

/** An instant with six digits as microseconds since 1970: a `Date` would lose three of them. */
export function toMicros(instant: string): bigint {
  const digits = INSTANT.exec(instant)?.[1];
  if (digits === undefined) throw new CliError('The answer has a time that is none.');
  return BigInt(Date.parse(instant)) * MICROS_PER_MS + BigInt(digits.slice(3));
}

/** The instant so many microseconds after 1970; what lies before that is 1970. */
export function fromMicros(micros: bigint): string {
  const since = micros > 0n ? micros : 0n;
  const millis = new Date(Number(since / MICROS_PER_MS)).toISOString().slice(0, -1);
  return `${millis}${String(since % MICROS_PER_MS).padStart(3, '0')}Z`;
}

/** When the last event of the log was recorded: a microsecond before what `X-Sealed-Through` says. */
export const lastInstant = (headers: IncomingHttpHeaders): string =>
  fromMicros(toMicros(String(headers['x-sealed-through'])) - 1n);
