import { createHash, randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import {
  completeIdempotencyKey,
  type IdempotencyId,
  releaseIdempotencyKey,
  reserveIdempotencyKey,
} from '../db/idempotency.ts';
import { DomainError } from '../domain/errors.ts';
import { canonicalJson } from '../eventlog/canonical.ts';
import { newCommandId } from '../eventlog/handle-command.ts';
import type { Context } from './context.ts';
import type { Envelope } from './envelope.ts';
import { invalid } from './input.ts';

const KEY_PATTERN = /^[\x21-\x7e]{1,255}$/;
/** Distinguishes what this process left unfinished from what an earlier one did. */
const RUNNER = randomUUID();
/** Answers that say nothing about the command, so that it may be tried again under the same key. */
const NOT_KEPT = new Set([401, 403, 429]);

export type KeptAnswer = Readonly<{
  status: number;
  envelope: Envelope;
  subject: string | null;
}>;

export type Idempotent =
  | Readonly<{ kind: 'run'; commandId: string; keep: (answer: KeptAnswer) => Promise<void> }>
  | Readonly<{ kind: 'replay'; status: number; text: string }>;

/**
 * How to treat a POST that may carry `Idempotency-Key`: run it (`keep` stores its answer), or give the
 * first answer again. Throws 409 while the first is under way, 422 for another body, 410 once the
 * names in the answer were erased.
 */
export async function idempotent(
  { pool, clock }: Context,
  request: IncomingMessage,
  call: Readonly<{ principal: string; path: string; body: unknown }>,
): Promise<Idempotent> {
  const key = request.headers['idempotency-key'];
  const commandId = newCommandId();
  if (key === undefined) return { kind: 'run', commandId, keep: async () => undefined };
  if (typeof key !== 'string' || !KEY_PATTERN.test(key)) {
    throw invalid([
      { path: 'Idempotency-Key', message: 'must be 1 to 255 visible ASCII characters' },
    ]);
  }
  const id: IdempotencyId = { principal: call.principal, method: 'POST', path: call.path, key };
  const fingerprint = createHash('sha256')
    .update(canonicalJson((call.body ?? null) as never))
    .digest();
  const reserved = await reserveIdempotencyKey(pool, id, {
    fingerprint,
    commandId,
    runner: RUNNER,
    now: clock.now(),
  });
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
      return { kind: 'replay', status: reserved.status, text: reserved.body };
    case 'run':
      return {
        kind: 'run',
        commandId: reserved.commandId,
        async keep({ status, envelope, subject }) {
          if (NOT_KEPT.has(status) || status >= 500) await releaseIdempotencyKey(pool, id);
          else {
            const body = JSON.stringify(envelope);
            await completeIdempotencyKey(pool, id, { status, body, subject });
          }
        },
      };
  }
}
