import type { Scope } from './access.ts';
import type { Decider, DomainEvent, PersonalMember, ResourceRef } from './decider.ts';
import { DomainError } from './errors.ts';

export const ROTATION_GRACE_SECONDS_MAX = 2_592_000;
/** Blocks of addresses that one key may be used from: each is looked at for every request. */
export const ALLOWED_CIDRS_MAX = 64;

/**
 * Where a key may be used from is a personal member, `allowed_cidrs`. It goes with the key (class identity), and not
 * by retention of network data, which would close a living key. The line says by `restricted` whether there is such a
 * list, so that a key whose list is gone is closed and not open. Absent: a new key has no list, a change leaves what was.
 */
type Restricted = Readonly<{ restricted?: boolean }>;

export type ApiKeyCreated = DomainEvent<
  'api_key.created',
  Readonly<{
    scope: Scope;
    mail_domain: string | null;
    rate_limit_per_minute: number;
    expires_at: string | null;
    owner: ResourceRef;
    /** The key this one takes over from; it authenticates only once that key says so too. */
    predecessor: string | null;
    /** The key whose token bucket is shared, so that a rotation does not double the quota. */
    bucket: string;
  }> &
    Restricted
>;
export type ApiKeyUpdated = DomainEvent<
  'api_key.updated',
  Readonly<{ rate_limit_per_minute: number; expires_at: string | null }> & Restricted
>;
export type ApiKeyRotated = DomainEvent<
  'api_key.rotated',
  Readonly<{ successor: string; grace_until: string }>
>;
export type ApiKeyRevoked = DomainEvent<'api_key.revoked', Readonly<Record<string, never>>>;
export type ApiKeyExpired = DomainEvent<'api_key.expired', Readonly<{ expired_at: string }>>;
export type ApiKeyDeleted = DomainEvent<'api_key.deleted', Readonly<Record<string, never>>>;
export type ApiKeyEvent =
  | ApiKeyCreated
  | ApiKeyUpdated
  | ApiKeyRotated
  | ApiKeyRevoked
  | ApiKeyExpired
  | ApiKeyDeleted;

/** Everything that can happen to a key; its use is recorded elsewhere and changes nothing of it. */
export const API_KEY_TYPES: readonly ApiKeyEvent['type'][] = [
  'api_key.created',
  'api_key.updated',
  'api_key.rotated',
  'api_key.revoked',
  'api_key.expired',
  'api_key.deleted',
];

export type ApiKeyCommand =
  | Readonly<{
      type: 'CreateApiKey';
      data: Omit<ApiKeyCreated['data'], 'restricted'>;
      names: { name: string; key_prefix: string };
      /** Null, or not given: it may be used from anywhere. */
      allowedCidrs?: readonly string[] | null;
    }>
  | Readonly<{
      type: 'UpdateApiKey';
      name?: string | undefined;
      rateLimitPerMinute?: number | undefined;
      expiresAt?: string | null | undefined;
      /** Null takes the list away. */
      allowedCidrs?: readonly string[] | null | undefined;
    }>
  | Readonly<{ type: 'RotateApiKey'; successor: string; graceUntil: string }>
  | Readonly<{ type: 'RevokeApiKey'; reason: string | null }>
  | Readonly<{ type: 'ExpireApiKey'; now: string }>
  | Readonly<{ type: 'DeleteApiKey' }>;

type ApiKeyStatus = 'absent' | 'active' | 'rotated' | 'expired' | 'revoked' | 'deleted';

/** `created` is null only while the key is absent. */
export type ApiKey = Readonly<{
  status: ApiKeyStatus;
  created: ApiKeyCreated['data'] | null;
  rateLimitPerMinute: number;
  expiresAt: string | null;
  /** Whether the key may be used from some addresses alone; which they are is not for a line to say. */
  isRestricted: boolean;
  successor: string | null;
  graceUntil: string | null;
}>;

const initialState: ApiKey = {
  status: 'absent',
  created: null,
  rateLimitPerMinute: 0,
  expiresAt: null,
  isRestricted: false,
  successor: null,
  graceUntil: null,
};

function evolve(state: ApiKey, event: ApiKeyEvent): ApiKey {
  switch (event.type) {
    case 'api_key.created':
      return {
        ...state,
        status: 'active',
        created: event.data,
        rateLimitPerMinute: event.data.rate_limit_per_minute,
        expiresAt: event.data.expires_at,
        isRestricted: event.data.restricted ?? false,
      };
    case 'api_key.updated':
      return {
        ...state,
        rateLimitPerMinute: event.data.rate_limit_per_minute,
        expiresAt: event.data.expires_at,
        isRestricted: event.data.restricted ?? state.isRestricted,
      };
    case 'api_key.rotated':
      return {
        ...state,
        status: 'rotated',
        successor: event.data.successor,
        graceUntil: event.data.grace_until,
      };
    case 'api_key.revoked':
      return { ...state, status: 'revoked' };
    case 'api_key.expired':
      return { ...state, status: 'expired' };
    case 'api_key.deleted':
      return { ...state, status: 'deleted' };
  }
}

