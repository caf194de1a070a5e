import { hash, randomBytes } from 'node:crypto';
import type { Json, PersonalClass, PersonalMember } from '../domain/decider.ts';

/** Bytes of salt per disclosure: 128 bits, the least that RFC 9901 section 4.2.1 recommends. */
const SALT_BYTES = 16;

export type Random = (bytes: number) => Buffer;

const POOL_BYTES = 8_192;

/** Random bytes from a pool that is filled by few large calls; each byte is given out once. */
export function pooledRandom(): Random {
  let pool = Buffer.alloc(0);
  return (bytes) => {
    if (pool.length < bytes) pool = randomBytes(Math.max(POOL_BYTES, bytes));
    const taken = pool.subarray(0, bytes);
    pool = pool.subarray(bytes);
    return taken;
  };
}

export type Sealed = Readonly<{
  /** base64url SHA-256 digests, sorted, for the `_sd` member of the object they belong to. */
  digests: readonly string[];
  byClass: Readonly<Record<PersonalClass, string | null>>;
}>;

/**
 * Seals personal members as SD-JWT object disclosures (RFC 9901 sections 4.2.1 and 4.2.3): each is
 * the base64url text of `[salt, name, value]`, its digest the SHA-256 of that text.
 */
export function sealAll(members: readonly PersonalMember[], random: Random): Sealed {
  const digests: string[] = [];
  const byClass: Record<PersonalClass, string | null> = {
    identity: null,
    network: null,
    content: null,
  };
  if (members.length === 0) return { digests, byClass };
  const salts = random(SALT_BYTES * members.length);
  for (const [index, member] of members.entries()) {
    const salt = salts.toString('base64url', index * SALT_BYTES, (index + 1) * SALT_BYTES);
    const disclosure = Buffer.from(JSON.stringify([salt, member.name, member.value])).toString(
      'base64url',
    );
    digests.push(digestOf(disclosure));
    const listed = byClass[member.class];
    byClass[member.class] = listed === null ? `"${disclosure}"` : `${listed},"${disclosure}"`;
  }
  return { digests: digests.sort(), byClass };
}

/** The digest that a committed line holds for a disclosure. */
export const digestOf = (disclosure: string): string => hash('sha256', disclosure, 'base64url');

export type Disclosed = Readonly<{ name: string; value: Json }>;

/** The member that a disclosure text discloses; throws when it is not one. */
export function openDisclosure(disclosure: string): Disclosed {
  const parsed: unknown = JSON.parse(Buffer.from(disclosure, 'base64url').toString('utf8'));
  if (!Array.isArray(parsed) || parsed.length !== 3 || typeof parsed[1] !== 'string') {
    throw new TypeError('not a disclosure');
  }
  return { name: parsed[1], value: parsed[2] as Json };
}

/** The disclosure texts of a stored list (comma-joined JSON strings). */
export function splitDisclosures(list: string): readonly string[] {
  // base64url text needs no JSON escape, so the quotes are all there is to take off.
  return list === '' ? [] : list.slice(1, -1).split('","');
}

/** The members that a stored list still discloses, by their names; what was erased is absent. */
export const openDisclosures = (list: string): ReadonlyMap<string, Json> =>
  new Map(
    splitDisclosures(list)
      .map(openDisclosure)
      .map(({ name, value }) => [name, value]),
  );
