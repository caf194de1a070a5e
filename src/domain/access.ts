import { type AllowedCidrs, isWithin } from './cidr.ts';
import { DomainError } from './errors.ts';

export const SCOPES = ['read-only', 'quarantine-only', 'domain-admin', 'full-admin'] as const;

/** What an API key may do: the four names of the product. */
export type Scope = (typeof SCOPES)[number];

/**
 * What a route asks for. `read` is what `quarantine-only` may not, `keys_read` and `quarantine_read` are what every scope
 * may; `quarantine_act` is release, discard, reject and retrain.
 */
export type Operation = 'read' | 'keys_read' | 'quarantine_read' | 'quarantine_act' | 'write';

/** Whether a route's objects belong to a mail domain, so that a narrowed key may use it at all. */
export type Reach = 'mail_domain' | 'installation';

/** Who is calling. `mailDomain` narrows whoever has it to that one mail domain. */
export type Principal = Readonly<{
  type: 'api_key';
  id: number;
  scope: Scope;
  mailDomain: number | null;
  owner: Readonly<{ type: string; id: string }>;
  rateLimitPerMinute: number;
  expiresAt: string | null;
  allowedCidrs: AllowedCidrs;
}>;

/** Default deny: an operation that is not listed here for a scope is refused. */
const ALLOWED: Readonly<Record<Scope, readonly Operation[]>> = {
  'read-only': ['read', 'keys_read', 'quarantine_read'],
  'quarantine-only': ['keys_read', 'quarantine_read', 'quarantine_act'],
  'domain-admin': ['read', 'keys_read', 'quarantine_read', 'quarantine_act', 'write'],
  'full-admin': ['read', 'keys_read', 'quarantine_read', 'quarantine_act', 'write'],
};

/** The scopes that may do this, as `X-Accepted-Scopes` names them. */
export function acceptedScopes(operation: Operation, reach: Reach): Scope[] {
  return SCOPES.filter(
    (scope) =>
      ALLOWED[scope].includes(operation) && (reach === 'mail_domain' || scope !== 'domain-admin'),
  );
}

/** True when this scope may do this at all; which mail domain it may do it to is asked separately. */
export function permits(principal: Principal, operation: Operation, reach: Reach): boolean {
  if (!ALLOWED[principal.scope].includes(operation)) return false;
  return reach === 'mail_domain' || !isNarrowed(principal);
}

/** A domain-admin is always narrowed; any other scope is when its key names a mail domain. */
export function isNarrowed(principal: Principal): boolean {
  return principal.mailDomain !== null || principal.scope === 'domain-admin';
}

/** True when objects of this mail domain (null: of none) exist for the caller. */
export function sees(principal: Principal, mailDomain: number | null): boolean {
  return !isNarrowed(principal) || (mailDomain !== null && mailDomain === principal.mailDomain);
}

/** The part of a key that says how far it reaches. */
export type Authority = Readonly<{
  scope: Scope;
  mailDomain: number | null;
  rateLimitPerMinute: number;
  expiresAt: string | null;
  allowedCidrs: AllowedCidrs;
}>;

const RANK: Readonly<Record<Scope, number>> = {
  'read-only': 0,
  'quarantine-only': 0,
  'domain-admin': 1,
  'full-admin': 2,
};

/**
 * Refuses a key that would reach further than its maker: in scope, mail domain, life time,
 * addresses and, for a narrowed maker, rate. Throws `beyond_own_authority`.
 */
export function requireWithinAuthority(maker: Principal, wanted: Authority): void {
  const refuse = (what: string): never => {
    throw new DomainError('beyond_own_authority', `A key cannot give more than it has: ${what}.`);
  };
  if (RANK[wanted.scope] > RANK[maker.scope]) refuse('scope');
  if (isNarrowed(maker) && wanted.mailDomain !== maker.mailDomain) refuse('mail_domain');
  if (isNarrowed(maker) && wanted.rateLimitPerMinute > maker.rateLimitPerMinute) {
    refuse('rate_limit_per_minute');
  }
  if (!isWithin(wanted.allowedCidrs, maker.allowedCidrs)) refuse('allowed_cidrs');
  if (maker.expiresAt === null) return;
  if (wanted.expiresAt === null || wanted.expiresAt > maker.expiresAt) refuse('expires_at');
}

/** Refuses ending a key of a higher scope than one's own. Throws `beyond_own_authority`. */
export function requireMayEnd(principal: Principal, scope: Scope): void {
  if (RANK[scope] <= RANK[principal.scope]) return;
  throw new DomainError('beyond_own_authority', 'This key has a higher scope than yours.');
}
