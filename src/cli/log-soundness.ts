import type pg from 'pg';
import { utc } from '../clock.ts';
import { type Findings, openFindings, type Problem } from './findings.ts';
import { type EventRow, type LineFacts, verifyDisclosures, verifyRow } from './line-soundness.ts';
import { verifyNames } from './names-soundness.ts';

/** What `log verify` found. */
export type Verdict = Readonly<{
  ok: boolean;
  events: number;
  streams: number;
  disclosures: number;
  head: string;
  problems: readonly Problem[];
}>;

type Options = Readonly<{
  /** How far a read model had applied the log before this began: the log cannot end before. */
  appliedTo: bigint;
  onProgress: (done: number, total: number) => void;
  signal: AbortSignal;
}>;

/** Events held at once, with what is beside them: a line has at most 64 KiB, and mostly one. */
const SEGMENT_EVENTS = 1_000;
const STRAYS_MAX = 100;

/** Where the walk is. `revisions` is the one thing that grows: by a number for each stream. */
type Walk = {
  readonly db: pg.ClientBase;
  readonly findings: Findings;
  readonly revisions: Map<string, number>;
  readonly mailDomains: readonly string[];
  /** Positions before it were archived, and with them the beginnings of streams. */
  readonly minimum: bigint;
  position: bigint;
  recordedAt: string;
  events: number;
  disclosures: number;
};

/**
 * Reads the whole log once, in segments, and compares everything that it says twice. Changes nothing,
 * and works while a gateway appends: it goes up to the head of its start.
 */
export async function verifyLog(
  db: pg.ClientBase,
  options: Options,
): Promise<{ verdict: Verdict; findings: Findings }> {
  await db.query('set default_transaction_read_only = on');
  const { minimum, head } = await readBounds(db);
  const findings = openFindings();
  const walk: Walk = {
    db,
    findings,
    revisions: new Map(),
    mailDomains: await listMailDomains(db),
    minimum,
    position: minimum - 1n,
    recordedAt: '',
    events: 0,
    disclosures: 0,
  };
  for (;;) {
    options.signal.throwIfAborted();
    const rows = await readEvents(walk, head);
    if (rows.length === 0) break;
    await verifySegment(walk, rows);
    options.onProgress(walk.events, Number(head - minimum) + 1);
  }
  if (options.appliedTo > head) {
    findings.add('head', head, `a read model has applied the log to ${options.appliedTo}`);
  }
  await findStrays(walk);
  walk.disclosures += await verifyNames(db, findings, options.signal);
  const problems = findings.problems();
  const verdict = {
    ok: problems.length === 0,
    events: walk.events,
    streams: walk.revisions.size,
    disclosures: walk.disclosures,
    head: head.toString(),
    problems,
  };
  return { verdict, findings };
}

async function verifySegment(walk: Walk, rows: readonly EventRow[]): Promise<void> {
  const { db, findings } = walk;
  const range = [walk.position, BigInt(rows.at(-1)?.position ?? 0)] as const;
  const personal = await readPersonal(db, range);
  const mailDomains = await readMailDomains(walk, range);
  const lines = new Map<string, { eventId: string; facts: LineFacts | null }>();
  for (const row of rows) {
    const position = BigInt(row.position);
    verifyPlace(walk, row);
    const facts = verifyRow(row, (damage, detail) => findings.add(damage, position, detail));
    lines.set(row.position, { eventId: row.event_id, facts });
    if (facts !== null) {
      verifyMailDomains(findings, position, facts, mailDomains.get(row.position) ?? []);
    }
    mailDomains.delete(row.position);
    walk.events += 1;
  }
  for (const row of personal) walk.disclosures += verifyPersonal(findings, row, lines);
  // What is left has no event beside it.
  for (const [position, ids] of mailDomains) {
    findings.add('mail_domain', BigInt(position), `mail domain ${ids.join(', ')}, but no event`);
  }
}

/** Position, revision and time go on from the event before. */
function verifyPlace(walk: Walk, row: EventRow): void {
  const { findings, revisions } = walk;
  const position = BigInt(row.position);
  const expected = walk.position + 1n;
  if (position > expected) {
    const last = position - 1n;
    const which = last === expected ? `${last} is` : `${expected} to ${last} are`;
    findings.add('gap', expected, `${which} missing`);
  }
  walk.position = position;
  const revision = Number(row.revision);
  const before = revisions.get(row.stream);
  const begins = walk.minimum > 1n ? revision : 0;
  const wanted = before === undefined ? begins : before + 1;
  if (revision !== wanted) {
    findings.add('stream', position, `revision ${revision} of ${row.stream}, not ${wanted}`);
  }
  revisions.set(row.stream, revision);
  if (row.recorded_at < walk.recordedAt) {
    findings.add('time', position, `recorded at ${row.recorded_at}, after ${walk.recordedAt}`);
  }
  walk.recordedAt = row.recorded_at;
}

function verifyMailDomains(
  findings: Findings,
  position: bigint,
  { mailDomains }: LineFacts,
  beside: readonly string[],
): void {
  const inLine = [...new Set(mailDomains.map(String))].sort().join();
  const inTable = [...beside].sort().join();
  if (inLine === inTable) return;
  findings.add('mail_domain', position, `the line has [${inLine}], the index [${inTable}]`);
}

