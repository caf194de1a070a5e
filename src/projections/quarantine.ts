import type pg from 'pg';
import type { QuarantineEvent, Scan, TransferResult } from '../domain/quarantine-language.ts';
import type { QuarantineState } from '../domain/quarantined-message.ts';
import { openDisclosures } from '../eventlog/personal.ts';
import type { ProjectedEvent, Projection } from './projection.ts';
import { type Terms, termsOf } from './quarantine-terms.ts';

type QuarantineType = QuarantineEvent['type'];

/** The state that an event leads to; those that are not here change none. */
const LEADS_TO: Partial<Record<QuarantineType, QuarantineState>> = {
  'quarantine.release_requested': 'release_requested',
  'quarantine.released': 'released',
  'quarantine.undelivered': 'undelivered',
  'quarantine.partly_released': 'held',
  'quarantine.release_failed': 'release_failed',
  'quarantine.discard_requested': 'discard_requested',
  'quarantine.discarded': 'discarded',
  'quarantine.reject_requested': 'reject_requested',
  'quarantine.rejected': 'rejected',
  'quarantine.reject_failed': 'held',
  'quarantine.expired': 'expired',
  'quarantine.vanished': 'vanished',
};
const CLOSING: readonly QuarantineState[] = [
  'released',
  'undelivered',
  'discarded',
  'rejected',
  'expired',
  'vanished',
];

export type IntentKind = 'release' | 'discard' | 'reject' | 'retrain';

/** Which action an event begins, puts off (until its own time) or ends. */
const INTENTS: Partial<
  Record<QuarantineType, Readonly<{ kind: IntentKind; step: 'begin' | 'later' | 'end' }>>
> = {
  'quarantine.release_requested': { kind: 'release', step: 'begin' },
  'quarantine.release_deferred': { kind: 'release', step: 'later' },
  'quarantine.released': { kind: 'release', step: 'end' },
  'quarantine.undelivered': { kind: 'release', step: 'end' },
  'quarantine.partly_released': { kind: 'release', step: 'end' },
  'quarantine.release_failed': { kind: 'release', step: 'end' },
  'quarantine.discard_requested': { kind: 'discard', step: 'begin' },
  'quarantine.discarded': { kind: 'discard', step: 'end' },
  'quarantine.reject_requested': { kind: 'reject', step: 'begin' },
  'quarantine.reject_deferred': { kind: 'reject', step: 'later' },
  'quarantine.rejected': { kind: 'reject', step: 'end' },
  'quarantine.reject_failed': { kind: 'reject', step: 'end' },
  'quarantine.retrain_requested': { kind: 'retrain', step: 'begin' },
  'quarantine.retrained': { kind: 'retrain', step: 'end' },
  'quarantine.retrain_failed': { kind: 'retrain', step: 'end' },
};

/** Held mail, what is searched for in it, and the actions on it that are under way. */
export const quarantineProjection: Projection = {
  name: 'quarantine',
  version: 1,
  types: [
    'quarantine.added',
    'quarantine.scanned',
    ...new Set([...Object.keys(LEADS_TO), ...Object.keys(INTENTS)]),
  ],
  async apply(db, events) {
    let added: ProjectedEvent[] = [];
    const flush = async () => {
      if (added.length > 0) await addAll(db, added);
      added = [];
    };
    for (const projected of events) {
      if (projected.event.type === 'quarantine.added') {
        added.push(projected);
        continue;
      }
      await flush();
      await applyOne(db, projected);
    }
    await flush();
  },
  tables: ['quarantined_messages', 'quarantine_terms', 'quarantine_intents'],
  // Retention notes here what it has removed; it finds that gone again, and notes it again, after a rebuild.
  unlike: { quarantined_messages: { columns: ['has_content'] } },
};

/** One recipient group as the row holds it, in the order in which events count recipients. */
export type RecipientGroup = Readonly<{ mail_domain: number | null; addresses: readonly string[] }>;

