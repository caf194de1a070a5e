import { createHmac, randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import {
  completeIdempotencyKey,
  eraseIdempotentAnswers,
  type IdempotencyId,
  type KeptHeaders,
  type Reserved,
  releaseIdempotencyKey,
  reserveIdempotencyKey,
} from '../db/idempotency.ts';
import { DomainError } from '../domain/errors.ts';
import { canonicalJson } from '../eventlog/canonical.ts';
import { newCommandId } from '../eventlog/handle-command.ts';
import { holdsApiKey } from '../secret-text.ts';
import type { Context } from './context.ts';
import type { Envelope } from './envelope.ts';
import { invalid } from './input.ts';

const KEY_PATTERN = /^[\x21-\x7e]{1,255}$/;
/** Runs that are under way. One gateway serves a database, so a run that is not here is nowhere. */
const underWay = new Set<string>();
/** Answers that say nothing about the command, so that it may be tried again under the same key. */
const NOT_KEPT = new Set([401, 403, 429]);

/** A first answer, as it is given again. */
export type KeptAnswer = Readonly<{
  status: number;
  headers: KeptHeaders;
  envelope: Envelope;
  subject: string | null;
}>;

export type Idempotent =
  | Readonly<{
      kind: 'run';
      commandId: string;
      keep: (answer: KeptAnswer) => Promise<void>;
      /** Call when the run has ended, whether its answer could be kept or not. */
      done: () => void;
    }>
  | Readonly<{ kind: 'replay'; status: number; headers: KeptHeaders; text: string }>;

/**
 * How to treat a POST that may carry `Idempotency-Key`: run it (`keep` stores its answer), or give the
 * first answer again. Throws 409 while the first is under way, 422 for another body, 410 once the
 * names in the answer were erased.
 */
export async function idempotent(
  { pool, clock, liveKeys, secrets }: Context,
  request: IncomingMessage,
  call: Readonly<{ principal: string; path: string; body: unknown }>,
): Promise<Idempotent> {
  const key = request.headers['idempotency-key'];
  const commandId = newCommandId();
  if (key === undefined) {
    return { kind: 'run', commandId, keep: async () => undefined, done: () => undefined };
  }
  if (typeof key !== 'string' || !KEY_PATTERN.test(key) || holdsApiKey(key)) {
    throw invalid([
      { path: 'Idempotency-Key', message: 'must be 1 to 255 visible ASCII characters' },
    ]);
  }
  const id: IdempotencyId = { principal: call.principal, method: 'POST', path: call.path, key };
  // Keyed: the body may hold names, which a plain hash would let anybody guess for ever.
  const fingerprint = createHmac('sha256', secrets.fingerprintKey)
    .update(canonicalJson((call.body ?? null) as never))
    .digest();
  const runner = randomUUID();
  const run = { fingerprint, commandId, runner, now: clock.now() };
  underWay.add(runner);
  const reserved = await reserveIdempotencyKey(pool, id, run, (other) => underWay.has(other)).catch(
    (error: unknown) => {
      underWay.delete(runner);
      throw error;
    },
  );
  if (reserved.kind !== 'run') {
    underWay.delete(runner);
    return whatBecame(reserved);
  }
  return {
    kind: 'run',
    commandId: reserved.commandId,
    done: () => underWay.delete(runner),
    async keep({ status, headers, envelope, subject }) {
      // The command may have been recorded before the failure: its id must outlive the answer.
      if (status >= 500) return;
      if (NOT_KEPT.has(status)) return releaseIdempotencyKey(pool, id);
      const body = JSON.stringify(envelope);
      await completeIdempotencyKey(pool, id, { status, headers, body, subject });
      // Deleted while its answer was being kept: what DELETE erased must not come back.
      const keyId = /^api_key:(\d+)$/.exec(subject ?? '')?.[1];
      if (subject !== null && keyId !== undefined && liveKeys.find(Number(keyId)) === null) {
        await eraseIdempotentAnswers(pool, subject);
      }
    },
  };
}

function whatBecame(reserved: Exclude<Reserved, { kind: 'run' }>): Idempotent {
  switch (reserved.kind) {
    case 'in_progress':
      throw new DomainError('idempotency_in_progress', 'The first request is still under way.');
    case 'mismatch':
      throw new DomainError(
        'idempotency_mismatch',
        'This Idempotency-Key was used with another body.',
      );
    case 'replay':
      if (reserved.body === null) {
        throw new DomainError('erased', 'What this request made was erased since.');
      }
      return {
        kind: 'replay',
        status: reserved.status,
        headers: reserved.headers,
        text: reserved.body,
      };
  }
}
