import type pg from 'pg';
import { digestOf, openDisclosure } from '../eventlog/personal.ts';
import type { Findings } from './findings.ts';
import { digestsOf, parseLine, parseList } from './line-soundness.ts';

const PAGE_SUBJECTS = 500;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

type NameRow = Readonly<{
  subject: string;
  name: string;
  key_prefix: string | null;
  disclosures: Readonly<Record<string, string>>;
}>;
type Naming = Readonly<{ position: bigint; resource: string; digests: ReadonlySet<string> }>;

/**
 * Checks the names that readers are shown: each disclosure was committed by the event it is kept for,
 * and the names are what the latest of them disclose. Returns how many disclosures there are.
 */
export async function verifyNames(
  db: pg.ClientBase,
  findings: Findings,
  signal: AbortSignal,
): Promise<number> {
  let disclosures = 0;
  let after = '';
  for (;;) {
    signal.throwIfAborted();
    const rows = await readNames(db, after);
    const last = rows.at(-1);
    if (last === undefined) return disclosures;
    after = last.subject;
    const namings = await readNamings(
      db,
      rows.flatMap((row) => Object.keys(row.disclosures)),
    );
    for (const row of rows) disclosures += verifySubject(row, namings, findings);
  }
}

function verifySubject(
  row: NameRow,
  namings: ReadonlyMap<string, Naming>,
  findings: Findings,
): number {
  let disclosures = 0;
  const shown = new Map<string, { position: bigint; value: unknown }>();
  for (const [eventId, list] of Object.entries(row.disclosures)) {
    const naming = namings.get(eventId);
    if (naming === undefined || naming.resource !== row.subject) {
      const at = naming?.position ?? null;
      findings.add('disclosure', at, `${row.subject} has names of event ${eventId}, not its own`);
      continue;
    }
    for (const disclosure of parseList(list) ?? ['']) {
      disclosures += 1;
      if (!naming.digests.has(digestOf(disclosure))) {
        const detail = `${digestOf(disclosure)}, a name of ${row.subject}, is not in its line`;
        findings.add('disclosure', naming.position, detail);
        continue;
      }
      const { name, value } = openDisclosure(disclosure);
      const known = shown.get(name);
      if (known === undefined || known.position < naming.position) {
        shown.set(name, { position: naming.position, value });
      }
    }
  }
  for (const member of ['name', 'key_prefix'] as const) {
    const disclosed = shown.get(member);
    if ((disclosed?.value ?? null) === row[member]) continue;
    const at = disclosed?.position ?? null;
    findings.add('name', at, `the ${member} of ${row.subject} is not the one that was recorded`);
  }
  return disclosures;
}

async function readNames(db: pg.ClientBase, after: string): Promise<readonly NameRow[]> {
  const { rows } = await db.query<NameRow>(
    `select subject, name, key_prefix, disclosures from eventlog.subject_names
     where subject > $1 order by subject limit $2`,
    [after, PAGE_SUBJECTS],
  );
  return rows;
}

// Names and event commit together, so whoever has read the names finds the event.
async function readNamings(
  db: pg.ClientBase,
  eventIds: readonly string[],
): Promise<ReadonlyMap<string, Naming>> {
  const { rows } = await db.query<{
    event_id: string;
    position: string;
    resource: string;
    line: string;
  }>(
    `select event_id, position, resource, line from eventlog.events
     where event_id = any($1::uuid[])`,
    [eventIds.filter((id) => UUID.test(id))],
  );
  return new Map(
    rows.map(({ event_id, position, resource, line }) => {
      const event = parseLine(line);
      const digests = event === null ? new Set<string>() : digestsOf(event);
      return [event_id, { position: BigInt(position), resource, digests }] as const;
    }),
  );
}
