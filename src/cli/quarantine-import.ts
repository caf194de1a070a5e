import { loadConfig } from '../config.ts';
import { REASONS } from '../domain/quarantine-language.ts';
import { forEachBounded } from './bounded.ts';
import { CliError, type Command, EXIT, type Given, usageError } from './command.ts';
import type { ImportReport } from './import-report.ts';
import type { Wish } from './mail-envelope.ts';
import { findFiles, type LeftOut, nothingLeftOut, requireRoots } from './mail-files.ts';
import type { MailSender } from './mail-sender.ts';
import { type Progress, startProgress } from './progress.ts';
import { CALLER } from './settings.ts';
import { clean, say, type Terminal } from './terminal.ts';

const CONCURRENCY_DEFAULT = 16;
const CONCURRENCY_MAX = 64;
/** Bytes of messages that are under way at a time. */
const UNDER_WAY_BYTES_MAX = 67_108_864;
const SCORE = /^[+-]?\d{1,6}(?:\.\d{1,6})?$/;

export const quarantineImport: Command = {
  name: 'quarantine import',
  summary: 'Put raw mail from files into the quarantine.',
  description: [
    'Every file is taken for one message, or for the messages of a mailbox file (mbox). Folders are',
    'walked through; hidden files and symbolic links in them are left out. Without --recipient and',
    '--sender the envelope is that of Delivered-To, else X-Original-To, else To, and of Return-Path,',
    'else From; nothing else that a message says of itself is believed.',
    'A message that was imported within the last 24 hours, with the same envelope, is not imported',
    'again: an import that was cut can simply be repeated.',
  ],
  parameters: ['DIR|FILE…'],
  options: {
    recipient: {
      value: 'ADDR',
      repeatable: true,
      help: 'Who it was for; may be given several times.',
    },
    sender: { value: 'ADDR', help: 'Who sent it; "<>" for the null sender.' },
    score: { value: 'N', help: 'What a filter made of it; without it: nobody has looked.' },
    reason: { value: 'R', help: `Why it is held: ${REASONS.join(', ')}.` },
    concurrency: {
      value: 'N',
      help: `Messages under way at a time, 1 to ${CONCURRENCY_MAX} (${CONCURRENCY_DEFAULT}).`,
    },
    json: { help: 'Print JSON, with every refusal in it.' },
  },
  environment: CALLER,
  exits: {
    0: 'done, nothing was refused',
    1: 'something was refused; standard output says what and why',
    2: 'wrongly used, there is no gateway, or its mail is held by Postfix',
  },
  run: runImport,
};

async function runImport(given: Given, terminal: Terminal): Promise<number> {
  const wish = await wishOf(given);
  const concurrency = concurrencyOf(given);
  const config = loadConfig(terminal.env);
  await requireRoots(given.parameters);
  const [{ openMailSender }, { startReport }] = await Promise.all([
    import('./mail-sender.ts'),
    import('./import-report.ts'),
  ]);
  const sender = await openMailSender(config, terminal, concurrency);
  const report = startReport(terminal, given.has('json'));
  const leftOut = nothingLeftOut();
  const startedAt = performance.now();
  const progress = startProgress(terminal, 'Importing');
  const means = { sender, report, progress, terminal };
  const stop = await importAll({ roots: given.parameters, leftOut, wish, concurrency }, means)
    .then(() => null)
    .catch((error: unknown) => stopOf(error, terminal))
    .finally(() => {
      progress.end();
      sender.close();
    });
  const seconds = (performance.now() - startedAt) / 1_000;
  await report.end({ seconds, leftOut, stopped: stop?.why ?? null });
  if (stop === null) return report.refused() === 0 ? EXIT.done : EXIT.failed;
  await say(terminal, `error: ${stop.why}\nRun it again: nothing is imported twice.`);
  return stop.exitCode;
}

/** How an import ends before its time; anything else that is thrown is a bug. */
function stopOf(error: unknown, { signal }: Terminal): { why: string; exitCode: number } {
  if (signal.aborted) return { why: 'interrupted', exitCode: EXIT.interrupted };
  if (!(error instanceof CliError)) throw error;
  return { why: error.message, exitCode: error.exitCode };
}

type Task = Readonly<{
  roots: readonly string[];
  leftOut: LeftOut;
  wish: Wish;
  concurrency: number;
}>;
type Means = Readonly<{
  sender: MailSender;
  report: ImportReport;
  progress: Progress;
  terminal: Terminal;
}>;

async function importAll({ roots, leftOut, wish, concurrency }: Task, means: Means): Promise<void> {
  const { sender, report, progress, terminal } = means;
  const [{ readMails }, { envelopeOf }] = await Promise.all([
    import('./mail-reader.ts'),
    import('./mail-envelope.ts'),
  ]);
  const total = countFiles(roots, terminal);
  let files = 0;
  async function* mails() {
    for await (const file of findFiles(roots, leftOut)) {
      yield* readMails(file, sender.bytesMax);
      files += 1;
      terminal.signal.throwIfAborted();
    }
  }
  const bounds = {
    concurrency,
    weigh: (mail: object) => ('bytes' in mail ? (mail.bytes as Buffer).length : 0),
    weightMax: UNDER_WAY_BYTES_MAX,
  };
  await forEachBounded(mails(), bounds, async (mail) => {
    const read = 'refusal' in mail ? mail : envelopeOf(mail.bytes, wish);
    if ('refusal' in read) await report.refuse(mail.place, read.refusal);
    else if ('bytes' in mail) {
      const sent = await sender.send({ bytes: mail.bytes, envelope: read.envelope });
      if (sent.outcome === 'refused') await report.refuse(mail.place, sent.refusal);
      else report.add(sent.outcome);
    }
    progress.update(files, total.files());
  });
}

/** How many files there are, once that is known, for a person who watches. */
function countFiles(roots: readonly string[], terminal: Terminal) {
  let known: number | null = null;
  async function walk() {
    let files = 0;
    for await (const _ of findFiles(roots, nothingLeftOut())) {
      files += 1;
      terminal.signal.throwIfAborted();
    }
    known = files;
  }
  // Without the number the bar only lacks its end.
  if (terminal.stderr.isTTY === true) walk().catch(() => undefined);
  return { files: () => known };
}

async function wishOf(given: Given): Promise<Wish> {
  const { isAddress } = await import('./mail-envelope.ts');
  const recipients = given.texts('recipient');
  const sender = given.text('sender');
  const score = given.text('score');
  const reason = given.text('reason');
  const wrong = [...recipients, ...(sender === null || sender === '<>' ? [] : [sender])].find(
    (address) => !isAddress(address),
  );
  if (wrong !== undefined) throw refused(`"${clean(wrong)}" is no mail address`);
  if (score !== null && !SCORE.test(score)) throw refused('--score takes a number');
  if (reason !== null && !(REASONS as readonly string[]).includes(reason)) {
    throw refused(`--reason is one of ${REASONS.join(', ')}`);
  }
  return {
    recipients: recipients.length === 0 ? null : recipients,
    sender: sender === '<>' ? '' : sender,
    score: score === null ? null : Number(score),
    reason,
  };
}

function concurrencyOf(given: Given): number {
  const text = given.text('concurrency') ?? String(CONCURRENCY_DEFAULT);
  if (/^[1-9]\d?$/.test(text) && Number(text) <= CONCURRENCY_MAX) return Number(text);
  throw refused(`--concurrency takes 1 to ${CONCURRENCY_MAX}`);
}

const refused = (message: string) => usageError(message, quarantineImport.name);
