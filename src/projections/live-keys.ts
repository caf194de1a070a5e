import type pg from 'pg';
import { type Credential, listCredentials, readCredential } from '../db/credentials.ts';
import type { Principal } from '../domain/access.ts';
import { apiKey, apiKeyStream } from '../domain/api-key.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { readState } from '../eventlog/handle-command.ts';
import { KEY_PREFIX_LENGTH } from '../secret-text.ts';
import { isSameVerifier, type Secrets } from '../secrets.ts';
import { type ApiKeyRow, readAllApiKeys } from './api-keys.ts';
import { isAllowedFrom, readAllowedCidrs } from './key-addresses.ts';

/** A key in memory. It is replaced whole when its state changes, so an old reference is told by identity. */
export type LiveKey = Readonly<{
  id: number;
  prefix: string;
  verifier: Buffer;
  pepper: number;
  revision: bigint;
  status: ApiKeyRow['status'];
  predecessor: number | null;
  successor: number | null;
  graceUntilMs: number | null;
  expiresAtMs: number | null;
  bucket: number;
  principal: Principal;
}>;

export type Refusal = 'malformed' | 'unknown' | 'inactive' | 'revoked' | 'rotated' | 'expired';
type Verdict =
  | Readonly<{ key: LiveKey; refusal: null }>
  /** `key` is the one that was refused, where it is known and its secret was right. */
  | Readonly<{ key: LiveKey | null; refusal: Refusal }>;

export type LiveKeys = Readonly<{
  /** Whose key this text is, and whether it may be used now. Makes no query. */
  verify: (text: string, nowMs: number) => Verdict;
  /** Whether a key that was verified before is still the same and may still be used. */
  stillValid: (key: LiveKey, nowMs: number) => Refusal | null;
  find: (id: number) => LiveKey | null;
  /** The mail domain that a key is or was bound to, also of one that is deleted. */
  mailDomainOf: (id: number) => number | null;
  /** The key that a rotation named, also of one that is deleted. */
  successorOf: (id: number) => number | null;
  all: () => Iterable<LiveKey>;
  /**
   * The one place that says "this key's state changed; wait until every server has it". Here that is
   * this process: its memory follows before the promise resolves, and what the key may no longer
   * do is cut. A cluster waits for its other nodes at this very place.
   */
  changed: (id: number) => Promise<void>;
  /**
   * Calls `cut` at once when the key ends, or may no longer be used from an address; returns how to stop
   * waiting for that.
   */
  onEnd: (key: LiveKey, address: string, cut: () => void) => () => void;
  /** Cuts what belongs to keys that time alone has ended: an expiry, the end of a grace period. */
  cutEnded: () => void;
}>;

type Deps = Readonly<{ pool: pg.Pool; log: EventLog; secrets: Secrets; nowMs: () => number }>;

const RELOAD_MS = 1_000;

/** An answer under way, and where it goes to. */
type Running = Readonly<{ address: string; cut: () => void }>;

function cutUnless(answers: Set<Running> = new Set(), mayGoOn: (answer: Running) => boolean): void {
  for (const answer of [...answers]) {
    if (mayGoOn(answer)) continue;
    answers.delete(answer);
    answer.cut();
  }
}

/** Loads every key. Call when the `api_keys` projection has caught up. */
export async function loadLiveKeys(deps: Deps): Promise<LiveKeys> {
  const index = openIndex();
  const cuts = new Map<number, Set<Running>>();

  const credentials = new Map((await listCredentials(deps.pool)).map((c) => [c.subject, c]));
  for (const row of await readAllApiKeys(deps.pool)) {
    index.learn(row);
    const credential = credentials.get(`api_key:${row.id}`);
    if (credential !== undefined && row.status !== 'deleted') index.put(toLiveKey(credential, row));
  }

  function endedNow(id: number): void {
    const key = index.find(id);
    const isValid = key !== null && index.refusalOf(key, deps.nowMs()) === null;
    cutUnless(cuts.get(id), ({ address }) => isValid && isAllowedFrom(key.principal, address));
  }

  let readings = 0;
  /** The last reading of a key that failed, by when it was begun. */
  const failed = new Map<number, number>();

  async function reload(id: number): Promise<void> {
    readings += 1;
    const reading = readings;
    try {
      const fresh = await readKey(deps, id);
      if (fresh === null) index.bury(id);
      // What was read before one that failed may be from before the change that it was to learn of.
      else if (reading < (failed.get(id) ?? 0)) return;
      else if (fresh.revision >= (index.find(id)?.revision ?? -1n)) index.put(fresh);
    } catch (error) {
      // What cannot be read any more must not go on being trusted; it comes back when it can be.
      index.remove(id);
      failed.set(id, Math.max(reading, failed.get(id) ?? 0));
      setTimeout(() => void reload(id).catch(() => undefined), RELOAD_MS).unref();
      throw error;
    } finally {
      endedNow(id);
    }
  }

  return {
    verify(text, nowMs) {
      const key = index.findByPrefix(text.slice(0, KEY_PREFIX_LENGTH));
      if (key === null) return { key: null, refusal: 'unknown' };
      if (!isSameVerifier(deps.secrets.verifierOf(key.pepper, text), key.verifier)) {
        return { key: null, refusal: 'unknown' };
      }
      const refusal = index.refusalOf(key, nowMs);
      return refusal === null ? { key, refusal } : { key, refusal };
    },
    stillValid(key, nowMs) {
      return index.find(key.id) === key ? index.refusalOf(key, nowMs) : 'unknown';
    },
    find: index.find,
    mailDomainOf: index.mailDomainOf,
    successorOf: index.successorOf,
    all: index.all,
    changed: reload,
    cutEnded() {
      for (const id of [...cuts.keys()]) endedNow(id);
    },
    onEnd(key, address, cut) {
      const one = { address, cut };
      const set = cuts.get(key.id) ?? new Set();
      cuts.set(key.id, set.add(one));
      // It may have ended between the check of its request and now.
      endedNow(key.id);
      return () => set.delete(one);
    },
  };
}