/** The envelope and what is shown, as far as it is still disclosed. */
export type DisclosedMessage = Readonly<{
  sender: string | null;
  subject: string | null;
  messageId: string | null;
  recipients: readonly RecipientGroup[];
}>;

/** Reads the personal members of a `quarantine.added` back; what was erased is null or absent. */
export function readAdded({ event, stored }: ProjectedEvent): DisclosedMessage {
  const members = openDisclosures(stored.disclosures);
  const text = (name: string) => {
    const value = members.get(name);
    return typeof value === 'string' ? value : null;
  };
  const { recipients_of: groups } = (event as unknown as AddedEvent).data;
  return {
    sender: text('sender'),
    subject: text('subject'),
    messageId: text('message_id'),
    recipients: groups.map(({ mail_domain: id }) => ({
      mail_domain: id === null ? null : Number(id),
      addresses: (members.get(recipientsMember(id)) as string[] | undefined) ?? [],
    })),
  };
}

/** The name of the disclosure that holds the recipients of one mail domain, or of none. */
export const recipientsMember = (mailDomain: string | null): string =>
  `recipients.${mailDomain ?? 'none'}`;

type AddedEvent = Extract<QuarantineEvent, { type: 'quarantine.added' }>;

async function addAll(db: pg.ClientBase, added: readonly ProjectedEvent[]): Promise<void> {
  const rows = added.map((projected) => {
    const { event } = projected;
    const { data } = event as unknown as AddedEvent;
    const disclosed = readAdded(projected);
    return {
      ...data,
      id: event.resource.id,
      revision: event.revision,
      sender: disclosed.sender,
      subject: disclosed.subject,
      message_id: disclosed.messageId,
      recipients: disclosed.recipients,
      mail_domains: event.mail_domains.map(Number),
      file_size: data.queue_file?.size ?? null,
      file_mtime: data.queue_file?.mtime ?? null,
    };
  });
  await db.query(INSERT, [JSON.stringify(rows)]);
  const terms = rows.flatMap((row) =>
    termsOf(row).map((term) => [term, row.arrived_at, row.id] as const),
  );
  await db.query(INSERT_TERMS, [
    terms.map(([term]) => term),
    terms.map(([, at]) => at),
    terms.map(([, , id]) => id),
  ]);
}

const INSERT = `
  insert into quarantined_messages
    (id, revision, state, is_open, node_id, queue_id, sender, recipients, subject, message_id, score,
     symbols, reason, size_bytes, arrived_at, expires_at, mail_domains, store, held_by, file_size,
     file_mtime)
  select id, revision, 'held', true, node_id, queue_id, sender, recipients, subject, message_id, score,
    symbols, reason, size_bytes, arrived_at, expires_at, mail_domains, store, held_by, file_size,
    file_mtime
  from jsonb_to_recordset($1::jsonb) as added
    (id uuid, revision bigint, node_id text, queue_id text, sender text, recipients jsonb,
     subject text, message_id text, score float8, symbols text[], reason text, size_bytes bigint,
     arrived_at timestamptz, expires_at timestamptz, mail_domains bigint[], store text, held_by text,
     file_size bigint, file_mtime text)
  on conflict (id) do nothing`;

// A message that was applied before may be closed by now: its terms then stand under another flag.
const INSERT_TERMS = `
  insert into quarantine_terms (term, is_open, arrived_at, message_id)
  select t.term, true, t.arrived_at, t.id
  from unnest($1::text[], $2::timestamptz[], $3::uuid[]) as t (term, arrived_at, id)
  join quarantined_messages m on m.id = t.id and m.is_open
  on conflict do nothing`;

