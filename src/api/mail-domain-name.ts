import { domainToASCII } from 'node:url';
import {
  findMailDomain,
  findMailDomainByStream,
  mailDomainStream,
} from '../projections/mail-domains.ts';
import type { Context } from './context.ts';

const NAME =
  /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]$/;

/**
 * A mail domain's name in its one form: lower-case A-labels (IDNA, UTS 46) without a final dot. Null
 * for what is no name of a DNS domain.
 */
export function normaliseMailDomainName(text: string): string | null {
  // The URL parser behind `domainToASCII` would cut at, or decode, what no name may hold.
  if (/[^\p{L}\p{M}\p{N}.\-\u3002\uff0e\uff61]/u.test(text.trim())) return null;
  const ascii = domainToASCII(text.trim().replace(/\.$/, '')).toLowerCase();
  return NAME.test(ascii) ? ascii : null;
}

/** The id of the living mail domain that is meant by a name or an id; null if there is none. */
export async function findMailDomainId(
  { pool, secrets }: Pick<Context, 'pool' | 'secrets'>,
  given: string | number,
): Promise<number | null> {
  if (typeof given === 'number') return (await findMailDomain(pool, given))?.id ?? null;
  const name = normaliseMailDomainName(given);
  if (name === null) return null;
  return (await findMailDomainByStream(pool, mailDomainStream(secrets, name)))?.id ?? null;
}
