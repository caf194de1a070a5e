import type { Told } from './api-client.ts';
import { forEachBounded } from './bounded.ts';
import { CliError } from './command.ts';
import type { DemoMail } from './demo-import.ts';
import { type DemoDomain, dataOf, type Visitor } from './demo-people.ts';
import type { Progress } from './progress.ts';
import type { Terminal } from './terminal.ts';

/** How often each thing was done, and with which outcome. */
export type Acts = Readonly<{
  previewed: number;
  retrained: Readonly<Record<string, number>>;
  released: Readonly<Record<string, number>>;
  discarded: Readonly<Record<string, number>>;
  bulk: Readonly<{ dry_run: Counts; real: Counts; job_id: string }>;
}>;
type Counts = Readonly<Record<string, number>>;

const AT_A_TIME = 4;
const PREVIEWS = 6;
const RETRAININGS_EACH = 3;
const RELEASED_PART = 0.1;
const RELEASES_MAX = 40;
const DISCARDED_PART = 0.1;
const DISCARDS_MAX = 60;
const POLL_MS = 200;
const POLLS_MAX = 300;

type People = Readonly<{ desk: Visitor; admin: Visitor; domains: readonly DemoDomain[] }>;

/** Works on held mail as people at a quarantine desk do. What is asked for here must be granted. */
export async function actOn(
  held: readonly DemoMail[],
  { desk, admin, domains }: People,
  { terminal, progress }: Readonly<{ terminal: Terminal; progress: Progress }>,
): Promise<Acts> {
  const ham = held.filter(({ isSpam }) => !isSpam);
  const spam = held.filter(({ isSpam }) => isSpam);
  const toRelease = firstPart(
    ham.length > 0 ? ham : spam,
    held.length * RELEASED_PART,
    RELEASES_MAX,
  );
  const chosen = new Set(toRelease);
  const rest = spam.filter((mail) => !chosen.has(mail));
  const toDiscard = firstPart(rest, held.length * DISCARDED_PART, DISCARDS_MAX);
  const kept = rest.slice(toDiscard.length);
  const total = toRelease.length + toDiscard.length;
  let done = 0;
  const act = async (mails: readonly DemoMail[], action: string, bodyOf: BodyOf) => {
    const outcomes = new Map<string, number>();
    const bounds = { concurrency: AT_A_TIME, weigh: () => 1, weightMax: AT_A_TIME };
    await forEachBounded(mails.entries(), bounds, async ([index, mail]) => {
      const body = bodyOf(mail, index);
      const told = await ask(desk, mail, { action, ...(body === null ? {} : { body }) });
      add(outcomes, outcomeOf(told));
      done += 1;
      progress.update(done, total);
    });
    return Object.fromEntries(outcomes);
  };
  const retrained = new Map<string, number>();
  for (const { id, isSpam } of [
    ...firstPart(toRelease, RETRAININGS_EACH),
    ...firstPart(kept, RETRAININGS_EACH),
  ]) {
    const body = { class: isSpam ? 'spam' : 'ham' };
    const told = await ask(desk, { id }, { action: 'retrain', body });
    const { outcome } = dataOf(told) as { outcome: string | null };
    add(retrained, outcome ?? 'under_way');
  }
  const previewed = firstPart([...toRelease.slice(0, PREVIEWS / 2), ...kept], PREVIEWS);
  for (const { id } of previewed) {
    dataOf(await desk.ask({ method: 'GET', path: `/mail/quarantine/messages/${id}/preview` }));
  }
  const released = await act(toRelease, 'release', ({ sender }, index) =>
    index === 0 && sender !== '' ? { allow_sender: { scope: 'recipient' } } : null,
  );
  const discarded = await act(toDiscard, 'discard', ({ sender }, index) =>
    index === 0 && sender !== ''
      ? { block_sender: { scope: 'mail_domain' }, reason: 'demo' }
      : null,
  );
  await blockSender(admin, { domains, mails: kept });
  return {
    previewed: previewed.length,
    retrained: Object.fromEntries(retrained),
    released,
    discarded,
    bulk: await discardInBulk(desk, domains[1]?.name ?? '', terminal),
  };
}

type BodyOf = (mail: DemoMail, index: number) => object | null;

const firstPart = (mails: readonly DemoMail[], wanted: number, max = wanted): readonly DemoMail[] =>
  mails.slice(0, Math.min(Math.ceil(wanted), max));

function ask(
  visitor: Visitor,
  { id }: Pick<DemoMail, 'id'>,
  { action, body }: Readonly<{ action: string; body?: object }>,
): Promise<Told> {
  const path = `/mail/quarantine/messages/${id}/${action}`;
  return visitor.ask({ method: 'POST', path, ...(body === undefined ? {} : { body }) });
}

/** The state that the message is in now; `release_failed` is an outcome as well. */
function outcomeOf({ status, data, error, message }: Told): string {
  const { state } = (data ?? {}) as { state?: string };
  if (state !== undefined && (status < 300 || status === 409)) return state;
  throw new CliError(`${error ?? String(status)}: ${message}`);
}

const add = (counts: Map<string, number>, what: string) =>
  counts.set(what, (counts.get(what) ?? 0) + 1);

/** A filter by itself, of the first mail domain, against a sender seen in it. */
async function blockSender(
  admin: Visitor,
  { domains, mails }: Readonly<{ domains: readonly DemoDomain[]; mails: readonly DemoMail[] }>,
): Promise<void> {
  const [north] = domains;
  const unwanted = mails.find((mail) => mail.domainId === north?.id && mail.sender !== '');
  if (north === undefined || unwanted === undefined) return;
  const { sender } = unwanted;
  const body = { kind: 'block', scope: 'mail_domain', mail_domain: north.name, sender };
  dataOf(await admin.ask({ method: 'POST', path: '/sender-filters', body }));
}

type Job = Readonly<{ job_id: string; state: string; counts: Counts }>;

/** First a dry run, then the same in earnest. */
async function discardInBulk(desk: Visitor, domain: string, terminal: Terminal) {
  const filter = { domain, reason: 'virus,phishing' };
  const run = async (isDry: boolean): Promise<Job> => {
    const body = { action: 'discard', filter, dry_run: isDry, reason: 'demo: bulk' };
    const told = await desk.ask({ method: 'POST', path: '/mail/quarantine/bulk', body });
    const { job_id: id } = dataOf(told) as Job;
    for (let polls = 0; polls < POLLS_MAX; polls += 1) {
      const job = await desk.ask({ method: 'GET', path: `/mail/quarantine/bulk/${id}` });
      const now = dataOf(job) as Job;
      if (now.state !== 'running') return now;
      await terminal.pause(POLL_MS);
    }
    throw new CliError(`The bulk job ${id} does not end.`);
  };
  const dry = await run(true);
  const real = await run(false);
  return { dry_run: dry.counts, real: real.counts, job_id: real.job_id };
}
