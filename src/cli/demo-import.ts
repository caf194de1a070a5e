import { forEachBounded } from './bounded.ts';
import type { Corpus, CorpusFile } from './demo-corpus.ts';
import { type Verdict, verdictOn } from './demo-mail.ts';
import type { DemoDomain } from './demo-people.ts';
import { envelopeOf, type MailEnvelope } from './mail-envelope.ts';
import { type RawMail, readMails } from './mail-reader.ts';
import type { MailSender } from './mail-sender.ts';
import type { Progress } from './progress.ts';

/** A mail that the demo has put into the quarantine. */
export type DemoMail = Readonly<{
  id: string;
  sender: string;
  domainId: number;
  isSpam: boolean;
}>;

export type DemoImport = Readonly<{
  /** In the order of the corpus, whatever the order of the answers was. */
  mails: readonly DemoMail[];
  imported: number;
  already_there: number;
  refused: Readonly<Record<string, number>>;
}>;

/** Messages under way at a time. */
export const CONCURRENCY = 16;
const UNDER_WAY_BYTES_MAX = 67_108_864;

type Task = Readonly<{
  corpus: Corpus;
  messages: number;
  domains: readonly DemoDomain[];
  sender: MailSender;
}>;

/** Hands the first mails of the corpus in, each for people of one of the mail domains. */
export async function importCorpus(
  { corpus, messages, domains, sender }: Task,
  progress: Progress,
): Promise<DemoImport> {
  const mails: (DemoMail & { place: number })[] = [];
  const refused: Record<string, number> = {};
  const counts = { imported: 0, already_there: 0 };
  const chosen = chooseMails(corpus.files, { messages, domains, sender });
  const bounds = {
    concurrency: CONCURRENCY,
    weigh: ({ bytes }: ChosenMail) => bytes.length,
    weightMax: UNDER_WAY_BYTES_MAX,
  };
  await forEachBounded(chosen, bounds, async ({ bytes, envelope, ...mail }) => {
    const sent = await sender.send({ bytes, envelope });
    if (sent.outcome === 'refused') {
      refused[sent.refusal.reason] = (refused[sent.refusal.reason] ?? 0) + 1;
    } else {
      counts[sent.outcome] += 1;
      const { id } = sent.item as { id: string };
      mails.push({ id, sender: envelope.sender, ...mail });
    }
    progress.update(mails.length, Math.min(messages, corpus.files.length));
  });
  return { mails: mails.sort((a, b) => a.place - b.place), ...counts, refused };
}

type ChosenMail = Readonly<{
  bytes: Buffer;
  envelope: MailEnvelope;
  place: number;
  domainId: number;
  isSpam: boolean;
}>;

async function* chooseMails(
  files: readonly CorpusFile[],
  {
    messages,
    domains,
    sender,
  }: Readonly<{ messages: number; domains: readonly DemoDomain[]; sender: MailSender }>,
): AsyncGenerator<ChosenMail> {
  let place = 0;
  for (const { path, isSpam } of files) {
    for await (const mail of readMails({ path, problem: null }, sender.bytesMax)) {
      if (place === messages) return;
      const chosen = 'bytes' in mail ? toChosen(mail, isSpam, domains) : null;
      // Whatever else lies in the folder.
      if (chosen === null) continue;
      yield { ...chosen, place };
      place += 1;
    }
  }
}

function toChosen({ bytes }: RawMail, isSpam: boolean, domains: readonly DemoDomain[]) {
  const verdict = verdictOn(bytes, isSpam);
  const domain = domains[verdict.domain % domains.length];
  const read = domain === undefined ? null : envelopeOf(bytes, wishFor(domain, verdict));
  if (domain === undefined || read === null || 'refusal' in read) return null;
  const envelope = { ...read.envelope, symbols: verdict.symbols };
  return { bytes, envelope, domainId: domain.id, isSpam };
}

const wishFor = ({ name }: DemoDomain, { to, score, reason }: Verdict) => ({
  sender: null,
  recipients: to.map((person) => `${person}@${name}`),
  score,
  reason,
});
