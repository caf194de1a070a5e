import {
  cancelJob,
  countJobItems,
  findJob,
  findJobItems,
  JOB_DAYS_KEPT,
  type JobRow,
  saveJob,
} from '../../db/quarantine-jobs.ts';
import { isNarrowed, type Principal } from '../../domain/access.ts';
import { DomainError } from '../../domain/errors.ts';
import {
  BULK_ACTIONS,
  quarantineBulk,
  quarantineBulkStream,
} from '../../domain/quarantine-bulk.ts';
import { TRAINING_CLASSES } from '../../domain/quarantine-language.ts';
import type { EventMeta } from '../../eventlog/eventlog.ts';
import { handleCommand } from '../../eventlog/handle-command.ts';
import { searchMessages } from '../../projections/quarantine-list.ts';
import type { Context } from '../context.ts';
import { invalid } from '../input.ts';
import { BASE_PATH } from '../paths.ts';
import { QuarantineFilter, toSearch } from '../quarantine-query.ts';
import { JobId, MessageId } from '../quarantine-view.ts';
import { type Answer, type Call, route } from '../route.ts';
import { Instant, ListQuery, Text } from '../schemas.ts';
import { z } from '../zod.ts';

const tag = 'Quarantine';
/** So many ids fit a body. */
const BULK_IDS_MAX = 5_000;
/** Messages in one job; a filter that matches more takes the newest, and says so. */
const BULK_MESSAGES_MAX = 10_000;
const PAGE_MESSAGES = 1_000;

const BulkBody = z
  .strictObject({
    action: z.enum(BULK_ACTIONS),
    ids: z.array(MessageId).min(1).max(BULK_IDS_MAX).optional(),
    filter: z
      .record(z.string(), z.union([z.string(), z.number()]))
      .refine(
        (filter) => Object.keys(filter).length > 0,
        'must name what to look for: without a member it would take every message',
      )
      .optional()
      .openapi({
        description:
          'Members and meanings are the filters of the list; at least one, `since` takes all of them.',
      }),
    class: z.enum(TRAINING_CLASSES).optional().openapi({ description: 'For retrain.' }),
    dry_run: z.boolean().optional(),
    reason: Text(1_000).optional(),
  })
  .refine(({ ids, filter }) => (ids === undefined) !== (filter === undefined), {
    path: ['ids'],
    message: 'give either ids or a filter',
  })
  .refine((body) => (body.action === 'retrain') === (body.class !== undefined), {
    path: ['class'],
    message: 'is needed for retrain, and only there',
  });

const JobParams = z.strictObject({ job_id: JobId });
const Job = z
  .object({
    job_id: JobId,
    action: z.enum(BULK_ACTIONS),
    dry_run: z.boolean(),
    state: z.enum(['running', 'cancelled', 'completed']),
    counts: z.record(z.string(), z.number().int()).openapi({
      description:
        'Messages by outcome: a state of the message (`released`, `release_failed`, …), an outcome of ' +
        'training, `under_way`, `refused`, `pending`, `cancelled`; of a dry run `would` and `unchanged`.',
    }),
    items: z.array(
      z.object({
        id: MessageId,
        outcome: z.string().nullable(),
        error: z.string().nullable(),
      }),
    ),
    created_at: Instant,
    ended_at: Instant.nullable(),
  })
  .openapi('QuarantineBulk');

const act = { operation: 'quarantine_act', reach: 'mail_domain' } as const;

const createJob = route({
  id: 'createQuarantineBulk',
  method: 'post',
  path: '/mail/quarantine/bulk',
  tag,
  summary: 'Do one thing to many messages.',
  description:
    `Takes up to ${BULK_IDS_MAX} ids, or the newest ${BULK_MESSAGES_MAX} that the filters of the list find. The job ` +
    'goes on after a restart and does nothing twice. A dry run changes nothing and says what would happen. ' +
    `A job can be read for ${JOB_DAYS_KEPT} days after its end.`,
  permission: act,
  body: BulkBody,
  reply: z.object({ job_id: JobId, messages: z.number().int() }),
  message: 'Under way',
  errors: ['unknown_mail_domain'],
  example: { body: { action: 'discard', filter: { min_score: 20 }, dry_run: true } },
  handle: (context, call) => create(context, call),
});

const getJob = route({
  id: 'getQuarantineBulk',
  method: 'get',
  path: '/mail/quarantine/bulk/{job_id}',
  tag,
  summary: 'How far a bulk job is, message by message.',
  permission: { operation: 'quarantine_read', reach: 'mail_domain' },
  params: JobParams,
  query: z.strictObject({
    limit: ListQuery.shape.limit,
    cursor: z
      .string()
      .regex(/^i[1-9]\d{0,8}$/, 'is not a cursor of this list')
      .transform((text) => Number(text.slice(1)))
      .optional()
      .openapi({ type: 'string', description: 'From `X-Next-Cursor`.' }),
  }),
  reply: Job,
  responseHeaders: {
    'X-Next-Cursor': 'Pass as `cursor` for further items.',
    'X-Has-More': '`true` while there are further items.',
  },
  errors: ['not_found'],
  async handle(context, { params, principal, query }) {
    const job = await findVisibleJob(context, principal, params.job_id);
    const page = { after: query.cursor ?? 0, limit: query.limit + 1, open: false };
    const found = await findJobItems(context.pool, job.id, page);
    const items = found.slice(0, query.limit);
    const last = items.at(-1);
    return {
      data: {
        job_id: job.id,
        action: job.request.action,
        dry_run: job.request.dryRun,
        state: job.state,
        counts: await countJobItems(context.pool, job.id),
        items: items.map(({ messageId, outcome, error }) => ({ id: messageId, outcome, error })),
        created_at: job.createdAt.toISOString(),
        ended_at: job.endedAt?.toISOString() ?? null,
      },
      headers: {
        'X-Has-More': String(found.length > items.length),
        ...(last === undefined ? {} : { 'X-Next-Cursor': `i${last.ordinal}` }),
      },
    };
  },
});