/** The keys that may open something, and of every key that ever was what outlives it. */
function openIndex() {
  const byPrefix = new Map<string, LiveKey>();
  const byId = new Map<number, LiveKey>();
  /** Deleted ids never come back, whatever an older read still brings. */
  const deleted = new Set<number>();
  /** What rotations say, also of keys that were deleted since. */
  const successors = new Map<number, number>();
  const mailDomains = new Map<number, number | null>();
  const find = (id: number) => byId.get(id) ?? null;

  function learn({ id, successor, mailDomain }: Pick<KeyState, 'id' | 'successor' | 'mailDomain'>) {
    if (successor !== null) successors.set(id, successor);
    mailDomains.set(id, mailDomain);
  }

  function remove(id: number): void {
    const key = find(id);
    byId.delete(id);
    if (key !== null) byPrefix.delete(key.prefix);
  }

  return {
    find,
    findByPrefix: (prefix: string) => byPrefix.get(prefix) ?? null,
    all: () => byId.values(),
    mailDomainOf: (id: number) => mailDomains.get(id) ?? null,
    successorOf: (id: number) => successors.get(id) ?? null,
    learn,
    put(key: LiveKey) {
      learn({ ...key, mailDomain: key.principal.mailDomain });
      if (deleted.has(key.id)) return;
      byPrefix.set(key.prefix, key);
      byId.set(key.id, key);
    },
    remove,
    bury(id: number) {
      deleted.add(id);
      remove(id);
    },
    refusalOf(key: LiveKey, nowMs: number): Refusal | null {
      if (key.status === 'revoked' || key.status === 'expired') return key.status;
      if (key.expiresAtMs !== null && nowMs >= key.expiresAtMs) return 'expired';
      if (key.status === 'rotated' && nowMs >= (key.graceUntilMs ?? 0)) return 'rotated';
      // A successor counts only once its predecessor names it: a rotation that was cut short is none.
      if (key.predecessor === null) return null;
      return successors.get(key.predecessor) === key.id ? null : 'inactive';
    },
  };
}

/** A key as its own stream tells it now; null when it was deleted or never made. */
async function readKey({ pool, log }: Deps, id: number): Promise<LiveKey | null> {
  const { state, revision, events } = await readState(log, apiKey, apiKeyStream(id));
  const { created } = state;
  if (created === null || state.status === 'absent' || state.status === 'deleted') return null;
  const credential = await readCredential(pool, `api_key:${id}`);
  if (credential === null) return null;
  return toLiveKey(credential, {
    id,
    revision,
    status: state.status,
    scope: created.scope,
    mailDomain: created.mail_domain === null ? null : Number(created.mail_domain),
    rateLimitPerMinute: state.rateLimitPerMinute,
    expiresAt: state.expiresAt,
    allowedCidrs: await readAllowedCidrs(log, events),
    owner: created.owner,
    predecessor: created.predecessor === null ? null : Number(created.predecessor),
    successor: state.successor === null ? null : Number(state.successor),
    graceUntil: state.graceUntil,
    bucket: Number(created.bucket),
  });
}

type KeyState = Omit<ApiKeyRow, 'createdAt' | 'revokedAt' | 'endedAt' | 'endedBy'>;

function toLiveKey(credential: Credential, key: KeyState): LiveKey {
  return {
    id: key.id,
    prefix: credential.lookup,
    verifier: credential.verifier,
    pepper: credential.pepper,
    revision: key.revision,
    status: key.status,
    predecessor: key.predecessor,
    successor: key.successor,
    graceUntilMs: key.graceUntil === null ? null : Date.parse(key.graceUntil),
    expiresAtMs: key.expiresAt === null ? null : Date.parse(key.expiresAt),
    bucket: key.bucket,
    principal: {
      type: 'api_key',
      id: key.id,
      scope: key.scope,
      mailDomain: key.mailDomain,
      owner: key.owner,
      rateLimitPerMinute: key.rateLimitPerMinute,
      expiresAt: key.expiresAt,
      allowedCidrs: key.allowedCidrs,
    },
  };
}