async function applyOne(db: pg.ClientBase, { event, stored }: ProjectedEvent): Promise<void> {
  const type = event.type as QuarantineType;
  const state = LEADS_TO[type] ?? null;
  const { rows } = await db.query<TermRow>(ADVANCE, [
    event.resource.id,
    event.revision,
    state,
    state !== null && CLOSING.includes(state),
    JSON.stringify(resultsOf({ event, stored })),
  ]);
  const [row] = rows;
  // Applied before: intents may have gone on since, too.
  if (row === undefined) return;
  if (type === 'quarantine.scanned') await addScan(db, row, event.data as unknown as Scan);
  if (state !== null && CLOSING.includes(state)) await close(db, row, state);
  const intent = INTENTS[type];
  if (intent === undefined) return;
  if (intent.step === 'end') {
    await db.query(END_INTENT, [event.resource.id, `${intent.kind}%`]);
    return;
  }
  const later = (event.data as Readonly<{ retry_at?: string }>).retry_at;
  // Trainings can overlap, so each has a row of its own; they end in the order in which they were asked for.
  const kind = intent.kind === 'retrain' ? `retrain/${event.revision}` : intent.kind;
  await db.query(
    `insert into quarantine_intents (message_id, kind, due_at) values ($1, $2, $3)
     on conflict (message_id, kind) do update set due_at = excluded.due_at`,
    [event.resource.id, kind, later ?? event.occurred_at],
  );
}

const END_INTENT = `
  delete from quarantine_intents where message_id = $1 and kind = (
    select kind from quarantine_intents where message_id = $1 and kind like $2
    order by length(kind), kind limit 1)`;

const ADVANCE = `
  update quarantined_messages
  set revision = $2, state = coalesce($3, state), is_open = is_open and not $4,
    has_content = has_content and (not $4 or ($3 = 'released' and store = 'spool')),
    results = results || $5::jsonb
  where id = $1 and revision < $2
  returning id, node_id, sender, recipients, symbols, reason, mail_domains, arrived_at::text`;

/** What a filter found later is searched for like what it found before. */
async function addScan(db: pg.ClientBase, row: TermRow, scan: Scan): Promise<void> {
  await db.query(
    'update quarantined_messages set score = $2, symbols = $3, reason = $4 where id = $1',
    [row.id, scan.score, scan.symbols, scan.reason],
  );
  const before = termsOf(row);
  const after = termsOf({ ...row, symbols: scan.symbols, reason: scan.reason });
  await db.query(
    `delete from quarantine_terms
     where term = any($1) and arrived_at = $2::timestamptz and message_id = $3`,
    [before.filter((term) => !after.includes(term)), row.arrived_at, row.id],
  );
  const added = after.filter((term) => !before.includes(term));
  await db.query(INSERT_TERMS, [added, added.map(() => row.arrived_at), added.map(() => row.id)]);
}

type TermRow = Terms & Readonly<{ id: string; arrived_at: string }>;

async function close(db: pg.ClientBase, row: TermRow, state: QuarantineState): Promise<void> {
  await db.query(
    `update quarantine_terms set is_open = false
     where term = any($1) and is_open and arrived_at = $2::timestamptz and message_id = $3`,
    [termsOf(row), row.arrived_at, row.id],
  );
  await db.query(
    `insert into quarantine_terms (term, is_open, arrived_at, message_id)
     values ($1, false, $2::timestamptz, $3) on conflict do nothing`,
    [`state:${state}`, row.arrived_at, row.id],
  );
  // Nothing more is done to what has left, but it can still teach.
  await db.query(
    "delete from quarantine_intents where message_id = $1 and kind not like 'retrain/%'",
    [row.id],
  );
}

/** How recipients fared in a try, keyed by their number, so that the next try overwrites. */
function resultsOf({ event, stored }: ProjectedEvent): Record<string, object> {
  const { results } = event.data as Readonly<{ results?: readonly TransferResult[] }>;
  if (results === undefined || event.type.startsWith('quarantine.reject')) return {};
  const replies = openDisclosures(stored.disclosures).get('replies') as
    | readonly Reply[]
    | undefined;
  return Object.fromEntries(
    results.map(({ recipient, outcome, code }, index) => [
      recipient,
      {
        outcome,
        code,
        at: event.recorded_at,
        server: replies?.[index]?.server ?? null,
        reply: replies?.[index]?.reply ?? null,
      },
    ]),
  );
}

type Reply = Readonly<{ server: string | null; reply: string }>;