const cancel = route({
  id: 'cancelQuarantineBulk',
  method: 'post',
  path: '/mail/quarantine/bulk/{job_id}/cancel',
  tag,
  summary: 'Begin no further messages of a bulk job.',
  permission: act,
  params: JobParams,
  reply: z.null(),
  message: 'Cancelled',
  errors: ['not_found', 'state_conflict'],
  async handle(context, { params, principal, meta, commandId }) {
    const job = await findVisibleJob(context, principal, params.job_id);
    await handleCommand(context.log, quarantineBulk, {
      ...targetOf(job.id, job.request.mailDomain),
      command: { type: 'CancelBulk' },
      meta,
      commandId,
    });
    await cancelJob(context.pool, job.id);
    context.quarantine.wakeJobs();
    return { data: null };
  },
});

export const quarantineBulkRoutes = [createJob, getJob, cancel];

/** The part of a job's request that is read here; the runner has written the rest for itself. */
type Request = Readonly<{
  action: (typeof BULK_ACTIONS)[number];
  dryRun: boolean;
  mailDomain: number | null;
}>;

async function create(
  context: Context,
  { body, principal, meta, commandId }: Call<unknown, unknown, z.output<typeof BulkBody>>,
): Promise<Answer<{ job_id: string; messages: number }>> {
  const messageIds =
    body.ids === undefined
      ? await findIds(context, body.filter ?? {}, principal)
      : [...new Set(body.ids)];
  const mailDomain = isNarrowed(principal) ? (principal.mailDomain ?? 0) : null;
  const reason = body.reason ?? null;
  const request = {
    action: body.action,
    class: body.class ?? null,
    dryRun: body.dry_run ?? false,
    reason,
    mailDomain,
    ...authorOf(meta),
  };
  // The job's own id is the command's, so that a repetition after a crash finds it.
  const job = { id: commandId, request, createdAt: context.clock.now(), messageIds };
  await saveJob(context.pool, job);
  await handleCommand(context.log, quarantineBulk, {
    ...targetOf(commandId, mailDomain),
    command: {
      type: 'RequestBulk',
      data: {
        action: body.action,
        class: body.class ?? null,
        dry_run: body.dry_run ?? false,
        messages: messageIds.length,
        by: body.ids === undefined ? 'filter' : 'ids',
      },
      reason,
      filter: body.filter === undefined ? null : JSON.stringify(body.filter),
    },
    meta,
    commandId,
  });
  // Where that took long the job was taken for one that had failed, and forgotten.
  await saveJob(context.pool, job);
  context.quarantine.wakeJobs();
  return {
    data: { job_id: commandId, messages: messageIds.length },
    status: 202,
    headers: { Location: `${BASE_PATH}/mail/quarantine/bulk/${commandId}` },
  };
}

const authorOf = ({ actor, requestId, correlationId }: EventMeta) => ({
  actor,
  requestId,
  correlationId,
});

async function findIds(
  context: Context,
  given: Readonly<Record<string, string | number>>,
  principal: Principal,
): Promise<string[]> {
  const texts = Object.fromEntries(
    Object.entries(given).map(([name, value]) => [name, String(value)]),
  );
  const parsed = QuarantineFilter.safeParse(texts);
  if (!parsed.success) {
    throw invalid(
      parsed.error.issues.map(({ path, message }) => ({
        path: ['filter', ...path].map(String).join('.'),
        message,
      })),
    );
  }
  const search = await toSearch(context, parsed.data, principal);
  const ids: string[] = [];
  let after = null;
  while (ids.length < BULK_MESSAGES_MAX) {
    const limit = Math.min(PAGE_MESSAGES, BULK_MESSAGES_MAX - ids.length);
    const found = await searchMessages(context.pool, search, { after, offset: 0, limit });
    ids.push(...found.rows.map(({ id }) => id));
    if (found.next === null) break;
    after = found.next;
  }
  return ids;
}

const targetOf = (id: string, mailDomain: number | null) => ({
  stream: quarantineBulkStream(id),
  resource: { type: 'quarantine_bulk', id },
  mailDomains: mailDomain === null ? [] : [String(mailDomain)],
});

async function findVisibleJob(
  { pool }: Context,
  principal: Principal,
  id: string,
): Promise<JobRow<Request>> {
  const job = await findJob<Request>(pool, id);
  const only = isNarrowed(principal) ? (principal.mailDomain ?? 0) : null;
  if (job === null || (only !== null && job.request.mailDomain !== only)) {
    throw new DomainError('not_found', 'There is no such job.');
  }
  return job;
}
