import { toTimestamp } from '../../clock.ts';
import { requireWithinAuthority } from '../../domain/access.ts';
import {
  type ApiKeyCommand,
  apiKey,
  apiKeyStream,
  ROTATION_GRACE_SECONDS_MAX,
} from '../../domain/api-key.ts';
import { DomainError } from '../../domain/errors.ts';
import { eventIdOf, handleCommand, readState } from '../../eventlog/handle-command.ts';
import { type ApiKeyRow, findApiKey } from '../../projections/api-keys.ts';
import { readAllowedCidrs } from '../../projections/key-addresses.ts';
import type { Context } from '../context.ts';
import { answerWithNew, findVisibleKey, requireNotExpired, targetOf } from '../key-access.ts';
import { issueKey } from '../key-issuing.ts';
import { NewKeyView } from '../key-view.ts';
import { type Call, route } from '../route.ts';
import { z } from '../zod.ts';
import { KeyParams } from './api-keys.ts';

const SUCCESSOR = 'successor';

/**
 * The successor is recorded first, then the rotation; the successor authenticates only once both are.
 * A crash between the two leaves a successor that nobody was told of and that opens nothing: the
 * reactor of rotations ends it, and the old key goes on.
 */
export const rotateKey = route({
  id: 'rotateApiKey',
  method: 'post',
  path: '/auth/api-keys/{id}/rotate',
  tag: 'API keys',
  summary: 'Replace a key by a successor, at once or after a grace period.',
  description:
    'The successor inherits name, scope, mail domain, limits, addresses and the remaining life ' +
    'time, and shares the token bucket. During the grace period answers to the old key carry `Sunset`.',
  permission: { operation: 'write', reach: 'mail_domain' },
  params: KeyParams,
  body: z.strictObject({
    grace_seconds: z.number().int().min(0).max(ROTATION_GRACE_SECONDS_MAX).default(0),
  }),
  bodyOptional: true,
  conditional: true,
  reply: NewKeyView,
  status: 201,
  message: 'Rotated',
  errors: ['not_found', 'state_conflict', 'stale', 'beyond_own_authority'],
  example: { params: { id: 3 }, body: { grace_seconds: 86_400 } },
  async handle(context, call) {
    const row = await findVisibleKey(context, call.principal, call.params.id);
    requireWithinAuthority(call.principal, row);
    const issued = await issueSuccessor(context, call, row);
    const until = new Date(context.clock.now().getTime() + call.body.grace_seconds * 1_000);
    const position = await completeRotation(context, call, row, {
      successor: String(issued.id),
      graceUntil: toTimestamp(until),
      madeFrom: issued.madeFrom,
    });
    // The old key first, or a request could meet two keys that both open.
    await context.liveKeys.changed(row.id);
    await context.liveKeys.changed(issued.id);
    const isVisible = await context.projector.caughtUp(position, ['api_keys']);
    return answerWithNew(context, issued, isVisible);
  },
});

type RotateCall = Call<{ id: number }, unknown, { grace_seconds: number }>;
/** `madeFrom`: the revision of the old key that it has everything from. */
type Successor = Readonly<{
  id: number;
  secret: string | null;
  row: ApiKeyRow;
  madeFrom: bigint;
}>;
type Rotation = Readonly<{ successor: string; graceUntil: string; madeFrom: bigint }>;

async function issueSuccessor(
  context: Context,
  call: RotateCall,
  row: ApiKeyRow,
): Promise<Successor> {
  const { state, revision, events } = await readState(context.log, apiKey, apiKeyStream(row.id));
  if (state.status !== 'active') {
    const own = await findOwnSuccessor(context, call, state.successor);
    if (own !== null) return { ...own, madeFrom: revision };
    throw new DomainError('state_conflict', `The API key is ${state.status}.`);
  }
  requireNotExpired(context, row);
  if (call.ifMatch !== null && call.ifMatch !== revision) {
    throw new DomainError('stale', 'The API key has changed since you read it.');
  }
  const authority = {
    scope: row.scope,
    mailDomain: row.mailDomain,
    rateLimitPerMinute: state.rateLimitPerMinute,
    expiresAt: state.expiresAt,
    allowedCidrs: await readAllowedCidrs(context.log, events),
  };
  // Once more: it may have been given more since its row was read.
  requireWithinAuthority(call.principal, authority);
  const names = await context.log.readNames([`api_key:${row.id}`]);
  const issued = await issueKey(
    context,
    {
      ...authority,
      name: names.get(`api_key:${row.id}`)?.name ?? '',
      owner: row.owner,
      predecessor: { id: row.id, bucket: row.bucket },
    },
    { meta: call.meta, commandId: call.commandId, step: SUCCESSOR },
  );
  const made = await readState(context.log, apiKey, apiKeyStream(issued.id));
  if (made.state.status === 'active') return { ...issued, madeFrom: revision };
  throw new DomainError('state_conflict', 'An earlier try was cut short and undone; rotate anew.');
}

/** The successor that an earlier run of this very request made before it was cut short. */
async function findOwnSuccessor(
  context: Context,
  call: RotateCall,
  successor: string | null,
): Promise<Omit<Successor, 'madeFrom'> | null> {
  if (successor === null) return null;
  const { events } = await readState(context.log, apiKey, apiKeyStream(successor));
  if (events[0]?.event_id !== eventIdOf(call.commandId, SUCCESSOR, 0)) return null;
  const row = await findApiKey(context.pool, Number(successor));
  return row === null ? null : { id: row.id, secret: null, row };
}

/**
 * Ends the old key; when another rotation was faster, or a change that the successor does not have, the successor
 * made here is ended instead.
 */
async function completeRotation(
  context: Context,
  call: RotateCall,
  row: ApiKeyRow,
  { madeFrom, ...rotation }: Rotation,
): Promise<bigint> {
  const command: ApiKeyCommand = { type: 'RotateApiKey', ...rotation };
  const run = { meta: call.meta, commandId: call.commandId };
  try {
    const rotated = await handleCommand(context.log, apiKey, {
      ...targetOf(row),
      ...run,
      command,
      step: 'rotated',
      ifRevision: madeFrom,
    });
    return rotated.position ?? (await context.log.head()).position;
  } catch (error) {
    // Another failure may have come after the rotation was recorded, and leaves it to the next try or start.
    if (!(error instanceof DomainError) || error.code !== 'stale') throw error;
    await handleCommand(context.log, apiKey, {
      ...targetOf({ ...row, id: Number(rotation.successor) }),
      ...run,
      command: { type: 'RevokeApiKey', reason: 'another rotation or change was faster' },
      step: 'undone',
    });
    throw await whyStale(context, call, { row, command });
  }
}

/** What has become of the old key meanwhile: it has ended, or is another than the successor was made from. */
async function whyStale(
  { log }: Context,
  { ifMatch }: RotateCall,
  { row, command }: Readonly<{ row: ApiKeyRow; command: ApiKeyCommand }>,
): Promise<DomainError> {
  const { state } = await readState(log, apiKey, apiKeyStream(row.id));
  // One that has ended is refused for that.
  apiKey.decide(command, state);
  const code = ifMatch === null ? 'state_conflict' : 'stale';
  return new DomainError(code, 'The API key was changed meanwhile; rotate anew.');
}
