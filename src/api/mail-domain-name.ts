import {
  findMailDomain,
  findMailDomainByStream,
  mailDomainStream,
  normaliseMailDomainName,
} from '../projections/mail-domains.ts';
import type { Context } from './context.ts';

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
