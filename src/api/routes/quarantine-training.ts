import { DomainError } from '../../domain/errors.ts';
import { TRAINING_CLASSES, type TrainingOutcome } from '../../domain/quarantine-language.ts';
import { quarantinedMessage, quarantinedMessageStream } from '../../domain/quarantined-message.ts';
import { readState } from '../../eventlog/handle-command.ts';
import type { Context } from '../context.ts';
import { type ActionCall, findActionable, OUTCOME_WAIT_MS, tell } from '../quarantine-acting.ts';
import { type Answer, route } from '../route.ts';
import { z } from '../zod.ts';
import { atBothPaths } from './quarantine-paths.ts';

const Trained = z
  .object({
    outcome: z
      .enum(['learned', 'already_known', 'refused', 'unavailable'])
      .nullable()
      .openapi({ description: 'Null while it is under way (202).' }),
  })
  .openapi('TrainingOutcome');

export const quarantineTrainingRoutes = atBothPaths('retrain', (at) =>
  route({
    ...at,
    id: at.named('retrainMessage'),
    method: 'post',
    conditional: true,
    tag: 'Quarantine',
    summary: 'Teach the filter that a message is spam, or that it is not.',
    description:
      '`refused`: the filter could not learn from it. `unavailable`: nothing was learned, try again later. ' +
      'What is done to the message itself stays apart.',
    permission: { operation: 'quarantine_act', reach: 'mail_domain' },
    body: z.strictObject({ class: z.enum(TRAINING_CLASSES) }),
    reply: Trained,
    errors: ['not_found', 'foreign_recipients', 'content_gone', 'stale'],
    example: { body: { class: 'ham' } },
    handle: (context, call) => retrain(context, call),
  }),
);

async function retrain(
  context: Context,
  call: ActionCall<Readonly<{ class: 'spam' | 'ham' }>>,
): Promise<Answer<z.input<typeof Trained>>> {
  const row = await findActionable(context, call);
  const opened = await context.quarantine.store.open(row.id);
  if (opened === null) {
    throw new DomainError('content_gone', `The message is ${row.state}; its bytes are not kept.`);
  }
  await opened.bytes[Symbol.asyncIterator]().return?.();
  const { revision } = await tell(context, call, row, {
    type: 'RequestRetrain',
    class: call.body.class,
  });
  const deadline = performance.now() + OUTCOME_WAIT_MS;
  for (;;) {
    const left = deadline - performance.now();
    if (left <= 0) return { data: { outcome: null }, status: 202, message: 'Under way' };
    await context.quarantine.act(row.id, 'retrain', left);
    const outcome = await readTraining(context, row.id, revision);
    if (outcome !== null) return { data: { outcome } };
  }
}

/** What came of the training that was asked for at a revision: requests are met in their order. */
async function readTraining(
  { log }: Context,
  id: string,
  revision: bigint,
): Promise<TrainingOutcome | null> {
  const { events } = await readState(log, quarantinedMessage, quarantinedMessageStream(id));
  const isRequest = ({ type }: { type: string }) => type === 'quarantine.retrain_requested';
  const before = events.slice(0, Number(revision)).filter(isRequest).length;
  const ends = events.filter(
    ({ type }) => type === 'quarantine.retrained' || type === 'quarantine.retrain_failed',
  );
  return (ends[before]?.data as { outcome: TrainingOutcome } | undefined)?.outcome ?? null;
}