function decide(command: ApiKeyCommand, state: ApiKey): readonly ApiKeyEvent[] {
  if (command.type === 'CreateApiKey') {
    if (state.status !== 'absent') throw new DomainError('already_exists', 'API key exists');
    return [create(command)];
  }
  if (state.status === 'absent' || state.status === 'deleted') {
    throw new DomainError('not_found', 'No such API key');
  }
  switch (command.type) {
    case 'UpdateApiKey':
      return update(command, state);
    case 'RotateApiKey':
      return rotate(command, state);
    case 'RevokeApiKey':
      // A key that has already ended is as its caller wants it: it succeeds and records nothing.
      if (state.status === 'revoked' || state.status === 'expired') return [];
      return [
        {
          type: 'api_key.revoked',
          data: {},
          personal: [{ name: 'reason', value: command.reason, class: 'content' }],
        },
      ];
    case 'ExpireApiKey':
      if (state.status !== 'active') return [];
      if (state.expiresAt === null || state.expiresAt > command.now) return [];
      return [{ type: 'api_key.expired', data: { expired_at: state.expiresAt } }];
    case 'DeleteApiKey':
      return [{ type: 'api_key.deleted', data: {} }];
  }
}

export const apiKey: Decider<ApiKey, ApiKeyCommand, ApiKeyEvent> = {
  initialState,
  evolve,
  decide,
};

/** The stream of one key's life; its use is recorded in `apiKeyUsageStream`. */
export const apiKeyStream = (id: number | string): string => `api_key-${id}`;
export const apiKeyUsageStream = (id: number | string): string => `api_key_usage-${id}`;

function create({
  data,
  names,
  allowedCidrs = null,
}: Extract<ApiKeyCommand, { type: 'CreateApiKey' }>): ApiKeyCreated {
  if (allowedCidrs === null) return { type: 'api_key.created', data, names };
  return {
    type: 'api_key.created',
    data: { ...data, restricted: true },
    personal: [addresses(allowedCidrs)],
    names,
  };
}

function update(
  command: Extract<ApiKeyCommand, { type: 'UpdateApiKey' }>,
  state: ApiKey,
): readonly ApiKeyEvent[] {
  if (state.status !== 'active') throw ended(state.status);
  const rateLimit = command.rateLimitPerMinute ?? state.rateLimitPerMinute;
  const expiresAt = command.expiresAt === undefined ? state.expiresAt : command.expiresAt;
  const isSame = rateLimit === state.rateLimitPerMinute && expiresAt === state.expiresAt;
  const cidrs = command.allowedCidrs;
  // A list that is there may be another one: only taking away what is not there changes nothing.
  const isKept = cidrs === undefined || (cidrs === null && !state.isRestricted);
  if (isSame && isKept && command.name === undefined) return [];
  return [
    {
      type: 'api_key.updated',
      data: {
        rate_limit_per_minute: rateLimit,
        expires_at: expiresAt,
        ...(isKept ? {} : { restricted: cidrs !== null }),
      },
      ...(isKept || cidrs === null ? {} : { personal: [addresses(cidrs)] }),
      ...(command.name === undefined ? {} : { names: { name: command.name } }),
    },
  ];
}

function rotate(
  command: Extract<ApiKeyCommand, { type: 'RotateApiKey' }>,
  state: ApiKey,
): readonly ApiKeyEvent[] {
  if (state.status === 'rotated' && state.successor === command.successor) return [];
  if (state.status !== 'active') throw ended(state.status);
  // The old key's own end is never put off by a grace period.
  const graceUntil =
    state.expiresAt !== null && state.expiresAt < command.graceUntil
      ? state.expiresAt
      : command.graceUntil;
  return [
    {
      type: 'api_key.rotated',
      data: { successor: command.successor, grace_until: graceUntil },
    },
  ];
}

const addresses = (cidrs: readonly string[]): PersonalMember => ({
  name: 'allowed_cidrs',
  value: cidrs,
  class: 'identity',
});

const ended = (status: ApiKeyStatus): DomainError =>
  new DomainError('state_conflict', `The API key is ${status}.`);