type PersonalRow = Readonly<{
  position: string;
  event_id: string;
  lists: readonly (string | null)[];
}>;

/** Returns how many disclosures there are. */
function verifyPersonal(
  findings: Findings,
  row: PersonalRow,
  lines: ReadonlyMap<string, { eventId: string; facts: LineFacts | null }>,
): number {
  const position = BigInt(row.position);
  const line = lines.get(row.position);
  if (line?.eventId !== row.event_id) {
    findings.add('disclosure', position, `disclosures of event ${row.event_id} do not belong here`);
    return 0;
  }
  const { facts } = line;
  // What is wrong with a line that cannot be read has been said.
  if (facts === null) return 0;
  let disclosures = 0;
  for (const list of row.lists) {
    if (list === null) continue;
    disclosures += verifyDisclosures(list, facts.digests, (damage, detail) =>
      findings.add(damage, position, detail),
    );
  }
  return disclosures;
}

/** Rows beside the log that belong to no position of it. */
async function findStrays({ db, findings, mailDomains }: Walk): Promise<void> {
  const beyond = 'position > (select coalesce(max(e.position), 0) from eventlog.events e)';
  const personal = await db.query<{ position: string | null; event_id: string }>(
    `select position, event_id from eventlog.event_personal
     where position is null or ${beyond} order by position limit $1`,
    [STRAYS_MAX],
  );
  for (const { position, event_id } of personal.rows) {
    const at = position === null ? null : BigInt(position);
    findings.add('disclosure', at, `disclosures of event ${event_id}, which is not in the log`);
  }
  const indexed = await db.query<{ position: string; mail_domain: string }>(
    `select position, mail_domain from eventlog.event_mail_domains
     where mail_domain = any($1::bigint[]) and ${beyond} order by position limit $2`,
    [mailDomains, STRAYS_MAX],
  );
  for (const { position, mail_domain } of indexed.rows) {
    findings.add('mail_domain', BigInt(position), `mail domain ${mail_domain}, but no event`);
  }
}

type Range = readonly [after: bigint, upTo: bigint];

async function readBounds(db: pg.ClientBase): Promise<{ minimum: bigint; head: bigint }> {
  const { rows } = await db.query<{ minimum_position: string; head: string }>(
    `select i.minimum_position,
            coalesce((select max(position) from eventlog.events), i.minimum_position - 1) as head
     from eventlog.log_info i`,
  );
  return { minimum: BigInt(rows[0]?.minimum_position ?? 1), head: BigInt(rows[0]?.head ?? 0) };
}

// By position as a key, not by ranges of it: a position that someone made up must not make us look
// through all that lie before it.
async function readEvents({ db, position }: Walk, head: bigint): Promise<readonly EventRow[]> {
  const { rows } = await db.query<EventRow>(
    `select position, revision, event_id, stream, type, actor, resource, line,
            ${utc('recorded_at')} as recorded_at
     from eventlog.events where position > $1 and position <= $2 order by position limit $3`,
    [position, head, SEGMENT_EVENTS],
  );
  return rows;
}

async function readPersonal(
  db: pg.ClientBase,
  [after, upTo]: Range,
): Promise<readonly PersonalRow[]> {
  const { rows } = await db.query<(string | null)[]>({
    text: `select position, event_id, identity, network, content
           from eventlog.event_personal where position > $1 and position <= $2 order by position`,
    values: [after, upTo],
    rowMode: 'array',
  });
  return rows.map(([position, eventId, ...lists]) => ({
    position: position ?? '0',
    event_id: eventId ?? '',
    lists,
  }));
}

/** Mail domains by position. The table is indexed by mail domain first, so each is asked for. */
async function readMailDomains(
  { db, mailDomains }: Walk,
  [after, upTo]: Range,
): Promise<Map<string, string[]>> {
  const { rows } = await db.query<{ position: string; mail_domain: string }>(
    `select position, mail_domain from eventlog.event_mail_domains
     where mail_domain = any($1::bigint[]) and position > $2 and position <= $3`,
    [mailDomains, after, upTo],
  );
  const byPosition = new Map<string, string[]>();
  for (const { position, mail_domain } of rows) {
    byPosition.set(position, [...(byPosition.get(position) ?? []), mail_domain]);
  }
  return byPosition;
}

/** Every mail domain in the index, by hopping along it. */
async function listMailDomains(db: pg.ClientBase): Promise<readonly string[]> {
  const { rows } = await db.query<{ mail_domain: string }>(`
    with recursive hop as (
      (select mail_domain from eventlog.event_mail_domains order by mail_domain limit 1)
      union all
      select (select d.mail_domain from eventlog.event_mail_domains d
              where d.mail_domain > hop.mail_domain order by d.mail_domain limit 1)
      from hop where hop.mail_domain is not null
    )
    select mail_domain from hop where mail_domain is not null`);
  return rows.map(({ mail_domain }) => mail_domain);
}
