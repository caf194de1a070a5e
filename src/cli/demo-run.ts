import { loadConfig } from '../config.ts';
import { type Api, openApi } from './api-client.ts';
import { CliError, unusable } from './command.ts';
import { actOn } from './demo-acts.ts';
import { openCorpus } from './demo-corpus.ts';
import { CONCURRENCY, importCorpus } from './demo-import.ts';
import { makeTraffic, makeVisitors, prepareDomains } from './demo-people.ts';
import { findHeld, lookAround, printSeen, type Seen } from './demo-report.ts';
import { startDemoSink } from './demo-sink.ts';
import { openMailSender } from './mail-sender.ts';
import { startProgress } from './progress.ts';
import { isOnThisMachine } from './server.ts';
import { say, type Terminal } from './terminal.ts';

type Wanted = Readonly<{ corpus: string | null; messages: number; isJson: boolean }>;

/** Fills the gateway of the settings, step by step, and prints what there is then. */
export async function runDemo(
  { corpus: given, messages, isJson }: Wanted,
  terminal: Terminal,
): Promise<void> {
  const config = loadConfig(terminal.env);
  const corpus = await openCorpus(given, config);
  const api = openApi(config, terminal);
  requireNear(api);
  const startedAt = performance.now();
  // Before anything is made: it tells whether this gateway is there, and takes mail at all.
  const sender = await openMailSender(config, terminal, CONCURRENCY);
  const sink = await startDemoSink();
  let seen: Seen;
  try {
    await say(terminal, `Mails from ${corpus.folder}; SMTP server on ${sink.address}.`);
    const domains = await prepareDomains(api, sink.address);
    const visitors = await makeVisitors(api, domains, new Date());
    const importing = startProgress(terminal, 'Importing');
    const { mails, ...imported } = await importCorpus(
      { corpus, messages, domains, sender },
      importing,
    ).finally(importing.end);
    if (mails.length === 0) throw new CliError(`Nothing in ${corpus.folder} could be imported.`);
    const heldIds = await findHeld(api, domains);
    const held = mails.filter(({ id }) => heldIds.has(id));
    const acting = startProgress(terminal, 'Releasing and discarding');
    const people = { ...visitors, domains };
    const acts = await actOn(held, people, { terminal, progress: acting }).finally(acting.end);
    const messageIds = mails.map(({ id }) => id);
    const all = await makeTraffic(api, visitors, { domains, messageIds });
    const done = { sink, domains, visitors: all, config, imported, acts, startedAt };
    seen = await lookAround(api, { corpus: corpus.folder, ...done });
  } finally {
    sender.close();
    await sink.stop();
  }
  await printSeen(terminal, seen, isJson);
}

/** The gateway has to reach an SMTP server on this machine; and one at work is no place for a demo. */
function requireNear({ url }: Api): void {
  if (isOnThisMachine(url)) return;
  throw unusable('The demo is for a gateway on this machine.');
}
