import type pg from 'pg';
import { type Clock, toTimestamp } from '../clock.ts';
import { DomainError } from '../domain/errors.ts';
import {
  type SenderFilterCommand,
  senderFilter,
  senderFilterStream,
} from '../domain/sender-filter.ts';
import type { EventLog, EventMeta } from '../eventlog/eventlog.ts';
import { commandIdOf, handleCommand } from '../eventlog/handle-command.ts';
import { systemMeta } from '../eventlog/system-meta.ts';
import {
  type EndingFilter,
  listDueSenderFilters,
  listOrphanSenderFilters,
  listSenderFilters,
} from '../projections/sender-filters.ts';

type Create = Extract<SenderFilterCommand, { type: 'CreateSenderFilter' }>;

/** A filter that an action on a held message brings along. `expiresAt` has six digits. */
export type WantedFilter = Readonly<{
  /** Given out before, so that the filter is made once. */
  filterId: string;
  kind: Create['data']['kind'];
  scope: Create['data']['scope'];
  mailDomain: string | null;
  sender: string;
  recipient: string | null;
  expiresAt: string | null;
  /** The message. */
  madeBy: string;
  meta: EventMeta;
  commandId: string;
}>;

/** Makes a sender filter; one that was made under this id already, or has ended since, stays as it is. */
export async function makeSenderFilter(
  { log }: Readonly<{ log: EventLog }>,
  wanted: WantedFilter,
): Promise<void> {
  const { filterId, kind, scope, mailDomain, sender, recipient, expiresAt, madeBy } = wanted;
  await handleCommand(log, senderFilter, {
    ...targetOf(filterId, mailDomain),
    command: {
      type: 'CreateSenderFilter',
      data: { kind, scope, mail_domain: mailDomain, expires_at: expiresAt, made_by: madeBy },
      sender,
      recipient,
    },
    meta: wanted.meta,
    commandId: wanted.commandId,
  });
}

type Deps = Readonly<{ pool: pg.Pool; log: EventLog }>;
type JobDeps = Deps & Readonly<{ clock: Clock; nodeId: string }>;

/** The rest of a mail domain's deletion: filters of its mail have nothing left to filter. */
export async function endFiltersOfMailDomain(
  deps: Deps,
  mailDomain: number,
  meta: EventMeta,
): Promise<void> {
  const wanted = { kind: null, scope: null, mailDomain, sender: null };
  let before: number | null = null;
  for (;;) {
    const page = await listSenderFilters(deps.pool, wanted, { before, limit: PAGE_FILTERS });
    for (const filter of page) await end(deps, filter, { type: 'DeleteSenderFilter' }, meta);
    before = page.at(-1)?.id ?? null;
    if (page.length < PAGE_FILTERS) return;
  }
}

/** Ends the filters whose time has come, a bounded number of them a run. */
export async function expireSenderFilters(deps: JobDeps): Promise<void> {
  const now = deps.clock.now();
  await endListed(
    deps,
    { type: 'ExpireSenderFilter', now: toTimestamp(now) },
    { meta: systemMeta(deps, now), next: (page) => listDueSenderFilters(deps.pool, now, page) },
  );
}

/** Ends filters of mail domains that are gone: made while the deletion was under way, or left by a crash. */
export async function endOrphanFilters(deps: JobDeps): Promise<void> {
  await endListed(
    deps,
    { type: 'DeleteSenderFilter' },
    {
      meta: systemMeta(deps, deps.clock.now()),
      next: (page) => listOrphanSenderFilters(deps.pool, page),
    },
  );
}

const PAGE_FILTERS = 500;
const PAGES_MAX = 20;

type Listed = Readonly<{
  meta: EventMeta;
  next: (page: { after: number; limit: number }) => Promise<readonly EndingFilter[]>;
}>;

async function endListed(
  deps: Deps,
  command: SenderFilterCommand,
  { meta, next }: Listed,
): Promise<void> {
  let after = 0;
  for (let pages = 0; pages < PAGES_MAX; pages += 1) {
    const page = await next({ after, limit: PAGE_FILTERS });
    for (const filter of page) await end(deps, filter, command, meta);
    // By id, since the read model still has those that were just ended.
    after = page.at(-1)?.id ?? after;
    if (page.length < PAGE_FILTERS) return;
  }
}

/** Ends one filter; the read model may be late, so one that has ended already is left as it is. */
async function end(
  { log }: Deps,
  { id, mailDomain }: EndingFilter,
  command: SenderFilterCommand,
  meta: EventMeta,
): Promise<void> {
  const text = `${command.type}/${id}/${meta.correlationId}`;
  await handleCommand(log, senderFilter, {
    ...targetOf(String(id), mailDomain === null ? null : String(mailDomain)),
    command,
    meta,
    commandId: commandIdOf(Date.parse(meta.occurredAt), text),
  }).catch((error: unknown) => {
    if (!(error instanceof DomainError) || error.code !== 'not_found') throw error;
  });
}

const targetOf = (id: string, mailDomain: string | null) => ({
  stream: senderFilterStream(id),
  resource: { type: 'sender_filter', id },
  mailDomains: mailDomain === null ? [] : [mailDomain],
});
