import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { z } from 'zod';

export const bytes = (least: number, fallback: number) =>
  z.coerce
    .number('must be a number of bytes')
    .int('must be a whole number of bytes')
    .min(least, `must be at least ${least} bytes`)
    .max(Number.MAX_SAFE_INTEGER, 'is too large')
    .default(fallback);
export const optional = <T extends z.ZodType>(schema: T) =>
  schema.optional().transform((v) => v ?? null);

export const absolutePath = (fallback: string) =>
  z
    .string()
    .regex(/^\/[^\0]*$/, 'must be an absolute path')
    .default(fallback);

export function isReadable(path: string): boolean {
  try {
    readFileSync(path);
    return true;
  } catch {
    return false;
  }
}

export function splitList(text: string): string[] {
  return text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
}

export const isLoopback = (host: string): boolean =>
  host === 'localhost' || (ipaddr.isValid(host) && ipaddr.process(host).range() === 'loopback');

/** An address or a range in its full form: what is short may be meant otherwise. */
export function isCidr(text: string): boolean {
  const [address = '', bits, more] = text.split('/');
  if (isIP(address) === 0 || address.includes('%') || more !== undefined) return false;
  const most = isIP(address) === 4 ? 32 : 128;
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= most);
}
